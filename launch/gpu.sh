#!/usr/bin/env bash
# Installs for CUDA and runs one command on all GPUs of this machine.
#
#   launch/gpu.sh [--dry-run] --config=configs/ucf101.py --workdir=runs/ucf101
#
# The same line again continues a run that was stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
  printf '+ %s\n' "$*"
  if [[ $dry_run == 0 ]]; then "$@"; fi
}

dry_run=0
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
if (($# == 0)); then
  echo 'usage: launch/gpu.sh [--dry-run] --config=FILE --workdir=FOLDER …' >&2
  exit 2
fi

run python3 -m venv .venv
run .venv/bin/pip install --quiet --editable '.[cuda]'
run .venv/bin/python -m vdm_jax.main "$@"
