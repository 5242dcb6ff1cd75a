#!/usr/bin/env bash
# Submits one command as a Slurm job on any number of nodes, and is that job.
#
#   launch/slurm.sh --nodes=4 --gpus=8 --time=24:00:00 --sbatch=--partition=P \
#     -- --config=configs/ucf101.py --workdir=/shared/runs/ucf101
#
# One process runs for each GPU (or node), and finds the others through Slurm.
# Two minutes before the time limit the processes are asked to save. A job that
# ends with status 42 (asked to stop) or 75, or of which a process died, puts
# itself into the queue again, and continues; any other status ends it. scancel
# ends it too. The output is WORKDIR/slurm-JOB.log, a number before every line.
#
# It may be given to sbatch as well: sbatch [options] launch/slurm.sh …
#
#   --nodes=1        nodes
#   --gpus=8         GPUs of each node; 0: none
#   --per=gpu        one process for each gpu, or for each node
#   --cpus=N         CPUs of each process; default: Slurm's, often one
#   --time=LIMIT     as sbatch has it; default: the partition's
#   --sbatch=OPTION  one more option of sbatch, as --sbatch=--account=A; may be
#                    repeated; --sbatch=--signal=B:TERM@600 gives more to save
#   --srun=OPTION    one more option of srun; may be repeated
#   --extra=cuda     what to install, into .venv of this checkout, which has to
#                    lie where all nodes see it
#   --no-install     use the installation that is there
#   --python=FILE    use this Python, and install nothing
#   --restarts=3     in a row without a new checkpoint or sample; 0: none
#   --dry-run        print the commands and run nothing
#   --help           this text
#
# Options from --config, --workdir, --mode or -- on are the program's. The job
# gets the environment, HF_TOKEN and the like with it.

#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail
# In a job, $0 is a copy: Slurm starts it in the checkout.
if [[ -n ${SLURM_JOB_ID:-} ]]; then
  here=$PWD/launch
else
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fi
if [[ ! -f $here/common.sh ]]; then
  echo 'launch/slurm.sh: error: no launch/common.sh here; submit from the' \
    'checkout' >&2
  exit 2
fi
# shellcheck source=launch/common.sh
source "$here/common.sh"

nodes=1
gpus=8
per=gpu
cpus=''
limit=''
extra=cuda
install=1
python=.venv/bin/python
sbatch=()
srun=()
given=()
for word; do
  [[ $word == --dry-run ]] || given+=("$word")
done

while (($#)); do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --nodes=*) nodes=$(number "$1") ;;
    --gpus=*) gpus=$(number "$1") ;;
    --per=*) per=$(value "$1") ;;
    --cpus=*) cpus=$(number "$1") ;;
    --time=*) limit=$(value "$1") ;;
    --sbatch=*) sbatch+=("$(value "$1")") ;;
    --srun=*) srun+=("$(value "$1")") ;;
    --extra=*) extra=$(value "$1") ;;
    --no-install) install=0 ;;
    --python=*)
      python=$(value "$1")
      install=0
      ;;
    --restarts=*) restarts=$(number "$1") ;;
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
((nodes > 0)) || fail 2 '--nodes wants at least 1 (got 0)'
[[ $per == gpu || $per == node ]] ||
  fail 2 "--per wants gpu or node (got '$per')"
program_options "$@"
workdir=$(expanded "$workdir")

tasks=1 # a node's processes
if [[ $per == gpu ]] && ((gpus > 1)); then tasks=$gpus; fi

# The step of the job. Processes of one GPU each find theirs by their number on
# the node, and so have to see all; a process of a whole node is told its GPUs.
step() {
  local command=(
    srun --ntasks-per-node="$tasks" --label --export=ALL --kill-on-bad-exit=0
    --wait=600
  )
  if ((gpus > 0)); then command+=(--gpu-bind=none); fi
  if [[ -n $cpus ]]; then command+=(--cpus-per-task="$cpus"); fi
  command+=(${srun[@]+"${srun[@]}"})
  if ((tasks == 1 && gpus > 1)); then
    command+=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s , 0 $((gpus - 1)))")
  fi
  command+=(
    launch/worker.sh note "$notes" "$python" -m vdm_jax.main "${program[@]}"
  )
  show "${command[@]}"
  ((dry_run)) || supervise "${command[@]}"
}

submit() {
  run cd "$here/.."
  if ((install)); then
    run python3 -m venv .venv
    run .venv/bin/pip install --quiet --editable ".[$extra]"
  fi
  run mkdir -p "$workdir"
  local command=(
    sbatch --job-name=vdm_jax --chdir="$(cd "$here/.." && pwd)" --export=ALL
    --requeue --open-mode=append --signal=B:TERM@120
    --output="$workdir/slurm-%j.log"
    --nodes="$nodes" --ntasks-per-node="$tasks"
  )
  if ((gpus > 0)); then command+=(--gpus-per-node="$gpus"); fi
  if [[ -n $cpus ]]; then command+=(--cpus-per-task="$cpus"); fi
  if [[ -n $limit ]]; then command+=(--time="$limit"); fi
  run "${command[@]}" ${sbatch[@]+"${sbatch[@]}"} launch/slurm.sh "${given[@]}"
}

# The exit statuses of all processes of the step.
statuses() {
  local i file
  for ((i = 0; i < ${SLURM_JOB_NUM_NODES:-$nodes} * tasks; i++)); do
    file=$notes/$i
    if [[ -f $file ]]; then cat "$file"; else echo lost; fi
  done
}

job() {
  notes=$workdir/.slurm-$SLURM_JOB_ID
  mkdir -p "$notes"
  # What the starts before this one left: the progress, and how often none was.
  if [[ -f $notes/restarts ]]; then
    read -r idle mark <"$notes/restarts"
  else
    mark=$(progress "$workdir")
  fi
  rm -f "$notes"/[0-9]*
  local ended=0 all answer
  step || ended=$?
  all=$(statuses | tr '\n' ' ')
  # shellcheck disable=SC2086
  answer=$(verdict $all)
  say "exit statuses: ${all% }"
  if ((answer == 0 && ended != 0)); then answer=$ended; fi
  if [[ $answer != 42 && $answer != 75 ]]; then
    rm -rf "$notes"
    exit "$answer"
  fi
  if ! may_restart "$(progress "$workdir")"; then
    rm -rf "$notes"
    fail "$answer" "status $answer, and $restarts restarts without progress"
  fi
  echo "$idle $mark" >"$notes/restarts"
  # A job that Slurm is ending (scancel, pre-emption) is left to it.
  local state
  state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T || true)
  if [[ $state != RUNNING ]]; then
    say "status $answer; the job is ${state:-gone}"
    exit "$answer"
  fi
  say "status $answer; into the queue again"
  run scontrol requeue "$SLURM_JOB_ID" ||
    say 'error: no place in the queue; submit the same line to continue'
  exit "$answer"
}

if ((dry_run)); then
  submit
  notes="$workdir/.slurm-JOB"
  echo '# in the job:'
  step
  echo '# after status 42 or 75:'
  show squeue --noheader --jobs=JOB --format=%T
  show scontrol requeue JOB
elif [[ -n ${SLURM_JOB_ID:-} ]]; then
  job
else
  submit
fi
