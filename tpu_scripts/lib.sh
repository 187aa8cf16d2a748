# shellcheck shell=bash
# Shared by the scripts of this folder: options, quoting, dry runs, gcloud, the state of a resource and its workers.
#
# Exit status of every script: 0 done; 1 refused, or a gcloud command failed; 2 bad usage;
# 3 a run is under way already (launch); 4 the resource cannot be had (create).
# shellcheck disable=SC2034 # what the scripts use
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SCRIPT=$(basename "$0")
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
  { echo "$SCRIPT: error: bash 4.4 or later is needed (on macOS: brew install bash)" >&2; exit 1; }

# A script adds its own options: a key of OPTION takes a value, a key of SWITCH none, a key of LIST may be repeated.
declare -A OPTION=(
  [name]=${TPU_NAME-} [project]=${CLOUDSDK_CORE_PROJECT-} [zone]=${CLOUDSDK_COMPUTE_ZONE-}
  [node-count]=1 [node-prefix]=''
)
declare -A SWITCH=([dry-run]='')
declare -A LIST=()
VALUES=() # of the repeated option, in order
COMMAND=() # what follows --
NODES=() # one TPU node a slice
WHERE=() # --project and --zone, for every gcloud command

COMMON_OPTIONS="  --name NAME          the queued resource (or \$TPU_NAME)
  --project PROJECT    Google Cloud project (or \$CLOUDSDK_CORE_PROJECT)
  --zone ZONE          zone (or \$CLOUDSDK_COMPUTE_ZONE)
  --node-count N       slices of the resource (default: 1)
  --node-prefix P      names the slices P-0, P-1, ... (default: the resource's name)
  --dry-run            print every command instead of running it; needs no gcloud
  -h, --help           this text"

say() { printf '%s\n' "$*" >&2; }

die() {
  say "$SCRIPT: error: $1"
  exit "${2:-1}"
}

bad_usage() { die "$1 (see $SCRIPT --help)" 2; }

dry_run() { [[ ${SWITCH[dry-run]} ]]; }

# Each argument as one word of a POSIX shell, joined by spaces.
quote() {
  local word words=() escaped="'\\''"
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      words+=("$word")
    elif [[ $word == *\'* && $word != *[\"\$\`\\!]* ]]; then
      words+=("\"$word\"") # easier to read than '\''
    else
      words+=("'${word//\'/"$escaped"}'")
    fi
  done
  printf '%s' "${words[*]}"
}

# Prints a command that can be pasted into a shell, broken before it passes 100 columns.
show() {
  local word line=''
  for word; do
    if [[ $word =~ ^--[a-z-]+= ]]; then
      word=${BASH_REMATCH[0]}$(quote "${word#*=}")
    else
      word=$(quote "$word")
    fi
    if [[ $line && $((${#line} + ${#word})) -gt 96 ]]; then
      printf '%s \\\n' "$line"
      line="   "
    fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command, or prints it.
run() {
  if dry_run; then show "$@"; else "$@"; fi
}

# Fills OPTION, SWITCH, VALUES and COMMAND from the command line. The script defines `usage`.
parse() {
  local key
  while (($#)); do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --) COMMAND=("${@:2}") && return ;;
      --[a-z]*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    key=${1#--}
    [[ $1 == --* && $key =~ ^[a-z-]+$ ]] || bad_usage "unexpected argument: $1"
    if [[ ${SWITCH[$key]+known} ]]; then
      SWITCH[$key]=yes
      shift
      continue
    fi
    [[ ${OPTION[$key]+known} || ${LIST[$key]+known} ]] || bad_usage "unknown option: $1"
    (($# > 1)) && [[ $2 && $2 != --* ]] || bad_usage "$1 needs a value"
    if [[ ${LIST[$key]+known} ]]; then VALUES+=("$2"); else OPTION[$key]=$2; fi
    shift 2
  done
}

# Checks what every script needs, and sets NODES and WHERE.
check_common() {
  local i prefix
  [[ ${OPTION[name]} ]] || bad_usage "no resource: give --name or set TPU_NAME"
  [[ ${OPTION[project]} ]] || bad_usage "no project: give --project or set CLOUDSDK_CORE_PROJECT"
  [[ ${OPTION[zone]} ]] || bad_usage "no zone: give --zone or set CLOUDSDK_COMPUTE_ZONE"
  [[ ${OPTION[name]} =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
    bad_usage "--name ${OPTION[name]}: lower-case letters, digits and hyphens, a letter first"
  require_number node-count '^[1-9][0-9]*$' "a whole number above 0"
  if ((OPTION[node-count] == 1)); then
    NODES=("${OPTION[name]}")
  else
    prefix=${OPTION[node-prefix]:-${OPTION[name]}}
    for ((i = 0; i < OPTION[node-count]; i++)); do NODES+=("$prefix-$i"); done
  fi
  WHERE=("--project=${OPTION[project]}" "--zone=${OPTION[zone]}")
  dry_run || command -v gcloud >/dev/null ||
    die "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
}

require_number() { # option, pattern, what it is
  [[ ${OPTION[$1]} =~ $2 ]] || bad_usage "--$1 ${OPTION[$1]}: $3"
}

require_seconds() { require_number "$1" '^[0-9]+(\.[0-9]+)?$' "a number of seconds"; }

no_command() { ((${#COMMAND[@]} == 0)) || bad_usage "this script takes no command after --"; }

# Asks on the terminal unless --yes was given.
confirm() {
  local answer=''
  [[ ${SWITCH[yes]} ]] || dry_run && return
  [[ -t 0 ]] || bad_usage "no terminal to ask on: give --yes"
  read -r -p "$1 [y/N] " answer || true
  [[ $answer == [yY]* ]] || die "nothing done"
}

queued() { run gcloud compute tpus queued-resources "$1" "${OPTION[name]}" "${WHERE[@]}" "${@:2}"; }

on_worker() { # node, worker or all, command line for the worker's shell
  run gcloud compute tpus tpu-vm ssh "$1" "${WHERE[@]}" "--worker=$2" "--command=$3"
}

# Prints the resource's state, NONE where there is no such resource. A call that fails is made again, five times.
queue_state() {
  local answer errors try
  errors=$(mktemp)
  for try in 1 2 3 4 5; do
    if answer=$(queued describe '--format=value(state.state)' 2>"$errors"); then
      rm -f "$errors"
      printf '%s\n' "$answer"
      return
    fi
    if grep -qiE 'NOT_FOUND|was not found' "$errors"; then
      rm -f "$errors"
      echo NONE
      return
    fi
    ((try == 5)) || sleep "${OPTION[poll]:-5}"
  done
  cat "$errors" >&2
  rm -f "$errors"
  return 1
}

# Waits until the resource is ACTIVE. Returns 4 where it never will be.
wait_active() {
  local state last=''
  while :; do
    state=$(queue_state) || die "the state of ${OPTION[name]} cannot be read"
    [[ $state == "$last" ]] || say "$(date +%T) ${OPTION[name]}: $state"
    last=$state
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | NONE) return 4 ;;
    esac
    sleep "${OPTION[poll]}"
  done
}

# A worker that was never set up has no worker.sh to ask.
# shellcheck disable=SC2016
ASK_WORKER='bash pagnol/worker.sh status 2>/dev/null || echo fresh $(hostname)'

# Prints "STATE HOST" for every worker of every slice (states: see worker.sh). Returns 1 if one did not answer.
worker_states() {
  local node answer failed=0
  for node in "${NODES[@]}"; do
    if dry_run; then
      on_worker "$node" all "$ASK_WORKER"
      continue
    fi
    answer=$(on_worker "$node" all "$ASK_WORKER" 2>/dev/null) || failed=1
    grep -E '^(running|stopped|lost|fresh|exited [0-9]+) ' <<<"$answer" || failed=1
  done
  return "$failed"
}
