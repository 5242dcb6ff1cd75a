"""Cascades: who sees which frames, what is made twice, and what is refused.

Two tiny models know the strides 4 and 1: `small` makes 3×8×8, `large` makes
3×16×16. Where only the bookkeeping matters, a stand-in draws their windows.
"""

import json
import re
import sys

import jax
import ml_collections
import numpy as np
import pytest

from tests import quick, tiny
from vdm_jax import cascade, errors, main, sharding, train
from vdm_jax import config as config_lib

ONE = jax.devices()[:1]
SIZES = {'small': 8, 'large': 16}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """The folder of both models' workdirs; what they have learnt is nothing."""
  folder = tmp_path_factory.mktemp('runs')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, 'compile_step', quick.no_step)
    for name, size in SIZES.items():
      config = tiny.config(
        train__steps=2,
        data__size=size,
        data__strides=(4, 1),
        model__attention_resolutions=(),
      )
      train.run(config, folder / name, ONE)
  return folder


@pytest.fixture
def drawn(monkeypatch):
  return quick.Windows(monkeypatch)


@pytest.fixture
def unseen(monkeypatch):
  """Writes no files of the samples."""
  monkeypatch.setattr(cascade, 'show', lambda *_, **__: None)


def config(runs, *stages, count=3):
  """A cascade of stages, each (name, model, frames, stride, its options)."""
  c = tiny.config(sample__count=count).unlock()
  c.cascade = ml_collections.ConfigDict({'order': tuple(s[0] for s in stages)})
  for name, model, frames, stride, options in stages:
    stage = config_lib.stage(**options)
    stage.workdir, stage.size = str(runs / model), SIZES[model]
    stage.frames, stage.stride = frames, stride
    c.cascade[name] = stage
  return c


def both_at_once(runs, frames=9, *, count=3, **options):
  return config(
    runs,
    ('base', 'small', 3, 4, {}),
    ('super', 'large', frames, 1, {'overlap': 1} | options),
    count=count,
  )


def videos(workdir, name):
  return np.load(workdir / 'stages' / name / 'frames.npy')


def coarse(video):
  """Means of blocks of 2×2 pixels."""
  return sum(
    video[..., i::2, j::2, :].astype(float) / 4 for i, j in np.ndindex(2, 2)
  )


def distance(a, b):
  """Root mean square, as it is printed."""
  return pytest.approx(np.sqrt(np.mean((a - b.astype(float)) ** 2)), abs=0.0051)


def agreements(capsys):
  """What was printed, by stage."""
  text = capsys.readouterr().out
  found = re.findall(r'stage (\w+): sub.* by ([\d.]+)/255', text)
  return {name: float(value) for name, value in found}


@pytest.mark.parametrize(
  ('frames', 'overlap'), [(9, 1), (10, 1), (11, 2), (12, 0)]
)
def test_each_window_sees_what_there_is(
  runs, tmp_path, drawn, unseen, capsys, frames, overlap
):
  cascade.run(both_at_once(runs, frames, overlap=overlap), tmp_path, ONE)
  low, high = videos(tmp_path, 'base'), videos(tmp_path, 'super')
  assert low.shape == (3, 3, 8, 8, 3) and high.shape == (3, frames, 16, 16, 3)
  (first, *rest), made = drawn.calls, set()
  assert first.size == 8 and not first.known and not first.seen
  assert set(first.told['stride']) == {0}  # the first of the strides 4 and 1
  starts = [*range(0, frames - 3, 3 - overlap), frames - 3]
  assert len(rest) == len(starts)
  for start, call in zip(starts, rest, strict=True):
    assert call.size == 16 and set(call.told['stride']) == {1}
    window = set(range(start, start + 3))
    assert {start + i for i in call.known} == made & window
    assert {start + i for i in call.seen} == ({0, 4, 8} & window) - made
    for i, frame in call.known.items():
      np.testing.assert_array_equal(frame[:3], high[:, start + i])
    for i, frame in call.seen.items():
      np.testing.assert_array_equal(frame[:3], low[:, (start + i) // 4])
    made |= window
  found = agreements(capsys)
  assert found == {'super': distance(coarse(high[:, [0, 4, 8]]), low)}
  assert found != {'super': distance(coarse(high[:, [0, 4, 7]]), low)}


@pytest.mark.slow
def test_time_and_then_space(runs, tmp_path, drawn, capsys):
  c = config(
    runs,
    ('base', 'small', 3, 4, {}),
    ('smooth', 'small', 10, 1, {'overlap': 2}),
    ('large', 'large', 10, 1, {'overlap': 2}),
    count=9,
  )
  c.sample.batch_size = 16
  cascade.run(c, tmp_path, ONE)
  base, smooth, large = (videos(tmp_path, n) for n in c.cascade.order)
  assert smooth.shape == (9, 10, 8, 8, 3)
  assert large.shape == (9, 10, 16, 16, 3)
  np.testing.assert_array_equal(smooth[:, [0, 4, 8]], base)
  _, *more = drawn.calls
  # Frames 0, 4 and 8 are known from the start: no window for 4 or 8 alone.
  known = [sorted(call.known) for call in more if call.size == 8]
  assert known == [[0]] + 5 * [[0, 1]]
  seen = [sorted(call.seen) for call in more if call.size == 16]
  assert seen == [[0, 1, 2]] + 7 * [[2]]
  assert agreements(capsys) == {
    'smooth': 0,
    'large': distance(coarse(large), smooth),
  }
  about = [
    json.loads(path.read_text())
    for path in sorted(tmp_path.glob('samples/*/section.json'))
  ]
  assert [a['title'].split()[-1] for a in about] == ['base', 'smooth', 'large']
  assert [a['fps'] for a in about] == [2, 8, 8]  # all last equally long
  assert [len(a['items']) for a in about] == [8, 8, 9]
  assert 'it differs' in (tmp_path / 'index.html').read_text()


def test_guidance_brings_the_stages_together(runs, tmp_path, unseen, capsys):
  """A new network is the denoiser of white noise, of which little is free."""
  found = {}
  for weight in (1e-6, 2.0):
    constant = {'guidance_weight': weight, 'weight_schedule': 'constant'}
    c = config(
      runs,
      ('base', 'small', 3, 4, {}),
      ('super', 'large', 3, 4, constant),
      count=2,
    )
    c.sample.update(batch_size=2, steps=8)
    cascade.run(c, tmp_path, ONE)  # the base is the same, and kept
    base, high = videos(tmp_path, 'base'), videos(tmp_path, 'super')
    found[weight] = agreements(capsys)['super']
    assert found[weight] == distance(coarse(high), base)
    assert base.std() > 50 and high.std() > 50
  assert found[2.0] < 0.2 * found[1e-6]


def test_stages_draw_different_noise(runs):
  """Equal seeds would make one's noise the beginning of the other's."""
  mesh = sharding.make_mesh(devices=ONE)
  seeds = []
  for seed in (0, 1):
    c = both_at_once(runs)
    c.sample.seed = seed
    seeds += [stage.wanted.seed for stage in cascade.check(c, mesh)]
  assert seeds[::2] == [0, 1]  # the base is what its model makes alone
  assert len(set(seeds)) == 4


def test_an_interrupted_run_continues(runs, tmp_path, drawn, unseen):
  """Nine videos are two batches: 2 windows of the base, 8 of the super."""
  c = both_at_once(runs, count=9)
  cascade.run(c, tmp_path / 'whole', ONE)
  assert len(drawn.calls) == 10
  for most in (2, 7):
    workdir = tmp_path / str(most)
    drawn.calls, drawn.most = [], most
    with pytest.raises(KeyboardInterrupt):
      cascade.run(c, workdir, ONE)
    drawn.calls, drawn.most = [], 10 - most  # what is left, and no more
    cascade.run(c, workdir, ONE)
    for name in c.cascade.order:
      np.testing.assert_array_equal(
        videos(workdir, name), videos(tmp_path / 'whole', name)
      )


def test_only_what_has_changed_is_made_again(runs, tmp_path, drawn, unseen):
  c = both_at_once(runs)
  counts = []
  for change in ({}, {}, {'cascade.super.sample.steps': 2}, {'sample.seed': 5}):
    c.update_from_flattened_dict(change)
    drawn.calls = []
    cascade.run(c, tmp_path, ONE)
    counts.append(len(drawn.calls))
  assert counts == [5, 0, 4, 5]


BAD = {
  'no workdir': ({'cascade.super.workdir': ''}, 'super.workdir is empty'),
  'no run': ({'cascade.super.workdir': '/nowhere'}, 'stage super: /nowhere'),
  'no such step': ({'cascade.super.sample.step': 1}, 'stage super: .*step 1'),
  'other size': ({'cascade.super.size': 32}, 'stage super.* 16 .*not 32'),
  'no multiple': ({'cascade.super.size': 20}, '20 pixels, no multiple of .* 8'),
  'smaller': ({'cascade.super.size': 4}, '4 pixels, no multiple'),
  'unknown stride': ({'cascade.super.stride': 2, 'cascade.super.frames': 5},
                     r'stage super: .*\(4, 1\)'),
  'no divisor': ({'cascade.super.stride': 3}, 'stride 3, which .*divide 4'),
  'no stride': ({'cascade.super.stride': 0}, 'super.stride is 0'),
  'too short': ({'cascade.super.frames': 8}, 'use 9 to 12'),
  'too long': ({'cascade.super.frames': 13}, 'use 9 to 12'),
  'no progress': (
    {'cascade.super.stride': 4, 'cascade.super.frames': 3,
     'cascade.super.size': 8},
    'leave it out',
  ),
  'whole overlap': ({'cascade.super.sample.overlap': 3}, 'stage super: .* 3'),
  'unknown stage': ({'cascade.order': ('base', 'sup')}, "names 'sup'"),
  'no stage': ({'cascade.order': ()}, 'order is empty'),
  'guidance': ({'cascade.super.sample.guidance_scale': 2.0},
               'stage super: .*guidance_scale'),
  'replacement': ({'cascade.super.sample.conditioning': 'replacement'},
                  'stage super: .*replacement'),
  'range': ({'cascade.super.sample.steps': 0}, 'stage super: .*steps is 0'),
  'misspelt': ({'cascade.super.sample.stepz': 4}, 'super.sample.stepz is'),
  'own count': ({'cascade.super.sample.count': 4}, 'super.sample.count'),
  'own frames': ({'cascade.super.sample.frames': 4}, 'super.sample.frames'),
  'own video': ({'sample.video': 'a.mp4'}, 'sample.video'),
}  # fmt: skip


def refused(c, workdir, drawn, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    cascade.run(c, workdir / 'out', ONE)
  text = str(caught.value)
  assert '\n' not in text and '; ' in text and len(text) < 300
  assert drawn.calls == [] and not (workdir / 'out').exists()


@pytest.mark.parametrize('kind', BAD)
def test_mistakes_are_found_first(runs, tmp_path, drawn, kind):
  changes, message = BAD[kind]
  c = both_at_once(runs)
  c.update_from_flattened_dict(changes)
  refused(c, tmp_path, drawn, message)


def test_a_config_without_stages(runs, tmp_path, drawn):
  refused(tiny.config(), tmp_path, drawn, r'configs/cascade\.py')


def test_a_workdir_without_its_checkpoint(runs, tmp_path, drawn):
  c = both_at_once(runs)
  c.cascade.super.workdir = str(tmp_path)
  text = (runs / 'large' / 'config.json').read_text()
  (tmp_path / 'config.json').write_text(text)
  refused(c, tmp_path, drawn, 'stage super: no checkpoint')
  (tmp_path / 'checkpoints').symlink_to(runs / 'small' / 'checkpoints')
  refused(c, tmp_path, drawn, 'stage super: .* another config')


def test_the_command(runs, tmp_path, drawn, monkeypatch, capsys):
  """With the config of the README, made small."""
  argv = ['main.py', '--mode=cascade', f'--workdir={tmp_path}']
  argv += ['--config=configs/cascade.py:shapes', '--config.sample.count=2']
  argv += ['--config.mesh.cpu_devices=0']
  for stage, model, frames in (('base', 'small', 3), ('super', 'large', 9)):
    of_stage = f'--config.cascade.{stage}.'
    argv += [
      f'{of_stage}workdir={runs / model}',
      f'{of_stage}frames={frames}',
      f'{of_stage}size={SIZES[model]}',
    ]
  monkeypatch.setattr(sys, 'argv', argv)
  assert main.main(argv) == 0
  assert videos(tmp_path, 'super').shape == (2, 9, 16, 16, 3)
  assert 'Stage 2: super' in (tmp_path / 'index.html').read_text()
  assert "the judge's scores" in capsys.readouterr().out
  calls = len(drawn.calls)
  assert main.main([*argv, '--config.cascade.super.stride=3']) == 2
  assert capsys.readouterr().err.startswith('vdm_jax: error: stage super')
  assert len(drawn.calls) == calls
