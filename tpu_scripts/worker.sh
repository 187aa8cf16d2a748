#!/usr/bin/env bash
# Runs on a TPU worker: setup.sh copies it to ~/pagnol, the other scripts call it over ssh.
#
#   install EXTRAS [REPOSITORY REF]   the package, from ~/pagnol/source.tar.gz or from git
#   start [--slice ADDRESS COUNT ID] -- COMMAND...
#   run                               what the tmux session does
#   stop SECONDS                      SIGTERM, so that the run saves a checkpoint
#   status                            prints STATE HOST; the states:
#     running     the session lives
#     exited N    the command ended by itself with exit status N
#     stopped     it was stopped by hand
#     lost        it was started, and neither lives nor ended: the VM went down under it
#     fresh       nothing was started since the VM was made
set -euo pipefail

root=$HOME/pagnol
session=$root/session
host=${HOSTNAME:-$(hostname)}

running() { tmux has-session -t =pagnol 2>/dev/null; }

fail() {
  echo "worker.sh on $host: $1" >&2
  exit "${2:-1}"
}

install() { # extras, repository, ref
  ! running || fail "a run is under way: its code is not replaced" 3
  export PATH=$HOME/.local/bin:$PATH
  command -v tmux >/dev/null || sudo apt-get install -y -q tmux
  # The TPU images ship Python 3.10; uv brings a 3.11 of its own.
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  cd "$root"
  if [[ ${2-} ]]; then
    fetch_source "$2" "$3"
  else
    rm -rf source && mkdir source && tar -xzf source.tar.gz -C source
  fi
  ln -sfn source/gin gin # so that gin/runs/... names on a worker what it names in a checkout
  [[ -x venv/bin/python ]] || uv venv --quiet --python 3.11 venv
  uv pip install --quiet --python venv/bin/python --editable "./source[$1]"
  echo "$host: $(venv/bin/pagnol --version)"
}

fetch_source() { # repository, ref
  [[ -d source/.git ]] || { rm -rf source && git init --quiet source; }
  git -C source fetch --quiet --depth 1 "$1" "$2"
  git -C source checkout --quiet --force --detach FETCH_HEAD
}

# A queued multislice resource describes itself to libtpu and JAX in the metadata attribute tpu-env; other slices do not.
describes_slices() {
  local described
  described=$(curl -sf --max-time 10 -H 'Metadata-Flavor: Google' \
    "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/tpu-env") &&
    grep -q '^ *MEGASCALE_COORDINATOR_ADDRESS:' <<<"$described"
}

start() {
  local slices=()
  ! running || fail "a run is under way already" 3
  if [[ $1 == --slice ]]; then
    describes_slices || slices=(env "MEGASCALE_COORDINATOR_ADDRESS=$2" MEGASCALE_PORT=8081
      "MEGASCALE_NUM_SLICES=$3" "MEGASCALE_SLICE_ID=$4")
    shift 4
  fi
  shift # --
  mkdir -p "$session"
  rm -f "$session"/{exit_status,stopped,pid}
  # NUL-separated words need no quoting, and pass tmux's shell by. For this user's eyes: variables may be secrets.
  (umask 077 && printf '%s\0' "${slices[@]}" "$@" >"$session/argv")
  tmux new-session -d -s pagnol -c "$HOME" 'bash pagnol/worker.sh run'
  echo "$host: started"
}

run() {
  local argv status=0 pid
  cd "$root"
  export PATH=$root/venv/bin:$HOME/.local/bin:$PATH
  mapfile -d '' -t argv <"$session/argv"
  # When a VM is taken away everything gets SIGTERM, and tmux hangs up on its children as it dies: the run must outlive
  # that to save its checkpoint, and this shell to write down how it ended.
  trap '' HUP
  trap : TERM INT
  echo "== $(date -u +%FT%TZ) $host: start" >>"$session/log"
  "${argv[@]}" >>"$session/log" 2>&1 &
  pid=$!
  echo "$pid" >"$session/pid"
  wait "$pid" || status=$?
  while kill -0 "$pid" 2>/dev/null; do # the wait was cut short by a signal
    status=0
    wait "$pid" || status=$?
  done
  echo "== $(date -u +%FT%TZ) $host: exit status $status" >>"$session/log"
  echo "$status" >"$session/exit_status.new"
  mv "$session/exit_status.new" "$session/exit_status"
}

stop() { # seconds to wait for the checkpoint
  local deadline=$((SECONDS + $1))
  running || { echo "$host: nothing runs" && return; }
  touch "$session/stopped"
  kill -TERM "$(<"$session/pid")" 2>/dev/null || true
  while running && ((SECONDS < deadline)); do sleep 0.2; done
  if running; then
    kill -KILL "$(<"$session/pid")" 2>/dev/null || true
    tmux kill-session -t =pagnol
    echo "$host: killed after $1 s"
  else
    echo "$host: stopped"
  fi
}

status() {
  if running; then
    echo "running $host"
  elif [[ -f $session/stopped ]]; then
    echo "stopped $host"
  elif [[ -f $session/exit_status ]]; then
    echo "exited $(<"$session/exit_status") $host"
  elif [[ -f $session/argv ]]; then
    echo "lost $host"
  else
    echo "fresh $host"
  fi
}

case ${1-} in
  install | start | run | stop | status) "$@" ;;
  *) fail "unknown command: ${1-}" 2 ;;
esac
