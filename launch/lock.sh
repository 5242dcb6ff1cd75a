#!/usr/bin/env bash
# Writes launch/locks/{cpu,cuda,tpu}.txt anew: the versions of all packages, and
# the hashes of their files, that
#   pip install --require-hashes -r launch/locks/cpu.txt
# installs, and nothing else. Needs uv.
#
#   launch/lock.sh [versions.txt]
#
# With a file such as `pip freeze` prints, those versions are kept.
set -euo pipefail
cd "$(dirname "$0")/.."

# What setup.py calls extras; PyTorch and TensorFlow are for tests alone.
extras=(--extra text --extra metrics --extra plots)
options=(--quiet --generate-hashes --universal --python-version 3.11)
options+=(--custom-compile-command launch/lock.sh)
if (($#)); then options+=(--constraint "$1"); fi
for kind in cpu cuda tpu; do
  more=()
  if [[ $kind != cpu ]]; then more=(--extra "$kind"); fi
  uv pip compile setup.py "${options[@]}" "${extras[@]}" \
    ${more[@]+"${more[@]}"} --output-file "launch/locks/$kind.txt"
  sed -i.old '/^    #   -c /d' "launch/locks/$kind.txt"
  rm "launch/locks/$kind.txt.old"
done
