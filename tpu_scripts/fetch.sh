#!/usr/bin/env bash
# Brings the results of a run here.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: $SCRIPT --run-dir RUN_DIR --to FOLDER [options]

Copies a run folder here: from Cloud Storage (gs://...), or from the disk of a worker, where a
relative path starts at ~/pagnol. Without checkpoints, unless asked. Afterwards it is a run folder
like any other: pagnol scaling fit FOLDER and, with --checkpoints, pagnol generate --model FOLDER.

  --run-dir RUN_DIR    the --run_dir of the run
  --to FOLDER          where to put what is in it
  --checkpoints        the checkpoints, too
  --worker N           whose disk (default: 0)
$COMMON_OPTIONS
  (For gs:// only --run-dir and --to are needed.)

Exit status: 0 copied, 1 a command failed, 2 bad usage.

examples:
  $SCRIPT --run-dir gs://my-bucket/runs/s --to runs/s
  $SCRIPT --run-dir runs/s --to runs/s --name my-tpu --project my-project --zone us-central1-a
TEXT
}

OPTION+=([run-dir]='' [to]='' [worker]=0)
SWITCH+=([checkpoints]='')

from_storage() {
  local flags=(--recursive)
  [[ ${SWITCH[checkpoints]} ]] || flags+=('--exclude=^checkpoints/.*')
  dry_run || command -v gcloud >/dev/null || die "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
  run mkdir -p "${OPTION[to]}" &&
    run gcloud storage rsync "${flags[@]}" "${OPTION[run-dir]}" "${OPTION[to]}"
}

from_worker() {
  local pack
  pack="cd pagnol && tar -C $(quote "${OPTION[run-dir]}")"
  [[ ${SWITCH[checkpoints]} ]] || pack+=' --exclude=./checkpoints'
  pack+=' -czf - .'
  run mkdir -p "${OPTION[to]}" || return
  if dry_run; then
    on_worker "${NODES[0]}" "${OPTION[worker]}" "$pack" | sed '$s/$/ |/'
    show tar -xzf - -C "${OPTION[to]}"
  else
    on_worker "${NODES[0]}" "${OPTION[worker]}" "$pack" | tar -xzf - -C "${OPTION[to]}"
  fi
}

parse "$@"
no_command
[[ ${OPTION[run-dir]} ]] || bad_usage "no run folder: give --run-dir"
[[ ${OPTION[to]} ]] || bad_usage "no folder to copy to: give --to"
require_number worker '^[0-9]+$' "a whole number"
if [[ ${OPTION[run-dir]} == gs://* ]]; then
  from_storage || die "${OPTION[run-dir]} could not be copied"
else
  check_common
  from_worker || die "${OPTION[run-dir]} could not be copied from worker ${OPTION[worker]} of ${NODES[0]}"
fi
