#!/usr/bin/env bash
# Installs for CUDA and runs one command on all GPUs of this machine.
#
#   launch/gpu.sh [options] --config=configs/ucf101.py --workdir=runs/ucf101
#
# The command starts again, and continues, when it ends with status 42 (asked to
# stop), 75 (a part of it hung) or 134 (a library aborted); with any other
# status, and after Ctrl-C or SIGTERM, which save first, so does this script.
# The same line continues it.
#
#   --dry-run      print the commands and run nothing
#   --restarts=3   restarts in a row without a new checkpoint or sample; 0: none
#   --pause=5      seconds before a restart
#   --extra=cuda   what to install: cuda, tpu (a machine with TPUs of its own),
#                  or several: cuda,text
#   --no-install   use the installation that is there
#   --python=FILE  use this Python, and install nothing
#   --help         this text
#
# Options from --config, --workdir, --mode or -- on are the program's. HF_TOKEN
# and the like reach it through the environment.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
source "$here/common.sh"

extra=cuda
install=1
python=.venv/bin/python

while (($#)); do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --restarts=*) restarts=$(number "$1") ;;
    --pause=*) pause=$(number "$1") ;;
    --extra=*) extra=$(value "$1") ;;
    --no-install) install=0 ;;
    --python=*)
      python=$(value "$1")
      install=0
      ;;
    --)
      shift
      break
      ;;
    --config* | --workdir* | --mode* | --debug* | --process* | --coordinator*)
      break
      ;;
    *) unknown_option "$1" ;;
  esac
  shift
done
program_options "$@"
workdir=$(expanded "$workdir")

run cd "$here/.."
if ((install)); then
  run python3 -m venv .venv
  run .venv/bin/pip install --quiet --editable ".[$extra]"
fi
command=("$python" -m vdm_jax.main "${program[@]}")
show "${command[@]}"
if ((dry_run)); then exit 0; fi

mark=$(progress "$workdir")
while :; do
  status=0
  supervise "${command[@]}" || status=$?
  if ((interrupted)); then exit "$status"; fi
  case $status in
    42 | 75 | 134) ;;
    *) exit "$status" ;;
  esac
  may_restart "$(progress "$workdir")" ||
    fail "$status" "status $status, and $restarts restarts without progress"
  say "status $status; continuing in $pause s"
  trap 'exit 130' INT TERM
  nap "$pause"
  show "${command[@]}"
done
