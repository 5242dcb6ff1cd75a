"""Metrics survive kills and resumes as one curve."""

import errno
import io
import json
import os
import re
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import logs
from vdm_jax.errors import ConfigError, DataError


def fill(workdir, steps, **options):
  with logs.MetricWriter(workdir, clock=lambda: 7.0, **options) as writer:
    for step in steps:
      writer.write(step, {'loss': step / 4})
  return workdir / logs.FILE


def steps_of(path):
  return [row['step'] for row in logs.read(path)]


def test_what_is_written_is_read(tmp_path):
  path = fill(tmp_path / 'new', [1, 2])
  assert logs.read(path) == [
    {'step': 1, 'time': 7.0, 'loss': 0.25},
    {'step': 2, 'time': 7.0, 'loss': 0.5},
  ]


def test_a_line_is_in_the_file_when_write_returns(tmp_path):
  writer = logs.MetricWriter(tmp_path)
  writer.write(1, {'loss': 1.0})
  assert steps_of(tmp_path / logs.FILE) == [1]
  writer.close()


def test_a_line_is_in_the_bucket_when_write_returns(bucket):
  """Which gets what is closed: the machine may be taken away at any time."""
  writer = logs.MetricWriter(bucket.here)
  with (bucket.here / 'open').open('ab', buffering=0) as kept_open:
    for step in (1, 2):
      writer.write(step, {'loss': 1.0})
      kept_open.write(b'not so\n')
      bucket.show()
      assert steps_of(bucket.there / logs.FILE) == [*range(1, step + 1)]
      assert not (bucket.there / 'open').exists()
  bucket.show()
  assert (bucket.there / 'open').exists()
  writer.close()


@pytest.mark.parametrize('fault', ['write', 'close', 'lost'])
def test_lines_that_a_disk_refused_come_once(tmp_path, monkeypatch, fault):
  """Whether it says so at once, or when the file is closed, or kept nothing."""
  path = tmp_path / logs.FILE

  class Full(io.FileIO):
    def write(self, data):
      if fault != 'write':
        return super().write(data)
      super().write(data[:9])
      raise OSError(errno.ENOSPC, 'no space')

    def close(self):
      if self.closed or fault == 'write':
        return super().close()
      super().close()
      if fault == 'lost':
        os.truncate(path, before)
      raise OSError(errno.ENOSPC, 'no space')

  with logs.MetricWriter(tmp_path) as writer:
    writer.write(1, {'loss': 1.0})
    before = path.stat().st_size
    with monkeypatch.context() as full:
      full.setattr(logs.Path, 'open', lambda path, *_, **__: Full(path, 'ab'))
      for step in (2, 3, 4):
        writer.write(step, {'loss': 1.0})
    writer.write(5, {'loss': 1.0})
    assert steps_of(path) == [1, 2, 3, 4, 5]
  assert steps_of(path) == [1, 2, 3, 4, 5]


def test_a_kill_loses_one_line_at_most(tmp_path):
  whole = fill(tmp_path, [1, 2, 3]).read_bytes()
  path = tmp_path / logs.FILE
  for cut in {*range(0, len(whole), 5), len(whole) - 1, len(whole)}:
    path.write_bytes(whole[:cut])
    kept = list(range(1, whole[:cut].count(b'\n') + 1))
    assert steps_of(path) == kept
    fill(tmp_path, [9], restored_step=3)
    assert steps_of(path) == [*kept, 9]


def test_a_last_line_of_rubbish_is_torn_too(tmp_path):
  path = fill(tmp_path, [1])
  path.write_bytes(path.read_bytes() + b'\0\0\0\n')
  assert steps_of(path) == [1]
  fill(tmp_path, [2], restored_step=1)
  assert steps_of(path) == [1, 2]


@pytest.mark.parametrize('line', [b'rubbish\n', b'[1]\n', b'{"loss": 1}\n'])
def test_damage_elsewhere_is_said(tmp_path, line):
  path = fill(tmp_path, [1, 2])
  path.write_bytes(line + path.read_bytes())
  with pytest.raises(DataError, match='line 1'):
    logs.read(path)
  with pytest.raises(DataError, match='line 1'):
    logs.MetricWriter(tmp_path, restored_step=2)


def test_a_missing_file_is_said(tmp_path):
  with pytest.raises(DataError, match=r'metrics\.jsonl'):
    logs.read(tmp_path / logs.FILE)


@pytest.mark.parametrize('restored', range(4))
def test_a_resumed_run_has_one_curve(tmp_path, restored):
  whole = fill(tmp_path / 'whole', [1, 2, 3, 4])
  path = fill(tmp_path / 'cut', [1, 2, 3])
  fill(tmp_path / 'cut', range(restored + 1, 5), restored_step=restored)
  assert path.read_bytes() == whole.read_bytes()
  assert [p.name for p in path.parent.iterdir()] == [logs.FILE]


def test_only_process_0_writes(tmp_path):
  with logs.MetricWriter(tmp_path / 'a', process_index=1) as writer:
    writer.write(1, {'loss': 1.0})
  assert not (tmp_path / 'a').exists()


@pytest.mark.parametrize(
  'value',
  [
    2,
    2.0,
    True + 1,
    np.float32(2),
    np.array([2.0]),
    jnp.bfloat16(2),
    jnp.ones(()) * 2,
  ],
)
def test_numbers_of_all_kinds_are_floats(tmp_path, value):
  with logs.MetricWriter(tmp_path) as writer:
    writer.write(1, {'a': value})
  (row,) = logs.read(tmp_path / logs.FILE)
  assert row['a'] == 2.0 and isinstance(row['a'], float)


@pytest.mark.parametrize('value', ['2', None, [1, 2], np.ones(2), 1j])
def test_anything_else_is_refused_and_leaves_no_line(tmp_path, value):
  with logs.MetricWriter(tmp_path) as writer:
    with pytest.raises(ValueError, match="metric 'a'"):
      writer.write(1, {'good': 1.0, 'a': value})
    with pytest.raises(ValueError, match="'step'"):
      writer.write(1, {'step': 1.0})
  assert logs.read(tmp_path / logs.FILE) == []


def test_a_closed_writer_refuses(tmp_path):
  writer = logs.MetricWriter(tmp_path)
  writer.close()
  with pytest.raises(ValueError, match='closed'):
    writer.write(1, {'a': 1.0})


def test_values_that_are_not_finite_are_null(tmp_path):
  with logs.MetricWriter(tmp_path) as writer:
    for step, value in enumerate([1.0, np.nan, np.inf, -np.inf, 2.0]):
      writer.write(step, {'loss': value})
  path = tmp_path / logs.FILE

  def refuse(name):
    raise AssertionError(name)

  for line in path.read_text().splitlines():
    json.loads(line, parse_constant=refuse)  # NaN is not JSON
  rows = logs.read(path)
  assert [row['loss'] for row in rows] == [1.0, None, None, None, 2.0]
  assert logs.curve(rows, 'loss') == [(0, 1.0), (4, 2.0)]
  assert logs.curve(rows, 'other') == []


def test_thin_keeps_ends_means_and_extremes():
  values = np.random.default_rng(0).normal(size=1000)
  points = [(i, float(v)) for i, v in enumerate(values)]
  groups = np.array(logs.thin(points[::-1], most=100))
  assert groups.shape == (100, 4)
  np.testing.assert_array_equal(groups[:, 0], np.arange(9, 1000, 10))
  np.testing.assert_allclose(groups[:, 1], values.reshape(100, 10).mean(1))
  np.testing.assert_array_equal(groups[:, 2], values.reshape(100, 10).min(1))
  np.testing.assert_array_equal(groups[:, 3], values.reshape(100, 10).max(1))
  assert logs.thin([(1, 2.0), (2, float('nan'))]) == [[1, 2, 2, 2]]
  assert logs.thin([]) == []


def line_of(svg):
  (points,) = re.findall(r'<polyline points="([^"]*)"', svg)
  return np.array([p.split(',') for p in points.split()], float)


def test_plot_is_linear_in_what_it_says():
  narrow = logs.thin([(s, 1 + s / 100) for s in range(0, 101, 10)])
  wide = logs.thin([(s, 10 ** (-s / 25)) for s in range(0, 101, 10)])
  for svg, slope in [
    (logs.plot('a', narrow), -1),
    (logs.plot('a', wide), 1),  # decades are equal on a logarithmic scale
  ]:
    x, y = line_of(svg).T
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.11)
    np.testing.assert_allclose(np.diff(y), slope * 14, atol=0.11)
  assert 'logarithmic' in logs.plot('a', wide)
  assert 'logarithmic' not in logs.plot('a', narrow)


@pytest.mark.parametrize(
  'values', [[5.0], [0.0, 0.0], [-1.0, 1.0], [1e-9, 1e9], [3e-5, 1e-4]]
)
def test_plot_stays_in_its_frame_and_has_ticks(values):
  svg = logs.plot('<a>', logs.thin(list(enumerate(values))))
  assert '&lt;a&gt;' in svg and '<a>' not in svg
  assert svg.count('<line') >= 1
  numbers = re.findall(r'(?:x|y|x1|y1)="([-\d.]+)"', svg)
  points = line_of(svg)
  assert all(0 <= float(n) <= 480 for n in numbers)
  assert (points >= 0).all() and (points[:, 1] <= 200).all()


def test_plot_of_nothing_is_nothing():
  assert logs.plot('a', []) == ''


@pytest.mark.parametrize('package', ['tensorflow', 'clu'])
def test_missing_packages_are_named(tmp_path, monkeypatch, package):
  for name in ('tensorflow', 'clu'):
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ConfigError, match=r'vdm_jax\[tensorboard\]') as caught:
    logs.MetricWriter(tmp_path / 'a', tensorboard=True)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'a').exists()


def test_tensorboard_has_the_same_numbers(tmp_path):
  pytest.importorskip('tensorflow')
  pytest.importorskip('clu.metric_writers')
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  path = fill(tmp_path, [1, 2, 3], tensorboard=True)
  events = event_accumulator.EventAccumulator(str(tmp_path / 'tensorboard'))
  events.Reload()
  seen = [
    (e.step, float(tensor_util.make_ndarray(e.tensor_proto)))
    for e in events.Tensors('loss')
  ]
  assert seen == logs.curve(logs.read(path), 'loss')
