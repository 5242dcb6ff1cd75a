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

from tests import tiny
from vdm_jax import cascade, errors, main, sample, sharding, step, train
from vdm_jax import config as config_lib
from vdm_jax.generate import Generator

ONE = jax.devices()[:1]
SIZES = {'small': 8, 'large': 16}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """The folder of both models' workdirs."""
  folder = tmp_path_factory.mktemp('runs')
  for name, size in SIZES.items():
    config = tiny.config(
      train__steps=2,
      data__size=size,
      data__strides=(4, 1),
      model__attention_resolutions=(),
    )
    train.run(config, folder / name, ONE)
  return folder


def config(runs, *stages, **overrides):
  """A cascade of stages, each (name, model, frames, stride, its options)."""
  c = tiny.config(sample__count=3, **overrides).unlock()
  c.cascade = ml_collections.ConfigDict({'order': tuple(s[0] for s in stages)})
  for name, model, frames, stride, options in stages:
    stage = config_lib.stage(**options)
    stage.workdir, stage.size = str(runs / model), SIZES[model]
    stage.frames, stage.stride = frames, stride
    c.cascade[name] = stage
  return c.lock()


def both_at_once(runs, frames=9, overlap=1, **options):
  return config(
    runs,
    ('base', 'small', 3, 4, {}),
    ('super', 'large', frames, 1, {'overlap': overlap} | options),
  )


class Drawn:
  """A stand-in for `Generator.__call__`: noise of the keys, and a record.

  Attributes:
    calls: (height, told strides, known, seen), where `known` and `seen` map
      positions in the window to uint8 frames `[b, h, w, 3]`.
    most: how many calls before it fails.
  """

  def __init__(self):
    self.calls, self.most = [], 10**6

  def __call__(self, shape, keys, told, observation):
    if len(self.calls) == self.most:
      raise KeyboardInterrupt
    parts = {1: {}, 2: {}}
    for part in observation.parts if observation else ():
      frames = np.moveaxis(np.asarray(step.to_uint8(part.values)), 1, 0)
      parts[part.factor] |= dict(zip(part.indices, frames, strict=True))
    known, seen = parts[1], parts[2]
    self.calls.append((shape[1], set(told['stride'].tolist()), known, seen))
    draws = [
      np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
      for seed in np.asarray(jax.random.key_data(keys))
    ]
    videos = np.stack(draws)
    for i, frame in known.items():
      videos[:, i] = frame
    return videos


@pytest.fixture
def drawn(monkeypatch):
  drawn = Drawn()

  def draw(self, params, *, keys, told, steps, observation=None, tick=None):
    return drawn(self.shape, keys, told, observation)

  monkeypatch.setattr(Generator, '__call__', draw)
  return drawn


def videos(workdir, name):
  return np.load(workdir / 'stages' / name / 'frames.npy')


def coarse(video, factor):
  """Means of blocks, by a loop."""
  n = len(video[0, 0]) // factor
  out = np.zeros((*video.shape[:-3], n, n, 3))
  for i, j in np.ndindex(n, n):
    rows = slice(i * factor, (i + 1) * factor)
    columns = slice(j * factor, (j + 1) * factor)
    out[..., i, j, :] = video[..., rows, columns, :].mean((-3, -2))
  return out


def printed(capsys):
  """The agreements printed, by stage."""
  found = re.findall(
    r'stage (\w+): sub.* by ([\d.]+)/255', capsys.readouterr().out
  )
  return {name: float(value) for name, value in found}


@pytest.mark.parametrize('frames', [9, 10, 11, 12])
@pytest.mark.parametrize('overlap', [0, 1, 2])
def test_each_window_sees_what_there_is(
  runs, tmp_path, drawn, capsys, frames, overlap
):
  cascade.run(both_at_once(runs, frames, overlap), tmp_path, ONE)
  low, high = videos(tmp_path, 'base'), videos(tmp_path, 'super')
  assert low.shape == (3, 3, 8, 8, 3) and high.shape == (3, frames, 16, 16, 3)
  (first, *rest), made = drawn.calls, set()
  assert first == (8, {0}, {}, {})  # stride 4 is the first of the two
  starts = [*range(0, frames - 3, 3 - overlap), frames - 3]
  assert len(rest) == len(starts)
  for start, (size, strides, known, seen) in zip(starts, rest, strict=True):
    window = range(start, start + 3)
    assert (size, strides) == (16, {1})
    assert {start + i for i in known} == made & set(window)
    assert {start + i for i in seen} == ({0, 4, 8} & set(window)) - made
    for i, frame in known.items():
      np.testing.assert_array_equal(frame[:3], high[:, start + i])
    for i, frame in seen.items():
      np.testing.assert_array_equal(frame[:3], low[:, (start + i) // 4])
    made |= set(window)
  error = coarse(high[:, [0, 4, 8]], 2) - low
  rms = np.sqrt(np.mean(error**2))
  assert printed(capsys) == {'super': pytest.approx(rms, abs=0.006)}


def test_time_and_space_one_after_the_other(runs, tmp_path, drawn, capsys):
  c = config(
    runs,
    ('base', 'small', 3, 4, {}),
    ('smooth', 'small', 11, 1, {'overlap': 1}),
    ('large', 'large', 11, 1, {'overlap': 2}),
    sample__count=10,
  )
  cascade.run(c, tmp_path, ONE)
  base, smooth, large = (videos(tmp_path, n) for n in c.cascade.order)
  assert smooth.shape == (10, 11, 8, 8, 3) and large.shape[1:3] == (11, 16)
  np.testing.assert_array_equal(smooth[:, [0, 4, 8]], base)
  assert not any(seen for size, *_, seen in drawn.calls if size == 8)
  # The frames that are given are known from the start, also those to come.
  assert [sorted(call[2]) for call in drawn.calls[2:6:2]] == [[0], [0, 2]]
  shown = coarse(large, 2) - smooth
  assert printed(capsys) == {
    'smooth': 0,
    'large': pytest.approx(np.sqrt(np.mean(shown**2)), abs=0.006),
  }
  about = [
    json.loads(path.read_text())
    for path in sorted(tmp_path.glob('samples/*/section.json'))
  ]
  assert [a['title'].split()[-1] for a in about] == ['base', 'smooth', 'large']
  assert [a['fps'] for a in about] == [2, 8, 8]  # all last as long
  assert [len(a['items']) for a in about] == [8, 8, 10]


def test_stages_draw_different_noise(runs):
  """With one seed the first numbers of both would be the same."""
  mesh = sharding.make_mesh(devices=ONE)
  first, second = (
    s.wanted.seed for s in cascade.check(both_at_once(runs), mesh)
  )
  assert first == 0 != second
  other = both_at_once(runs).unlock()
  other.sample.seed = 1
  seeds = [s.wanted.seed for s in cascade.check(other, mesh)]
  assert seeds[0] == 1 and len({first, second, *seeds}) == 4


def test_an_interrupted_run_continues(runs, tmp_path, drawn):
  """Ten videos in two batches: 2 windows of the base, 8 of the super."""
  c = both_at_once(runs).unlock()
  c.sample.count = 10
  cascade.run(c, tmp_path / 'whole', ONE)
  whole = len(drawn.calls)
  assert whole == 10
  for most in (1, 2, 5, 9):
    workdir = tmp_path / str(most)
    drawn.calls, drawn.most = [], most
    with pytest.raises(KeyboardInterrupt):
      cascade.run(c, workdir, ONE)
    drawn.calls, drawn.most = [], whole - most
    cascade.run(c, workdir, ONE)
    assert len(drawn.calls) == whole - most
    for name in c.cascade.order:
      np.testing.assert_array_equal(
        videos(workdir, name), videos(tmp_path / 'whole', name)
      )
  drawn.calls, drawn.most = [], 0
  cascade.run(c, tmp_path / 'whole', ONE)  # makes nothing


def test_another_base_makes_everything_anew(runs, tmp_path, drawn):
  c = both_at_once(runs).unlock()
  cascade.run(c, tmp_path, ONE)
  before = videos(tmp_path, 'super')
  drawn.calls = []
  c.cascade.base.sample.steps = 2
  c.sample.seed = 5
  cascade.run(c, tmp_path, ONE)
  assert len(drawn.calls) == 5
  assert (videos(tmp_path, 'super') != before).any()


def test_guidance_makes_the_stages_agree(runs, tmp_path, capsys):
  """The whole thing, with real models: frames and pixels at once."""
  found = {}
  for weight in (1e-6, 4.0):
    c = both_at_once(runs, guidance_weight=weight, steps=8).unlock()
    c.sample.update(count=2, batch_size=2)
    cascade.run(c, tmp_path / str(weight), ONE)
    found |= {weight: printed(capsys)['super']}
  print(found)
  assert found[4.0] < 0.5 * found[1e-6]


BAD = {
  'no section': (lambda c: c.__delattr__('cascade'), 'configs/cascade.py'),
}
