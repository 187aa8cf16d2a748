#!/usr/bin/env bash
# Starts a command on every worker of a TPU, in a tmux session that outlives the connection.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: $SCRIPT --name NAME [options] -- COMMAND [ARGUMENT ...]

Starts COMMAND on all workers at once, each in a tmux session, and returns. The arguments reach
it exactly as given. It runs in ~/pagnol, its output goes to ~/pagnol/session/log (logs.sh), its
exit status to ~/pagnol/session/exit_status. Refused while a run is under way.

  --env NAME=VALUE     set a variable for the command; may be repeated
  --env NAME           the same, with the value it has here (of a name with KEY, TOKEN, SECRET or
                       PASSWORD in it --dry-run prints ***)
$COMMON_OPTIONS

Several slices (--node-count) find each other through what a queued resource tells its VMs; where
it tells nothing, the MEGASCALE_* variables are set.

Exit status: 0 started, 1 a command failed, 2 bad usage, 3 a run is under way.

example:
  $SCRIPT --name my-tpu --project my-project --zone us-central1-a \\
      --env PAGNOL_CACHE=gs://my-bucket/cache -- \\
      pagnol train --gin_file gin/runs/pagnol_s.gin --run_dir gs://my-bucket/runs/s
TEXT
}

LIST+=([env]=yes)

# The command with its variables, as words for `env`.
with_variables() {
  local variable name words=()
  for variable in "${VALUES[@]}"; do
    name=${variable%%=*}
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || bad_usage "--env $variable: not a variable's name"
    if [[ $variable != *=* ]]; then
      [[ ${!name+set} ]] || bad_usage "--env $name: not set here; give --env $name=VALUE"
      variable=$name=${!name}
      [[ ! $name =~ KEY|TOKEN|SECRET|PASSWORD ]] || ! dry_run || variable="$name=***"
    fi
    words+=("$variable")
  done
  if ((${#words[@]})); then COMMAND=(env "${words[@]}" "${COMMAND[@]}"); fi
}

refuse_twice() {
  local states
  if dry_run; then
    echo "# refused if a worker answers \"running\":"
    worker_states
    return
  fi
  states=$(worker_states) || die "not every worker of ${OPTION[name]} answers"
  ! grep -q '^running' <<<"$states" || die "a run is under way: stop.sh stops it" 3
}

coordinator() {
  run gcloud compute tpus tpu-vm describe "${NODES[0]}" "${WHERE[@]}" '--format=value(networkEndpoints[0].ipAddress)'
}

start_all() {
  local i address=ADDRESS slice=()
  if ((${#NODES[@]} > 1)) && dry_run; then
    echo "# ADDRESS below is the answer to:"
    coordinator
  elif ((${#NODES[@]} > 1)); then
    address=$(coordinator) && [[ $address ]] || die "the address of ${NODES[0]} is not known"
  fi
  for ((i = 0; i < ${#NODES[@]}; i++)); do
    if ((${#NODES[@]} > 1)); then slice=(--slice "$address" "${#NODES[@]}" "$i"); fi
    on_worker "${NODES[i]}" all "$(quote bash pagnol/worker.sh start "${slice[@]}" -- "${COMMAND[@]}")" ||
      die "the command could not be started on every worker of ${NODES[i]}: see status.sh"
  done
}

parse "$@"
check_common
((${#COMMAND[@]})) || bad_usage "no command: give it after --, as in -- pagnol train --gin_file gin/runs/pagnol_s.gin"
with_variables
refuse_twice
start_all
