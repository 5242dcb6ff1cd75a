"""Stand-ins of gcloud, kubectl and Slurm for the launch scripts.

Each is a small shell script on PATH which records its arguments and answers
from files of a `state` folder. The TPU stand-in has workers with homes of their
own, copies files to them and really runs the commands sent to them; the program
that they run at last is a stand-in too, and does what it is told, one action
for each start: a status to leave with, `save` before it, `wait` for SIGTERM.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

RECORD = r"""#!/usr/bin/env bash
record() {
  local IFS=$'\x1f'
  local line="$*"
  printf '%s\n' "${line//$'\n'/ }" >>"$STATE/calls"
}
record "${0##*/}" "$@"
"""

PROGRAM = r"""
echo $$ >>"$STATE/processes"
printf %s "${HF_TOKEN:-}" >"$STATE/token"
worker=${SLURM_PROCID:-$(cat "$HOME/number" 2>/dev/null || echo 0)}
actions=$STATE/actions.$worker
read -r action <"$actions"
sed -i 1d "$actions"
for word; do [[ $word == --workdir=* ]] && workdir=${word#*=}; done
[[ $workdir == "~/"* ]] && workdir=$HOME${workdir:1}
echo "started in $worker with $action"
case $action in
  save*)
    mkdir -p "$workdir/checkpoints/$(date +%s%N)"
    ;;
  taken) # the cloud takes the slice away
    echo PREEMPTED 2 >"$STATE/slice"
    ;;
esac
case $action in
  # Bash cannot trap a signal that it was started to ignore; Python can.
  wait | taken)
    exec PYTHON -ISc "$(cat "$STATE/wait.py")" vdm_jax.main \
      "$STATE/signals.$worker"
    ;;
esac
echo "ends in $worker"
exit "${action#save}"
"""

WAIT = """
import signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
  signal.signal(number, lambda n, _: got.append(signal.Signals(n).name))
open(sys.argv[2] + '.ready', 'w').close()
while not got:
  time.sleep(0.02)
time.sleep(0.3)  # would there be another one?
print('saved', flush=True)
open(sys.argv[2], 'w').write(' '.join(got))
sys.exit(42)
"""

GCLOUD = r"""
answer() {
  if [[ -f $STATE/$1 ]]; then cat "$STATE/$1"; return; fi
  echo "ERROR: (gcloud) ${ANSWER:-NOT_FOUND}: no such resource" >&2
  exit 1
}
for word; do
  case $word in
    --worker=*) worker=${word#*=} ;;
    --command=*) command=${word#*=} ;;
  esac
done
home=$STATE/worker$worker
case $3\ $4 in
  tpu-vm\ describe) answer slice ;;
  queued-resources\ describe) answer request ;;
  queued-resources\ create)
    echo ACTIVE >"$STATE/request"
    echo READY 2 >"$STATE/slice"
    ;;
  *\ delete)
    for pid in "$STATE"/worker*/.vdm_jax/pid; do
      kill -KILL "$(cat "$pid")" 2>/dev/null
    done
    rm -rf "$STATE/request" "$STATE/slice" "$STATE"/worker*
    ;;
  tpu-vm\ scp)
    mkdir -p "$home/.local/bin"
    echo "$worker" >"$home/number"
    cp "$STATE/../bin/uv" "$home/.local/bin/uv"
    cp -p "$5" "$6" "$home"
    ;;
  tpu-vm\ ssh)
    mkdir -p "$home"
    cd "$home"
    # Nothing of the caller's environment goes through ssh.
    env -i PATH="$PATH" HOME="$home" STATE="$STATE" bash -c "$command"
    ;;
esac
"""

UV = """
if [[ $1 == venv ]]; then
  mkdir -p .venv/bin
  cp "$STATE/../bin/program" .venv/bin/python
fi
"""

SRUN = r"""
tasks=1
while [[ $1 == --* ]]; do
  [[ $1 == --ntasks-per-node=* ]] && tasks=${1#*=}
  shift
done
children=()
for ((i = 0; i < tasks * ${SLURM_JOB_NUM_NODES:-1}; i++)); do
  SLURM_PROCID=$i setsid "$@" &
  children+=($!)
done
# Slurm signals whole process groups.
trap 'for c in "${children[@]}"; do kill -TERM -- "-$c"; done' TERM
worst=0
for child in "${children[@]}"; do
  while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  ((status > worst)) && worst=$status
done
exit "$worst"
"""

KUBECTL = r"""
case $* in
  *'get jobset'*) cat "$STATE/jobset" 2>/dev/null || true ;;
  *'create secret'*) cat >"$STATE/secret"; echo 'kind: Secret' ;;
  *'apply '*)
    cat >"$STATE/applied"
    if grep -q 'kind: JobSet' "$STATE/applied"; then
      cp "$STATE/applied" "$STATE/manifest"
      printf JobSet >"$STATE/jobset"
    fi
    ;;
  *'delete jobset'*) rm -f "$STATE/jobset" ;;
  *logs*)
    echo '[pod/vdm-slice-0-0/main] hello'
    printf %s "JobSet${ENDS:-Completed}" >"$STATE/jobset"
    ;;
esac
"""

# The root is an ext4 on 8:1; all else is on what the file says, or on NFS.
FINDMNT = r"""
read -r kind number < <(cat "$STATE/disk" 2>/dev/null || echo nfs4 0:50)
for word; do [[ $word == --target=/ ]] && kind=ext4 && number=8:1; done
case $* in
  *--output=FSTYPE*) echo "$kind" ;;
  *--output=MAJ:MIN*) printf '%7s\n' "$number" ;;
  *) exit 1 ;;
esac
"""

BODIES = {
  'program': PROGRAM.replace('PYTHON', sys.executable),
  'gcloud': GCLOUD,
  'uv': UV,
  'srun': SRUN,
  'sbatch': 'echo Submitted batch job 7',
  'scontrol': 'exit "${SCONTROL:-0}"',
  'squeue': 'echo "${SQUEUE:-RUNNING}"',
  'kubectl': KUBECTL,
  'findmnt': FINDMNT,
  'mountpoint': 'exit 1',
  'gcsfuse': '',
  'sudo': '',
  'python3': '',
}


class Standins:
  """A folder of stand-ins, what they answer and what they were asked."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.state = folder / 'state'
    self.workdir = folder / 'runs' / 'w'
    (folder / 'bin').mkdir()
    self.state.mkdir()
    (self.state / 'wait.py').write_text(WAIT)
    for name, body in BODIES.items():
      path = folder / 'bin' / name
      path.write_text(RECORD + body)
      path.chmod(0o755)
    self.program = str(folder / 'bin' / 'program')

  def act(self, *actions, worker=0):
    """What the program does at its starts, one after the other."""
    text = ''.join(f'{a}\n' for a in actions)
    (self.state / f'actions.{worker}').write_text(text)

  def calls(self, *words):
    """The argument vectors recorded that contain all the words, in order."""
    if not (self.state / 'calls').exists():
      return []
    lines = (self.state / 'calls').read_text().splitlines()
    vectors = [line.split('\x1f') for line in lines]
    return [v for v in vectors if all(w in v for w in words)]

  def environment(self, **more):
    """The environment of a script: nothing of ours but the stand-ins."""
    path = f'{self.folder / "bin"}:/usr/bin:/bin'
    home = self.folder / 'home'
    home.mkdir(exist_ok=True)
    base = {'PATH': path, 'HOME': str(home), 'STATE': str(self.state)}
    return base | {'TMPDIR': str(self.folder)} | more

  def start(self, script, *arguments, **more):
    """Starts a script in a terminal's stead: a process group of its own."""
    with (self.folder / 'output').open('w') as output:
      return subprocess.Popen(
        ['bash', f'launch/{script}', *map(str, arguments)],
        env=self.environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
      )

  def output(self):
    """What the script last started has said so far."""
    return (self.folder / 'output').read_text()

  def finish(self, process, timeout=60):
    """Waits for a script: (status, output); kills one that hangs."""
    try:
      status = process.wait(timeout)
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      raise AssertionError(f'it hangs; it said:\n{self.output()}') from None
    return status, self.output()

  def run(self, script, *arguments, **more):
    """Runs a script to its end: (status, output)."""
    return self.finish(self.start(script, *arguments, **more))

  def close(self):
    """Ends programs that were left running."""
    path = self.state / 'processes'
    for number in path.read_text().split() if path.exists() else ():
      command = pathlib.Path('/proc', number, 'cmdline')
      try:
        if b'vdm_jax.main' in command.read_bytes():
          os.kill(int(number), signal.SIGKILL)
      except (FileNotFoundError, ProcessLookupError):
        pass

  def wait_for(self, process, programs=1):
    """Waits until that many programs wait for a signal."""
    deadline = time.monotonic() + 60
    while len(list(self.state.glob('signals.*.ready'))) < programs:
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.05)

  def interrupt(self, process, programs=1):
    """Ctrl-C, once that many programs wait for a signal."""
    self.wait_for(process, programs)
    os.killpg(process.pid, signal.SIGINT)

  def calls_of_program(self):
    """The starts of the program."""
    return self.calls('-m', 'vdm_jax.main')

  def signals(self, worker=0):
    """The signals which the program got."""
    path = self.state / f'signals.{worker}'
    return path.read_text().split() if path.exists() else []
