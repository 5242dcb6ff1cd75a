#!/usr/bin/env bash
# One machine of many: what tpu_pod.sh and slurm.sh run there.
#
#   worker.sh alive                  whether the program runs
#   worker.sh install EXTRA WORKDIR [STORAGE FOLDER]
#   worker.sh run ID OPTIONS…        start the program, or join it; its output
#   worker.sh stop                   ask it to save and to end
#   worker.sh end                    the same, wait, and kill what is left
#   worker.sh progress WORKDIR       a fingerprint of what was done
#   worker.sh note FOLDER COMMAND…   run, and leave the exit status in FOLDER
#
# All but `alive` and `note` print `[exit STATUS]` at the end: an exit status
# that has come through ssh and gcloud could also be theirs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
source launch/common.sh

state=$HOME/.vdm_jax

alive() {
  [[ -f $state/pid ]] &&
    grep -qsa vdm_jax.main "/proc/$(<"$state/pid")/cmdline"
}

# Mounts a bucket (gs://BUCKET[/FOLDER]) or an NFS share (HOST:/SHARE).
mount_storage() {
  local storage=$1 folder=$2
  if mountpoint --quiet "$folder"; then return; fi
  sudo mkdir -p "$folder"
  if [[ $storage != gs://* ]]; then
    command -v mount.nfs >/dev/null || apt_install nfs-common
    sudo mount -t nfs -o hard,timeo=600,noatime "$storage" "$folder"
    [[ -w $folder ]] || sudo chown "$(id -u):$(id -g)" "$folder"
    return
  fi
  command -v gcsfuse >/dev/null || install_gcsfuse
  sudo chown "$(id -u):$(id -g)" "$folder"
  local path=${storage#gs://}
  # What one worker writes, another sees at once: nothing is cached.
  local options=(
    --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=1000000
  )
  if [[ $path == */?* ]]; then options+=(--only-dir="${path#*/}"); fi
  gcsfuse "${options[@]}" "${path%%/*}" "$folder"
}

apt_install() {
  sudo DEBIAN_FRONTEND=noninteractive apt-get -q -y \
    -o DPkg::Lock::Timeout=600 install "$@"
}

install_gcsfuse() {
  local keys=/usr/share/keyrings/cloud.google.asc
  curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg |
    sudo tee "$keys" >/dev/null
  echo "deb [signed-by=$keys] https://packages.cloud.google.com/apt" \
    "gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -q -o DPkg::Lock::Timeout=600 update
  apt_install gcsfuse
}

# Leaves with 4 if a workdir lies on a disk that is lost with the machine, as
# that of its system is. A disk that was attached to it has another number.
check_storage() {
  local folder=$1 kind lost=0
  while [[ ! -d $folder ]]; do folder=$(dirname "$folder"); done
  kind=$(mounted FSTYPE "$folder")
  case $kind in
    overlay | tmpfs) lost=1 ;;
    ext* | xfs | btrfs)
      if [[ $(mounted MAJ:MIN "$folder") == "$(mounted MAJ:MIN /)" ]]; then
        lost=1
      fi
      ;;
  esac
  ((!lost)) || fail 4 "the workdir $1 is on this machine's own disk ($kind)," \
    'which is lost with the machine; use --mount, or a disk attached to it'
}

# What findmnt says of the mount that a path lies on.
mounted() {
  findmnt --noheadings --first-only --output="$1" --target="$2" | tr -d ' '
}

install() {
  local extra=$1 folder=$2
  if alive; then return; fi # it is joined, and its code left alone
  if (($# > 2)); then mount_storage "$3" "$4"; fi
  check_storage "$folder"
  # The images' own Python may be older than the package needs.
  if [[ ! -x $HOME/.local/bin/uv ]]; then
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  fi
  "$HOME/.local/bin/uv" venv --quiet --allow-existing --python=3.12 .venv
  "$HOME/.local/bin/uv" pip install --quiet --python=.venv/bin/python \
    --editable ".[$extra]"
}

# Starts the program apart from the connection, so that it outlives it.
start() {
  rm -f "$state/status" "$state/pid"
  quoted "$@" >"$state/command"
  (
    set -a
    if [[ -f $HOME/.vdm_jax.env ]]; then
      # shellcheck disable=SC1091
      source "$HOME/.vdm_jax.env"
      rm -f "$HOME/.vdm_jax.env"
    fi
    set +a
    # shellcheck disable=SC2016
    nohup setsid bash -c '
      state=$1
      shift
      .venv/bin/python -m vdm_jax.main "$@" &
      echo $! >"$state/pid.new"
      mv "$state/pid.new" "$state/pid"
      status=0
      wait $! || status=$?
      echo "$status" >"$state/status.new"
      mv "$state/status.new" "$state/status"
    ' bash "$state" "$@" </dev/null >"$state/log" 2>&1 &
  )
  until [[ -f $state/pid ]]; do sleep 0.05; done
}

run_program() {
  local id=$1 lines=+1
  shift
  mkdir -p "$state"
  if alive; then
    [[ $(quoted "$@") == "$(<"$state/command")" ]] || fail 2 \
      'another command runs on this slice; end it, or use another --name'
    say 'joins the run that is under way'
    rm -f "$HOME/.vdm_jax.env"
    lines=10
  elif [[ -f $state/id && $(<"$state/id") == "$id" ]]; then
    lines=10 # it has ended since this connection was lost
  else
    start "$@"
    echo "$id" >"$state/id"
  fi
  tail --lines="$lines" --sleep-interval=0.2 --pid="$(<"$state/pid")" \
    --follow "$state/log"
  local tries
  for ((tries = 0; tries < 50; tries++)); do
    if [[ -f $state/status ]]; then return "$(<"$state/status")"; fi
    sleep 0.1
  done
  return 137 # it was killed together with the shell that watched it
}

stop() {
  if alive; then kill -TERM "$(<"$state/pid")"; fi
}

end() {
  local tries
  stop
  for ((tries = 0; tries < 600; tries++)); do
    alive || return 0
    sleep 0.1
  done
  kill -KILL "$(<"$state/pid")"
}

note() {
  local folder=$1 status=0
  shift
  # Slurm signals this shell too; it must not die before its child.
  trap : INT TERM
  "$@" || status=$?
  echo "$status" >"$folder/${SLURM_PROCID:-0}"
  exit "$status"
}

action=$1
shift
case $action in
  note) note "$@" ;;
  alive)
    alive
    exit
    ;;
esac
trap 'printf "[exit %s]\n" "$?"' EXIT
case $action in
  install) install "$@" ;;
  run) run_program "$@" ;;
  stop) stop ;;
  end) end ;;
  progress) progress "$1" ;;
esac
