#!/usr/bin/env bash
# Installs pagnol_jax on every worker of a TPU.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: $SCRIPT --name NAME [options]

Installs pagnol_jax with its TPU extra on all workers, with a Python of its own (the TPU images
have 3.10). Done twice, it changes nothing but the code. Refused while a run is under way.

  --checkout DIR       the code to install: what git tracks or does not ignore there, changes
                       included (default: the checkout this script is in)
  --repository URL     install from git instead
  --ref REF            branch, tag or commit of that repository (default: main)
  --extras LIST        extras of the package (default: tpu,data,gcs)
$COMMON_OPTIONS

Exit status: 0 all workers are set up, 1 a command failed, 2 bad usage, 3 a run is under way.

example:
  $SCRIPT --name my-tpu --project my-project --zone us-central1-a
TEXT
}

OPTION+=([checkout]='' [repository]='' [ref]='' [extras]='tpu,data,gcs')

check_options() {
  no_command
  [[ ${OPTION[extras]} =~ ^[a-z]+(,[a-z]+)*$ ]] || bad_usage "--extras ${OPTION[extras]}: names, joined by commas"
  [[ ! (${OPTION[checkout]} && ${OPTION[repository]}) ]] || bad_usage "--checkout and --repository exclude each other"
  [[ ! ${OPTION[ref]} || ${OPTION[repository]} ]] || bad_usage "--ref needs --repository"
  [[ ! ${OPTION[repository]} ]] || return 0
  OPTION[checkout]=${OPTION[checkout]:-$(dirname "$HERE")}
  [[ -f ${OPTION[checkout]}/pyproject.toml ]] || bad_usage "--checkout ${OPTION[checkout]}: no pyproject.toml there"
  git -C "${OPTION[checkout]}" rev-parse --git-dir >/dev/null 2>&1 ||
    bad_usage "--checkout ${OPTION[checkout]}: not a git checkout"
}

pack() { # archive
  local file files=()
  while IFS= read -r -d '' file; do
    [[ ! -e ${OPTION[checkout]}/$file ]] || files+=("$file") # git lists what was deleted, too
  done < <(git -C "${OPTION[checkout]}" ls-files -z --cached --others --exclude-standard)
  printf '%s\0' "${files[@]}" | tar -C "${OPTION[checkout]}" --null --files-from=- -czf "$1"
}

parse "$@"
check_common
check_options
files=("$HERE/worker.sh")
install=(bash pagnol/worker.sh install "${OPTION[extras]}")
if [[ ${OPTION[repository]} ]]; then
  install+=("${OPTION[repository]}" "${OPTION[ref]:-main}")
else
  folder=${TMPDIR:-/tmp}/pagnol-${OPTION[name]}
  files+=("$folder/source.tar.gz")
  if dry_run; then
    echo "# ${OPTION[checkout]} is packed into $folder/source.tar.gz"
  else
    mkdir -p "$folder"
    trap 'rm -rf "$folder"' EXIT
    pack "$folder/source.tar.gz"
  fi
fi
for node in "${NODES[@]}"; do
  on_worker "$node" all 'mkdir -p pagnol' || die "$node does not answer"
  run gcloud compute tpus tpu-vm scp "${files[@]}" "$node:pagnol/" "${WHERE[@]}" --worker=all ||
    die "the code could not be copied to $node"
  status=0
  on_worker "$node" all "$(quote "${install[@]}")" || status=$?
  ((status != 3)) || die "a run is under way on $node: stop.sh stops it" 3
  ((status == 0)) || die "the installation failed on $node"
done
