#!/usr/bin/env bash
# Follows the output of a run.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: $SCRIPT --name NAME [options]

Follows the output of the run on one worker; Ctrl-C ends the following, not the run.

  --worker N           which worker (default: 0)
  --slice N            of which slice (default: 0)
  --lines N            so many lines of what is there already (default: 100)
  --no-follow          print them and end
$COMMON_OPTIONS

Exit status: 0 done, 1 a command failed, 2 bad usage.

example:
  $SCRIPT --name my-tpu --project my-project --zone us-central1-a --worker 3
TEXT
}

OPTION+=([worker]=0 [slice]=0 [lines]=100)
SWITCH+=([no-follow]='')
parse "$@"
check_common
no_command
for option in worker slice lines; do require_number "$option" '^[0-9]+$' "a whole number"; done
((OPTION[slice] < ${#NODES[@]})) || bad_usage "--slice ${OPTION[slice]}: there are ${#NODES[@]} (--node-count)"
follow=' -F'
[[ ! ${SWITCH[no-follow]} ]] || follow=''
on_worker "${NODES[OPTION[slice]]}" "${OPTION[worker]}" "tail -n ${OPTION[lines]}$follow pagnol/session/log" ||
  die "no output to be had from worker ${OPTION[worker]} of ${NODES[OPTION[slice]]}"
