#!/usr/bin/env bash
# Runs one command on TPU slices of a GKE cluster, as a JobSet.
#
#   docker build --file=launch/Dockerfile --tag=IMAGE . && docker push IMAGE
#   launch/gke.sh --name=vdm --image=IMAGE --accelerator=tpu-v6e-slice \
#     --topology=4x4 --claim=runs -- --config=configs/ucf101.py \
#     --workdir=/mnt/storage/ucf101
#
# It fills in launch/gke.yaml, applies it, and prints how to follow it. Status
# 42 (asked to stop), 75 and lost nodes restart the run, which continues; any
# other ends it. The same line follows a run that is under way, and continues
# one that has ended. It needs kubectl with the cluster's credentials, envsubst,
# and JobSet in the cluster.
#
#   --name=NAME          of the JobSet, and of the secret with the variables
#   --image=IMAGE        with the package in it, see above
#   --accelerator=A      as tpu-v5-lite-podslice, tpu-v5p-slice, tpu-v6e-slice
#   --topology=4x4       of one slice
#   --chips=4            of one host
#   --slices=1           several compute together, over the network
#   --spot               on spot nodes
#   --claim=CLAIM        a volume claim that many pods may write, as Filestore
#                        makes them; the workdir lies on it
#   --gcsfuse            the claim is of a bucket, by the gcsfuse driver
#   --at=FOLDER          where it is mounted; default /mnt/storage
#   --account=default    the pods' service account
#   --namespace=SPACE    default: kubectl's own
#   --env=NAME           pass this variable on; may be repeated. HF_TOKEN and
#                        WANDB_API_KEY are passed on if they are set, in a
#                        secret and never in a command
#   --restarts=100       of the JobSet in all; it knows nothing of progress
#   --follow             show the output of all pods, and wait
#   --pause=20           seconds between looks at it
#   --dry-run            print the commands and run nothing
#   --help               this text
#
# Options from --config, --workdir, --mode or -- on are the program's.

# shellcheck disable=SC2034  # what gke.yaml names is exported by name
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
source "$here/common.sh"

NAME=''
IMAGE=''
ACCELERATOR=''
TOPOLOGY=''
CHIPS=4
SLICES=1
SPOT=DoesNotExist
CLAIM=''
GCSFUSE=false
FOLDER=/mnt/storage
ACCOUNT=default
RESTARTS=100
follow=0
pause=20
kubectl=(kubectl)
variables=(HF_TOKEN WANDB_API_KEY)

while (($#)); do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --name=*) NAME=$(value "$1") ;;
    --image=*) IMAGE=$(value "$1") ;;
    --accelerator=*) ACCELERATOR=$(value "$1") ;;
    --topology=*) TOPOLOGY=$(value "$1") ;;
    --chips=*) CHIPS=$(number "$1") ;;
    --slices=*) SLICES=$(number "$1") ;;
    --spot) SPOT=Exists ;;
    --claim=*) CLAIM=$(value "$1") ;;
    --gcsfuse) GCSFUSE=true ;;
    --at=*) FOLDER=$(value "$1") ;;
    --account=*) ACCOUNT=$(value "$1") ;;
    --namespace=*) kubectl=(kubectl --namespace="$(value "$1")") ;;
    --env=*) variables+=("$(value "$1")") ;;
    --restarts=*) RESTARTS=$(number "$1") ;;
    --follow) follow=1 ;;
    --pause=*) pause=$(number "$1") ;;
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
[[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || fail 2 \
  "--name wants at most 40 small letters, digits and hyphens (got '$NAME')"
[[ -n $IMAGE ]] || fail 2 'no --image given; see --help for how to make one'
[[ -n $ACCELERATOR ]] || fail 2 'no --accelerator given, as tpu-v6e-slice'
[[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
  fail 2 "--topology wants sides, as 4x4 or 2x2x4 (got '$TOPOLOGY')"
[[ -n $CLAIM ]] || fail 2 'no --claim given; the workdir must outlive the pods'
((CHIPS > 0 && SLICES > 0)) ||
  fail 2 '--chips and --slices want at least 1 (got 0)'
all=$((${TOPOLOGY//x/*}))
((all % CHIPS == 0)) ||
  fail 2 "$all chips ($TOPOLOGY) are not hosts of $CHIPS; set --chips"
HOSTS=$((all / CHIPS))
for variable in "${variables[@]}"; do
  [[ $variable =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
    fail 2 '--env wants the name of a variable, not its value'
  [[ ${!variable:-} != *$'\n'* ]] ||
    fail 2 "the value of $variable has a line break in it"
done
program_options "$@"
[[ $workdir == "$FOLDER"/?* ]] ||
  fail 2 "the workdir must lie below $FOLDER, the claim's (got $workdir)"

# The program's options as a list of JSON, which is YAML. Kubernetes would fill
# in $(NAME); $$ keeps it from that.
arguments() {
  local word list=''
  for word; do
    [[ $word != *[[:cntrl:]]* ]] ||
      fail 2 'an option has a line break or a control character in it'
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    word=${word//\$(/\$\$(}
    list+=", \"$word\""
  done
  printf '[%s]' "${list#, }"
}

ARGUMENTS=$(arguments "${program[@]}")
names=(
  NAME IMAGE ACCELERATOR TOPOLOGY CHIPS SLICES HOSTS SPOT CLAIM GCSFUSE FOLDER
  ACCOUNT RESTARTS ARGUMENTS
)

manifest() (
  export "${names[@]}"
  # shellcheck disable=SC2016
  envsubst "$(printf '${%s} ' "${names[@]}")" <"$here/gke.yaml"
)

# The variables to be passed on, NAME=value; with an argument, that for a value.
environment() {
  local variable
  for variable in "${variables[@]}"; do
    if [[ -n ${!variable:-} ]]; then
      printf '%s=%s\n' "$variable" "${1:-${!variable}}"
    fi
  done
}

pass_environment() {
  if [[ -z $(environment '***') ]]; then return; fi
  local make=(
    "${kubectl[@]}" create secret generic "$NAME" --from-env-file=/dev/stdin
    --dry-run=client --output=yaml
  )
  local apply=("${kubectl[@]}" apply --server-side --filename=-)
  printf "+ %s <<'END' | %s\n%s\nEND\n" "$(quoted "${make[@]}")" \
    "$(quoted "${apply[@]}")" "$(environment '***')"
  ((dry_run)) || environment | "${make[@]}" | "${apply[@]}"
}

apply_manifest() {
  local command=("${kubectl[@]}" apply --filename=-)
  printf "+ %s <<'END'\n%s\nEND\n" "$(quoted "${command[@]}")" "$(manifest)"
  ((dry_run)) || manifest | "${command[@]}"
}

# How a JobSet of this name ended; RUNNING; or nothing, if there is none.
state() {
  local answer
  answer=$("${look[@]}") || exit 1
  case $answer in
    '') ;;
    JobSet) echo RUNNING ;;
    *) echo "${answer#JobSet}" ;;
  esac
}

look=(
  "${kubectl[@]}" get jobset "$NAME" --ignore-not-found
  --output='jsonpath={.kind}{.status.terminalState}'
)
delete=("${kubectl[@]}" delete jobset "$NAME" --cascade=foreground --wait)
logs=(
  "${kubectl[@]}" logs --follow --prefix --tail=-1 --container=main
  --selector="jobset.sigs.k8s.io/jobset-name=$NAME"
  --max-log-requests=$((HOSTS * SLICES + 1))
)
ready=(
  "${kubectl[@]}" wait --for=condition=Ready pod --timeout=-1s
  --selector="jobset.sigs.k8s.io/jobset-name=$NAME"
)

show "${look[@]}"
before=''
if ((dry_run)); then
  echo '# if it has ended:'
  show "${delete[@]}"
  echo '# if it is not running:'
else
  before=$(state)
fi
if [[ $before == RUNNING ]]; then
  say "$NAME is running; this line leaves it alone"
else
  if [[ -n $before ]]; then
    say "$NAME has ended ($before); starting it again, to continue"
    run "${delete[@]}"
  fi
  pass_environment
  apply_manifest
fi

# The output of the pods, until the JobSet ends; a restart makes new pods.
follow_run() {
  local now
  while :; do
    run "${ready[@]}" || true
    run "${logs[@]}" || true
    ((dry_run)) && return
    now=$(state)
    case $now in
      Completed) exit 0 ;;
      RUNNING) ;;
      *) fail 1 "$NAME has ended (${now:-deleted})" ;;
    esac
    nap "$pause"
  done
}

if ((follow)); then
  follow_run
else
  say 'to follow it, and to end it (which saves):'
  say "  $(quoted "${logs[@]}")"
  say "  $(quoted "${delete[@]}")"
fi
