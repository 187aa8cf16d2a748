#!/usr/bin/env bash
# Stops the run on a TPU; it saves a checkpoint first.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: $SCRIPT --name NAME [options]

Sends SIGTERM to the run on all workers and waits until it has saved its checkpoint. The TPU stays,
and costs (delete.sh). A supervisor that watches the run ends, too.

  --grace SECONDS      for the checkpoint, before the run is killed (default: 300)
$COMMON_OPTIONS

Exit status: 0 nothing runs any more, 1 a command failed, 2 bad usage.

example:
  $SCRIPT --name my-tpu --project my-project --zone us-central1-a
TEXT
}

OPTION+=([grace]=300)
parse "$@"
check_common
no_command
require_number grace '^[0-9]+$' "a whole number of seconds"
for node in "${NODES[@]}"; do
  on_worker "$node" all "[ ! -f pagnol/worker.sh ] || bash pagnol/worker.sh stop ${OPTION[grace]}" || die "$node could not be stopped"
done
