#!/usr/bin/env bash
# Deletes a TPU: the queued resource and its VMs with their disks.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: $SCRIPT --name NAME [options]

Deletes the queued resource and its VMs. What lies on their disks is gone; what is in gs:// stays.

  --yes                do not ask before deleting
$COMMON_OPTIONS

Exit status: 0 there is no such resource any more, 1 gcloud failed, 2 bad usage.

example:
  $SCRIPT --name my-tpu --project my-project --zone us-central1-a
TEXT
}

SWITCH+=([yes]='')
parse "$@"
check_common
no_command
if ! dry_run; then
  state=$(queue_state) || die "the state of ${OPTION[name]} cannot be read"
  if [[ $state == NONE ]]; then
    say "${OPTION[name]}: there is no such resource"
    exit
  fi
  say "${OPTION[name]}: $state, in ${OPTION[zone]} of ${OPTION[project]}"
fi
confirm "Delete it, with the disks of its VMs?"
queued delete --force --quiet || die "gcloud could not delete ${OPTION[name]}"
