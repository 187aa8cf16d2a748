#!/usr/bin/env bash
# Says how a TPU and the run on it are.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: $SCRIPT --name NAME [options]

Prints the state of the queued resource and, where it is ACTIVE, of the run on each worker:
running, "exited N", stopped (by stop.sh), lost (its VM went down under it) or fresh (nothing was
started yet).

$COMMON_OPTIONS

Exit status: 0 told, 1 a command failed or a worker does not answer, 2 bad usage.

example:
  $SCRIPT --name my-tpu --project my-project --zone us-central1-a
TEXT
}

parse "$@"
check_common
no_command
if dry_run; then
  queued describe '--format=value(state.state)'
  worker_states
  exit
fi
state=$(queue_state) || die "the state of ${OPTION[name]} cannot be read"
echo "${OPTION[name]}: $state"
[[ $state == ACTIVE ]] || exit 0
worker_states || die "not every worker of ${OPTION[name]} answers"
