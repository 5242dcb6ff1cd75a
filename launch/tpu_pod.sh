#!/usr/bin/env bash
# Creates a TPU slice, or takes the one that is there, and runs one command on
# all its workers.
#
#   launch/tpu_pod.sh --name=vdm --zone=us-east5-b --type=v5litepod-64 --spot \
#     --mount=gs://BUCKET -- --config=configs/ucf101.py --workdir=/mnt/storage/u
#
# Every line of the output begins with the number of its worker. When a slice is
# taken away it is made anew, and the command goes on from its last checkpoint;
# so it does when it ends with status 42 (asked to stop) or 75, or a worker dies
# or cannot be reached. Any other status ends the script with it. Ctrl-C asks
# all workers to save, waits for them, and leaves with 42; a second one leaves
# them running. The same line joins a run that is under way, or continues it.
#
# The slice:
#   --name=NAME        of the slice and of its queued resource
#   --zone=ZONE
#   --type=TYPE        accelerator type, as v5litepod-64, v5p-128, v6e-256
#   --image=VERSION    runtime version; default: the one made for the type
#   --spot             cheap, and taken away at any time
#   --create=OPTION    one more option of `gcloud compute tpus queued-resources
#                      create`, as --create=--network=N; may be repeated
#   --project=PROJECT  default: gcloud's own
#   --ssh=OPTION       one more option of `gcloud compute tpus tpu-vm ssh` and
#                      scp, as --ssh=--internal-ip; may be repeated
#   --delete           delete the slice when the command has ended
#
# The storage. The workdir has to outlive the slice, and the program writes to
# paths: give a bucket or an NFS share, which every worker mounts. A slice of
# one machine may also have a disk of yours, attached to it and mounted there.
#   --mount=STORAGE    gs://BUCKET[/FOLDER] (by gcsfuse; make the bucket with
#                      --enable-hierarchical-namespace, so that renaming a
#                      checkpoint is one step), or HOST:/SHARE (Filestore)
#   --at=FOLDER        where; default /mnt/storage
#
# The run:
#   --extra=tpu        what to install; several: tpu,text
#   --env=NAME         pass this variable on; may be repeated. HF_TOKEN and
#                      WANDB_API_KEY are passed on if they are set. Values go in
#                      a file that only you can read, never in a command.
#   --restarts=3       in a row without a new checkpoint or sample; 0: none
#   --pause=20         seconds between looks at the slice, and before a restart
#   --dry-run          print the commands and run nothing
#   --help             this text
#
# Options from --config, --workdir, --mode or -- on are the program's. gcloud
# needs to be logged in.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
source "$here/common.sh"

name=''
zone=''
type=''
image=''
mount=''
at=/mnt/storage
extra=tpu
delete=0
create=()
ssh=()
project=()
variables=(HF_TOKEN WANDB_API_KEY)
pause=20

while (($#)); do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --name=*) name=$(value "$1") ;;
    --zone=*) zone=$(value "$1") ;;
    --type=*) type=$(value "$1") ;;
    --image=*) image=$(value "$1") ;;
    --project=*) project=(--project="$(value "$1")") ;;
    --mount=*) mount=$(value "$1") ;;
    --at=*) at=$(value "$1") ;;
    --extra=*) extra=$(value "$1") ;;
    --spot) create+=(--spot) ;;
    --create=*) create+=("$(value "$1")") ;;
    --ssh=*) ssh+=("$(value "$1")") ;;
    --env=*) variables+=("$(value "$1")") ;;
    --restarts=*) restarts=$(number "$1") ;;
    --pause=*) pause=$(number "$1") ;;
    --delete) delete=1 ;;
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
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
  fail 2 "--name wants small letters, digits and hyphens (got '$name')"
[[ -n $zone ]] || fail 2 'no --zone given; for example --zone=us-east5-b'
[[ -n $type ]] || fail 2 'no --type given; for example --type=v5litepod-64'
[[ $at == /* ]] || fail 2 "--at wants an absolute path (got $at)"
case $mount in
  '' | gs://?* | ?*:/*) ;;
  *) fail 2 "--mount wants gs://BUCKET or HOST:/SHARE (got $mount)" ;;
esac
for variable in "${variables[@]}"; do
  [[ $variable =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
    fail 2 '--env wants the name of a variable, not its value'
done
program_options "$@"
[[ $workdir == /* ]] ||
  fail 2 "the workdir must be an absolute path of the workers (got $workdir)"
if [[ -n $mount && $workdir != "$at"/?* ]]; then
  fail 2 "the workdir must lie below $at, where $mount is mounted (got" \
    "$workdir)"
fi
if [[ -z $image ]]; then
  case $type in
    v6e-*) image=v2-alpha-tpuv6e ;;
    v5litepod-*) image=v2-alpha-tpuv5-lite ;;
    v5p-*) image=v2-alpha-tpuv5 ;;
    *) image=tpu-ubuntu2204-base ;;
  esac
fi
where=(--zone="$zone" ${project[@]+"${project[@]}"})
vm=(gcloud compute tpus tpu-vm)
queue=(gcloud compute tpus queued-resources)
# A worker that has gone is noticed within minutes.
secure_shell=(
  "${vm[@]}" ssh "$name" "${where[@]}" --quiet
  --ssh-flag=-oServerAliveInterval=15 --ssh-flag=-oServerAliveCountMax=4
  --ssh-flag=-oConnectTimeout=20 ${ssh[@]+"${ssh[@]}"}
)
describe_slice=(
  "${vm[@]}" describe "$name" "${where[@]}"
  --format='value(state,networkEndpoints.len())'
)
describe_request=(
  "${queue[@]}" describe "$name" "${where[@]}" --format='value(state.state)'
)
create_slice=(
  "${queue[@]}" create "$name" "${where[@]}" --node-id="$name"
  --accelerator-type="$type" --runtime-version="$image"
  ${create[@]+"${create[@]}"}
)
delete_request=("${queue[@]}" delete "$name" "${where[@]}" --force --quiet)
delete_slice=("${vm[@]}" delete "$name" "${where[@]}" --quiet)

attempt=0
stopping=0
phase=slice
workers=1
statuses=()
pids=()

# --- the slice

# What gcloud prints; ABSENT if there is no such thing, ? if it cannot say.
ask() {
  if "$@" 2>"$scratch/errors"; then return; fi
  if grep -q NOT_FOUND "$scratch/errors"; then echo ABSENT; else echo '?'; fi
}

# Waits until the slice is ready; requests it if there is none, and makes it
# anew if it was taken away. Sets `workers`.
ensure_slice() {
  local state count before='' lost=0
  while :; do
    interrupted_here
    read -r state count < <(ask "${describe_slice[@]}") || true
    if [[ $state != "$before" ]]; then say "slice $name: $state"; fi
    before=$state
    case $state in
      READY)
        workers=$count
        return
        ;;
      ABSENT) request_slice ;;
      PREEMPTED | TERMINATED) remove_slice ;;
      STOPPED | HIDDEN)
        fail 1 "slice $name is $state; start it, or delete it, and come again"
        ;;
      '?')
        if ((attempt == 1)); then
          fail 1 "gcloud: $(grep -m1 . "$scratch/errors")"
        fi
        ;;
    esac
    nap "$pause"
  done
}

request_slice() {
  local state
  state=$(ask "${describe_request[@]}")
  case $state in
    ABSENT)
      run "${create_slice[@]}" ||
        { ((attempt > 1)) || fail 1 "slice $name could not be requested"; }
      ;;
    FAILED)
      fail 1 "the request for slice $name failed; see:" \
        "$(quoted "${queue[@]}" describe "$name" "${where[@]}")"
      ;;
    SUSPENDED) remove_slice ;;
    ACTIVE)
      # The slice shows a little later than its request; or not at all.
      if ((++lost > 5)); then remove_slice; fi
      ;;
    *) say "request for slice $name: $state" ;;
  esac
}

remove_slice() {
  if [[ $(ask "${describe_request[@]}") == ABSENT ]]; then
    run "${delete_slice[@]}" || true
  else
    run "${delete_request[@]}" || true
  fi
}

# --- the workers

# Writes a worker's lines with its number, and notes the exit status that
# worker.sh prints at the end.
prefixed() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line =~ ^(.*)\[exit\ ([0-9]+)\]$ ]]; then
      echo "${BASH_REMATCH[2]}" >"$scratch/$1.status"
      line=${BASH_REMATCH[1]}
      [[ -n $line ]] || continue
    fi
    printf '[%s] %s\n' "$1" "$line"
  done
}

# Runs a function on all workers at once; sets `statuses`.
on_workers() {
  local i
  phase=$1
  rm -f "$scratch"/*.status
  pids=()
  for ((i = 0; i < workers; i++)); do
    # In groups of their own: Ctrl-C is for this script alone.
    set -m
    ("$1" "$i" 2>&1 | prefixed "$i") </dev/null &
    pids+=($!)
    set +m
  done
  wait_for_workers
  statuses=()
  for ((i = 0; i < workers; i++)); do
    if [[ -f $scratch/$i.status ]]; then
      statuses+=("$(<"$scratch/$i.status")")
    else
      statuses+=(lost)
    fi
  done
}

any_alive() {
  local pid
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then return; fi
  done
  return 1
}

kill_connections() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do
    kill -TERM -- "-$pid" 2>/dev/null || true
  done
}

wait_for_workers() {
  local looked=$SECONDS asked=0 state
  while any_alive; do
    sleep 0.2 || true
    interrupted_here
    if ((stopping && !asked)); then
      asked=1
      say 'asking all workers to save; once more to leave them running'
      ask_workers_to_stop
    fi
    if ((SECONDS - looked >= (pause > 0 ? pause : 1))); then
      looked=$SECONDS
      read -r state _ < <(ask "${describe_slice[@]}") || true
      case $state in
        PREEMPTED | TERMINATED | ABSENT | STOPPED)
          say "slice $name: $state"
          kill_connections
          ;;
      esac
    fi
  done
}

ask_workers_to_stop() {
  local i
  set -m
  for ((i = 0; i < workers; i++)); do
    on_worker "$i" 'vdm_jax/launch/worker.sh stop' </dev/null >/dev/null 2>&1 &
  done
  set +m
}

# Leaves at Ctrl-C where there is nothing to save, or at the second one.
interrupted_here() {
  local enough=1
  if [[ $phase == run_program ]]; then enough=2; fi
  if ((stopping < enough)); then return; fi
  kill_connections
  if [[ $phase == run_program ]]; then
    say 'left running; the same line joins it'
  fi
  remind
  exit 130
}

# Runs a command that is the same for all workers, and prints it once.
on_one() {
  if [[ $1 == 0 ]]; then show "${@:2}"; fi
  ((dry_run)) || "${@:2}"
}

on_worker() {
  on_one "$1" "${secure_shell[@]}" --worker="$1" --command="$2"
}

# --- what they do

copy_to_worker() {
  on_one "$1" "${vm[@]}" scp "$scratch/vdm_jax.tar.gz" \
    "$scratch/.vdm_jax.env" "$name:" "${where[@]}" --quiet \
    ${ssh[@]+"${ssh[@]}"} --worker="$1"
}

install_command() {
  # An earlier start of the same slice left its processes, or its code.
  local words=(vdm_jax/launch/worker.sh install "$extra" "$workdir")
  if [[ -n $mount ]]; then words+=("$mount" "$at"); fi
  printf %s 'mkdir -p vdm_jax && { vdm_jax/launch/worker.sh alive' \
    ' >/dev/null 2>&1 || tar -xzf vdm_jax.tar.gz -C vdm_jax; } && ' \
    "exec $(quoted "${words[@]}")"
}

run_command() {
  quoted exec vdm_jax/launch/worker.sh run "$id" "${program[@]}"
}

install_program() {
  copy_to_worker "$1" && on_worker "$1" "$(install_command)"
}

run_program() {
  on_worker "$1" "$(run_command)"
}

end_program() {
  on_worker "$1" 'vdm_jax/launch/worker.sh end'
}

# What was done so far, as the first worker sees it.
look_at_progress() {
  local text
  text=$("${secure_shell[@]}" --worker=0 --command="$(progress_command)" \
    </dev/null 2>/dev/null) || true
  if [[ $text == *'[exit 0]' ]]; then
    printf %s "${text%%$'\n'*}"
  else
    printf %s "$mark"
  fi
}

progress_command() {
  quoted vdm_jax/launch/worker.sh progress "$workdir"
}

# Packs the program, and apart from it the variables to be passed on.
pack() {
  run tar -czf "$scratch/vdm_jax.tar.gz" --exclude=__pycache__ \
    -C "$here/.." setup.py README.md vdm_jax configs launch
  ((dry_run)) && return
  local variable
  (
    umask 077
    for variable in "${variables[@]}"; do
      if [[ -n ${!variable:-} ]]; then
        printf '%s=%q\n' "$variable" "${!variable}"
      fi
    done >"$scratch/.vdm_jax.env"
  )
}

remind() {
  say "slice $name may still be there, and cost money; to delete it:"
  say "  $(quoted "${delete_request[@]}")"
}

# Ends with a status; the slice is deleted, or its price called to mind.
finish() {
  phase=slice
  if ((delete)); then remove_slice; else remind; fi
  exit "$1"
}

# Everything up to and with one run; sets `answer`.
one_attempt() {
  answer=75
  ensure_slice
  # The first connection brings the key, which must not happen twice at once.
  on_worker 0 true </dev/null || return 0
  if ((attempt > 1)); then on_workers end_program; fi
  say "installing on $workers workers"
  on_workers install_program
  answer=$(verdict "${statuses[@]}")
  if ((answer != 0)); then return; fi
  local now
  now=$(look_at_progress)
  if ((attempt == 1)); then
    mark=$now
  elif ! may_restart "$now"; then
    say "error: $restarts restarts without progress"
    finish "$last"
  fi
  on_workers run_program
  answer=$(verdict "${statuses[@]}")
  say "exit statuses: ${statuses[*]}"
}

dry_run_commands() {
  scratch=${TMPDIR:-/tmp}/vdm_jax.XXXXXX
  mark=none
  show mktemp -d "$scratch"
  pack
  local variable
  for variable in "${variables[@]}"; do
    if [[ -n ${!variable:-} ]]; then
      echo "# $variable=*** is put in $scratch/.vdm_jax.env (mode 600)"
    fi
  done
  show "${describe_slice[@]}"
  show "${describe_request[@]}"
  echo '# if it was taken away:'
  show "${delete_request[@]}"
  echo '# if there is none:'
  show "${create_slice[@]}"
  echo '# for every worker, of which this is the first:'
  on_worker 0 true
  install_program 0
  on_worker 0 "$(progress_command)"
  run_program 0
  echo '# after Ctrl-C:'
  on_worker 0 'vdm_jax/launch/worker.sh stop'
  echo '# before a restart on the same slice:'
  end_program 0
  if ((delete)); then
    echo '# at the end:'
    show "${delete_request[@]}"
  fi
}

if ((dry_run)); then
  id=1
  dry_run_commands
  exit 0
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/vdm_jax.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'stopping=$((stopping + 1))' INT TERM
pack
last=75
while :; do
  attempt=$((attempt + 1))
  id=$$-$RANDOM-$attempt
  one_attempt
  if ((stopping)) || [[ $answer != 42 && $answer != 75 ]]; then
    finish "$answer"
  fi
  last=$answer
  say "status $answer; continuing in $pause s"
  phase=slice
  nap "$pause"
done
