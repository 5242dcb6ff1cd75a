# shellcheck shell=bash
# What the launch scripts share; sourced, never run.
# shellcheck disable=SC2034  # some of these are used there alone

dry_run=0
restarts=3
pause=5
program=()
workdir=''
idle=0
mark=none
interrupted=0

# Prints the comment at the head of a script, which is its help.
usage() {
  awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
}

say() {
  printf 'launch/%s: %s\n' "${0##*/}" "$*" >&2
}

# Ends with a status and one line.
fail() {
  local status=$1
  shift
  say "error: $*"
  exit "$status"
}

# A command line as a shell would read it.
quoted() {
  local word line='' quote="'\\''"
  for word; do
    if [[ ! $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      word="'${word//\'/$quote}'"
    fi
    line+=" $word"
  done
  printf %s "${line# }"
}

show() {
  printf '+ %s\n' "$(quoted "$@")"
}

# Prints a command, and runs it unless --dry-run was given.
run() {
  show "$@"
  ((dry_run)) || "$@"
}

# The value of --name=value.
value() {
  [[ -n ${1#*=} ]] || fail 2 "${1%%=*} wants a value; see --help"
  printf %s "${1#*=}"
}

# The whole number of --name=number.
number() {
  [[ ${1#*=} =~ ^[0-9]{1,9}$ ]] ||
    fail 2 "${1%%=*} wants a whole number (got '${1#*=}')"
  printf %s "$((10#${1#*=}))"
}

# Takes what follows the launcher's own options as the program's, and finds
# its --workdir, which is where a restart finds what was done.
program_options() {
  program=("$@")
  local previous='' word
  for word; do
    case $word in
      --workdir=*) workdir=${word#*=} ;;
      *) if [[ $previous == --workdir ]]; then workdir=$word; fi ;;
    esac
    previous=$word
  done
  [[ -n $workdir ]] || fail 2 \
    'no --workdir given; a restart continues from it (see --help)'
  [[ $workdir != *://* ]] || fail 2 \
    "the workdir must be a path (got $workdir); mount the bucket (see --help)"
}

# A path of this machine as the program takes it: after a quote or = a shell
# leaves ~ alone, which the program does not.
expanded() {
  case $1 in
    \~ | \~/*) printf %s "$HOME${1:1}" ;;
    \~*) fail 2 "the workdir names a user's home (got $1); write it out" ;;
    *) printf %s "$1" ;;
  esac
}

unknown_option() {
  fail 2 "unknown option ($1); see --help, the program's options come last"
}

# A fingerprint of what a workdir holds; it changes when work gets done.
progress() {
  {
    find -L "$1" -maxdepth 4 ! -name '*tmp*' \
      \( -path '*/checkpoints/[0-9]*' -o -path '*/samples/*' \) \
      -prune -print 2>/dev/null || true
  } | LC_ALL=C sort | cksum
}

# Whether to run once more, given the progress after a run. Counts the restarts
# in a row that brought none.
may_restart() {
  if [[ $1 == "$mark" ]]; then idle=$((idle + 1)); else idle=0; fi
  mark=$1
  ((restarts > 0 && idle <= restarts))
}

# One exit status for many processes: 0 if all are 0; else the first that no
# restart can mend; else 42 if they were asked to stop, else 75. A process that
# died of a signal, or of which nothing was heard, died with another one; but
# 130 is somebody's Ctrl-C.
verdict() {
  local status answer=0
  for status; do
    case $status in
      0) ;;
      42) if ((answer == 0)); then answer=42; fi ;;
      75 | lost) answer=75 ;;
      *)
        if ((status < 128 || status == 130)); then
          printf %s "$status"
          return
        fi
        answer=75
        ;;
    esac
  done
  printf %s "$answer"
}

# Sleeps, and wakes for a signal.
nap() {
  sleep "$1" &
  wait $! || true
}

# Runs a command in a process group of its own, so that Ctrl-C reaches it once,
# as the SIGTERM that asks it to save. Returns its status.
supervise() {
  local child status=0 last
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  # shellcheck disable=SC2064
  trap "interrupted=1; signalled=1; kill -TERM $child 2>/dev/null" INT TERM
  while :; do
    signalled=0
    last=$status
    status=0
    wait "$child" || status=$?
    if ((status == 127)); then status=$last; fi # it had ended before
    ((signalled)) || break
  done
  trap - INT TERM
  return "$status"
}
