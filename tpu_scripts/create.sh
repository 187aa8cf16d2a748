#!/usr/bin/env bash
# Asks Google Cloud for a TPU as a queued resource and waits until it is there.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<TEXT
usage: $SCRIPT --name NAME --accelerator-type TYPE [options]

Asks for a TPU (a queued resource) and waits until it is ACTIVE. What it costs is shown before
anything is created.

  --accelerator-type T v4-N, v5p-N (N TensorCores), v5litepod-N or v5e-N, v6e-N (N chips)
  --spot               Spot VMs: cheaper, may be taken away at any time (see supervise.sh)
  --reserved           capacity that the project has reserved; neither of the two: on demand
  --runtime-version V  software of the VMs (default: the one Google names for the TPU version)
  --valid-until-duration D
                       give up if the TPU is not there after D, as in 6h
  --price-per-chip-hour USD
                       your price, where the list price shown is not yours
  --poll SECONDS       between looks at the state (default: 30)
  --yes                do not ask before creating
$COMMON_OPTIONS

Exit status: 0 the TPU is ACTIVE, 1 gcloud failed, 2 bad usage, 4 the TPU could not be had.

example:
  $SCRIPT --name my-tpu --project my-project --zone us-central1-a \\
      --accelerator-type v5litepod-16 --spot
TEXT
}

# The default runtime of each version: docs.cloud.google.com/tpu/docs/runtimes (read 2026-11-23).
declare -A RUNTIME=(
  [v4]=tpu-ubuntu2204-base [v5p]=v2-alpha-tpuv5 [v5litepod]=v2-alpha-tpuv5-lite [v6e]=v2-alpha-tpuv6e
)
# US dollars per chip-hour, in us-central1 (v4: us-central2). Prices differ by region and spot prices move.
# Source: catalogs/v6/gcp/vms.csv of github.com/skypilot-org/skypilot-catalog at 0489582999fe (read 2026-11-23),
# which is made from Google's billing catalogue: a slice's price over its chips.
declare -A PRICE_ON_DEMAND=([v4]=3.22 [v5p]=4.20 [v5litepod]=1.20 [v6e]=2.70)
declare -A PRICE_SPOT=([v4]=0.9215 [v5p]=1.428 [v5litepod]=0.408 [v6e]=0.918)
PRICE_DATE="list price of us-central read on 2026-11-23; regions differ, spot prices move: --price-per-chip-hour"

OPTION+=([accelerator-type]='' [runtime-version]='' [valid-until-duration]='' [price-per-chip-hour]='' [poll]=30)
SWITCH+=([spot]='' [reserved]='' [yes]='')

check_options() {
  no_command
  OPTION[accelerator-type]=${OPTION[accelerator-type]/#v5e-/v5litepod-}
  [[ ${OPTION[accelerator-type]} ]] || bad_usage "no TPU type: give --accelerator-type, as in v5litepod-16"
  [[ ${OPTION[accelerator-type]} =~ ^(v4|v5p|v5litepod|v6e)-([1-9][0-9]*)$ ]] ||
    bad_usage "--accelerator-type ${OPTION[accelerator-type]}: one of v4-N, v5p-N, v5litepod-N, v6e-N"
  VERSION=${BASH_REMATCH[1]} CHIPS=${BASH_REMATCH[2]}
  # v4 and v5p are named by TensorCores, two a chip.
  if [[ $VERSION == v4 || $VERSION == v5p ]]; then
    ((CHIPS % 8 == 0)) || bad_usage "--accelerator-type $VERSION-$CHIPS: a multiple of 8 TensorCores"
    CHIPS=$((CHIPS / 2))
  fi
  [[ ! (${SWITCH[spot]} && ${SWITCH[reserved]}) ]] || bad_usage "--spot and --reserved exclude each other"
  [[ ! ${OPTION[price-per-chip-hour]} ]] ||
    require_number price-per-chip-hour '^[0-9]+(\.[0-9]+)?$' "a number of US dollars"
  require_seconds poll
}

tell_price() {
  local tier="on demand" price=${PRICE_ON_DEMAND[$VERSION]} source=$PRICE_DATE
  local chips=$((CHIPS * OPTION[node-count]))
  if [[ ${SWITCH[spot]} ]]; then tier=spot price=${PRICE_SPOT[$VERSION]}; fi
  if [[ ${SWITCH[reserved]} ]]; then tier=reserved price=''; fi
  if [[ ${OPTION[price-per-chip-hour]} ]]; then price=${OPTION[price-per-chip-hour]} source="your price"; fi
  say "${OPTION[name]}: ${OPTION[node-count]} x ${OPTION[accelerator-type]}, $chips chips, $tier, in ${OPTION[zone]}"
  if [[ $price ]]; then
    say "$(LC_ALL=C awk -v n="$chips" -v p="$price" \
      'BEGIN {printf "%.2f USD an hour, %.0f USD a day: %d chip-hours an hour at %s USD", n * p, 24 * n * p, n, p}')"
    say "($source)"
  else
    say "$chips chip-hours an hour; a reservation's price is in its contract, --price-per-chip-hour counts with it"
  fi
}

create() {
  local flags=("--accelerator-type=${OPTION[accelerator-type]}"
    "--runtime-version=${OPTION[runtime-version]:-${RUNTIME[$VERSION]}}")
  if ((OPTION[node-count] == 1)); then
    flags+=("--node-id=${NODES[0]}")
  else
    flags+=("--node-count=${OPTION[node-count]}" "--node-prefix=${OPTION[node-prefix]:-${OPTION[name]}}")
  fi
  [[ ! ${SWITCH[spot]} ]] || flags+=(--spot)
  [[ ! ${SWITCH[reserved]} ]] || flags+=(--reserved)
  [[ ! ${OPTION[valid-until-duration]} ]] || flags+=("--valid-until-duration=${OPTION[valid-until-duration]}")
  queued create "${flags[@]}"
}

parse "$@"
check_common
check_options
tell_price
confirm "Create it?"
create || die "gcloud could not create ${OPTION[name]}"
if dry_run; then
  echo "# every ${OPTION[poll]} s, until the answer is ACTIVE:"
  queued describe '--format=value(state.state)'
  exit
fi
wait_active || die "${OPTION[name]} cannot be had: see gcloud compute tpus queued-resources describe; delete.sh removes it" 4
