#!/usr/bin/env bash
# Keeps a run going on a TPU that may be taken away.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: $SCRIPT --name NAME --accelerator-type TYPE [options] -- COMMAND [ARGUMENT ...]

Creates the TPU if there is none, sets it up, starts COMMAND and watches. When the TPU is
preempted, suspended or fails, it is deleted and created again and the same COMMAND is started:
pagnol train goes on from its last checkpoint, so --run_dir should be in gs://. Ends when the run
has finished or failed by itself. Ctrl-C ends the watching, not the run; the same line takes it up
again.

  --max-restarts N     give up after so many (default: 20)
  --backoff SECONDS    before the first restart; doubles until the run is seen alive, to half an
                       hour at most (default: 30)
  --poll SECONDS       between looks at the TPU and the run (default: 60)
  --delete-at-end      delete the TPU when the run has finished or failed
  --yes                do not ask before creating for the first time
  --accelerator-type, --spot, --reserved, --runtime-version, --valid-until-duration,
  --price-per-chip-hour                      as in create.sh
  --checkout, --repository, --ref, --extras  as in setup.sh
  --env, --grace                             as in launch.sh and stop.sh
$COMMON_OPTIONS

Exit status: 0 the run has finished; its own exit status where it failed (2: bad input) or was
stopped by hand (143); 1 given up, or a command failed; 2 bad usage.

example:
  $SCRIPT --name my-tpu --project my-project --zone us-central1-a \\
      --accelerator-type v5litepod-16 --spot --delete-at-end -- \\
      pagnol train --gin_file gin/runs/pagnol_s.gin --run_dir gs://my-bucket/runs/s
TEXT
}

OPTION+=(
  [accelerator-type]='' [runtime-version]='' [valid-until-duration]='' [price-per-chip-hour]=''
  [checkout]='' [repository]='' [ref]='' [extras]='' [grace]=''
  [max-restarts]=20 [backoff]=30 [poll]=60
)
SWITCH+=([spot]='' [reserved]='' [yes]='' [delete-at-end]='')
LIST+=([env]=yes)
MAX_BACKOFF=1800
MAX_MISSES=3 # polls in a row in which a worker of an ACTIVE resource does not answer

log() { say "$(date '+%F %T') ${OPTION[name]}: $*"; }

# Calls a script of this folder with those of our options that are named, and with further arguments.
call() { # script, option names, arguments
  local name arguments=()
  for name in name project zone node-count node-prefix dry-run $2; do
    if [[ ${SWITCH[$name]-} ]]; then arguments+=("--$name"); fi
    if [[ ${OPTION[$name]-} ]]; then arguments+=("--$name=${OPTION[$name]}"); fi
  done
  "$HERE/$1" "${arguments[@]}" "${@:3}"
}

create() {
  call create.sh "accelerator-type spot reserved runtime-version valid-until-duration price-per-chip-hour poll" "$@"
}

set_up_and_start() {
  call setup.sh "checkout repository ref extras" && call launch.sh '' "${VALUES[@]/#/--env=}" -- "${COMMAND[@]}"
}

state() { queue_state || die "the state of ${OPTION[name]} cannot be read; what runs goes on, the same line takes it up"; }

# What the workers' states mean: running, done, stopped, failed N, interrupted, silent. pagnol train exits with 0 at its
# end, 2 on bad input, 143 after the checkpoint that SIGTERM asks for, 75 where another worker was lost.
verdict() { # states, did every worker answer
  local code
  code=$(sed -nE 's/^exited ([1-9][0-9]*) .*/\1/p' <<<"$1" | grep -vxE '143|75' | sort -n | head -n 1) || true
  if grep -q '^stopped ' <<<"$1"; then
    echo stopped
  elif [[ $code == 2 ]]; then
    echo "failed 2" # bad input stays bad
  elif grep -qE '^(lost|fresh|exited 143) ' <<<"$1"; then
    echo interrupted # and what crashed beside it crashed for that
  elif [[ $2 == no ]]; then
    echo silent
  elif [[ $code ]]; then
    echo "failed $code" # what the others lost
  elif grep -q '^exited 75 ' <<<"$1"; then
    echo interrupted
  elif grep -q '^running ' <<<"$1"; then
    echo running
  else
    echo "done"
  fi
}

finish() { # exit status, message
  log "$2"
  if (($1 != 0 && $1 != 143)); then
    on_worker "${NODES[0]}" 0 'tail -n 20 pagnol/session/log' 2>/dev/null || true
  fi
  if [[ ! ${SWITCH[delete-at-end]} ]]; then
    log "the TPU stays, and costs, until delete.sh"
  else
    call delete.sh '' --yes || log "could not be deleted: it costs until delete.sh succeeds"
  fi
  exit "$1"
}

restarts=0
streak=0
back_off() { # why
  local delay
  restarts=$((restarts + 1))
  ((restarts <= OPTION[max-restarts])) || finish 1 "$1; given up after ${OPTION[max-restarts]} restarts"
  delay=$(LC_ALL=C awk -v b="${OPTION[backoff]}" -v n="$streak" -v m="$MAX_BACKOFF" \
    'BEGIN {d = b * 2 ^ n; print d < m ? d : m}')
  streak=$((streak + 1))
  log "$1; restart $restarts of ${OPTION[max-restarts]} in $delay s"
  sleep "$delay"
}

# Brings the run back, on the same resource or a new one. Tries until it is started or back_off gives up.
recover() { # why, same or new
  local why=$1 resource=$2 now
  while :; do
    back_off "$why"
    if [[ $resource == new ]]; then
      call delete.sh '' --yes || { why="deleting failed" && continue; }
      create --yes || { why="creating failed" && continue; }
    else
      call stop.sh grace || true # what is left of a run that lost a worker
    fi
    if set_up_and_start; then return; fi
    why="starting failed"
    now=$(state)
    if [[ $now == ACTIVE ]]; then resource=same; else resource=new; fi
  done
}

# The first start. What fails here on a TPU that is there is the caller's error.
bring_up() {
  local now states status=0
  now=$(state)
  case $now in
    ACTIVE) ;;
    FAILED | SUSPENDING | SUSPENDED) recover "$now" new && return ;;
    NONE) create ${SWITCH[yes]:+--yes} || status=$? ;;
    *) wait_active || status=$? ;;
  esac
  ((status != 4)) || { recover "not to be had" new && return; }
  ((status == 0)) || exit "$status"
  states=$(worker_states) || true
  if grep -q '^running ' <<<"$states"; then
    log "a run is under way already: watching it"
    return
  fi
  set_up_and_start || status=$?
  ((status != 0)) || return 0
  now=$(state)
  [[ $now != ACTIVE ]] || finish "$status" "the run could not be started"
  recover "taken away while it was set up" new
}

watch() {
  local now states answered what last='' misses=0
  while sleep "${OPTION[poll]}"; do
    now=$(state)
    what=$now
    if [[ $now == ACTIVE ]]; then
      answered=yes
      states=$(worker_states) || answered=no
      what=$(verdict "$states" "$answered")
    fi
    [[ $what == "$last" ]] || log "$what"
    if [[ $what == silent ]]; then misses=$((misses + 1)); else misses=0; fi
    case $what in
      running) streak=0 ;;
      done) finish 0 "the run has finished" ;;
      stopped) finish 143 "the run was stopped by hand" ;;
      "failed 2") finish 2 "the run failed: bad input" ;;
      # A preemption may show in the workers before it shows in the state: look twice.
      failed*) [[ $what != "$last" ]] || finish "${what#failed }" "the run failed with exit status ${what#failed }" ;;
      interrupted) [[ $what != "$last" ]] || { recover "the run was interrupted" same && what=''; } ;;
      silent) ((misses < MAX_MISSES)) || { recover "workers do not answer" new && misses=0 what=''; } ;;
      FAILED | SUSPENDED) recover "$what" new && what='' ;;
      NONE) die "${OPTION[name]} was deleted by someone else: it is not created again" ;;
    esac
    last=$what
  done
}

# Bad usage of what is called later is told before anything is created.
check_calls() {
  local told
  told=$({ create --dry-run && call setup.sh "checkout repository ref extras" --dry-run &&
    call stop.sh grace --dry-run && call launch.sh '' "${VALUES[@]/#/--env=}" --dry-run -- "${COMMAND[@]}"; } 2>&1) && return
  tail -n 1 <<<"$told" >&2
  exit 2
}

print_plan() {
  echo "# 1. unless it is there already:"
  create
  echo "# 2. set it up and start the run:"
  set_up_and_start
  echo "# 3. every ${OPTION[poll]} s:"
  queued describe '--format=value(state.state)'
  worker_states
  echo "# 4. when it is taken away, this, then 1 and 2 again, ${OPTION[max-restarts]} times at most:"
  call delete.sh ''
}

main() {
  parse "$@"
  check_common
  ((${#COMMAND[@]})) || bad_usage "no command: give it after --, as in -- pagnol train --gin_file gin/runs/pagnol_s.gin"
  [[ ${OPTION[accelerator-type]} ]] || bad_usage "no TPU type: give --accelerator-type, as in v5litepod-16"
  require_number max-restarts '^[0-9]+$' "a whole number"
  require_seconds backoff
  require_seconds poll
  [[ " ${COMMAND[*]} " == *gs://* ]] ||
    say "$SCRIPT: warning: no gs:// in the command: checkpoints on a VM's disk are lost with the VM"
  if dry_run; then
    print_plan
    exit
  fi
  check_calls
  bring_up
  watch
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main "$@"; fi
