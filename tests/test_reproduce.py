"""Tables of the papers: what is made, what is printed, what is made once.

The models have learnt nothing, and a stand-in draws their windows: real clips
and noise by turns, so that there is something to judge.
"""

import json
import re

import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image

from tests import quick, tiny
from vdm_jax import errors, reproduce, train
from vdm_jax.data import seams, shapes
from vdm_jax.media import plots
from vdm_jax.tables import TABLES

ONE = jax.devices()[:1]
IMAGES = {
  'reproduce.image_steps': 2,
  'reproduce.image_batch': 4,
  'reproduce.training_seeds': (0, 5),
  'reproduce.seeds': (0,),
  'model.labels': True,
}
OF_TABLE = {
  'pyoco5': IMAGES,
  'pyoco_fig8': IMAGES,
  'vdm4': {'model.labels': True},
  'vdm5': {'text.kind': 'words', 'text.max_length': 8},
  'vdm6': {'sample.frames': 14, 'sample.overlap': 2},
}


def config(table, **changes):
  c = tiny.config(
    data__frames=6,
    data__size=16,
    model__attention_resolutions=(),
    train__steps=2,
    sample__count=4,
    sample__steps=2,
    mesh__data=1,
  ).unlock()
  c.reproduce = ml_collections.ConfigDict({'table': table, 'seeds': (0, 7)})
  changes = {k.replace('__', '.'): v for k, v in changes.items()}
  c.update_from_flattened_dict(OF_TABLE.get(table, {}) | changes)
  return c.lock()


def test_videos_start_from_the_images_of_their_seed(tmp_path, made, capsys):
  """Ge23 Table 5: one model of images a seed, from which three rows start."""
  reproduce.run(config('pyoco5'), tmp_path, ONE)
  assert len(made.trained) == 2 * (1 + 4) == len(set(made.trained))
  assert sum('images' in name for name in made.trained) == 2
  assert len(made.calls) == 2 * 4
  of = {
    folder.name: json.loads((folder / 'config.json').read_text())
    for folder in (tmp_path / 'models').iterdir()
  }
  for name, saved in of.items():
    start = saved['init']['workdir'].rpartition('/')[-1]
    if 'tuned' not in name:
      assert not start
      continue
    images = of[start]
    assert images['seed'] == saved['seed'] in (0, 5)
    assert images['data']['frames'] == 1 < saved['data']['frames']
    assert images['diffusion']['prior'] == 'independent'
  priors = [saved['diffusion']['prior'] for saved in of.values()]
  assert priors.count('mixed') == priors.count('progressive') == 2
  _, cells = table(capsys.readouterr().out)
  assert list(cells) == ['real clips', *TABLES['pyoco5'].rows]
  raw = json.loads((tmp_path / 'table.json').read_text())
  assert all(len(raw['rows'][row]) == 2 for row in cells if row != 'real clips')


def test_a_figure_has_a_point_for_each_row():
  for name in ('pyoco_fig7', 'pyoco_fig8'):
    found = TABLES[name]
    assert set(found.figure.points) <= set(found.rows)
    assert set(found.scratch) <= set(found.rows)
    places = list(found.figure.points.values())
    assert len(set(places)) == len(places)


def test_a_figure_is_drawn(tmp_path):
  rows = {'a 1': [1.0, 2], 'a 2': [3.0, 4], 'level': [2.0, 2], 'none': []}
  columns = {'x [%]': {k: np.array(v) for k, v in rows.items()}}
  points = {'a 1': ('a', 1.0), 'a 2': ('a', 2.0), 'none': ('b', 1.0)}
  drawn = plots.draw(
    tmp_path / 'f.png', columns, points, title='t', label='x', logarithmic=True
  )
  with Image.open(drawn) as picture:
    assert min(picture.size) > 200 and len(picture.getcolors(1 << 20)) > 3


class Made(quick.Windows):
  """Windows that are half of them real clips; counts trainings, too."""

  def __init__(self, patch):
    super().__init__(patch)
    self.trained, run = [], train.run

    def count(config, workdir, devices):
      self.trained.append(workdir.name)
      run(config, workdir, devices)

    patch.setattr(train, 'compile_step', quick.no_step)
    patch.setattr(train, 'run', count)

  def video(self, rng, shape):
    if rng.random() < 0.4:
      return super().video(rng, shape)
    source = shapes.Shapes(frames=shape[0], size=shape[1])
    return source.clip(rng.integers(len(source)))['video']


@pytest.fixture
def made(monkeypatch):
  return Made(monkeypatch)


def table(text):
  """The cells of a printed table: its headings, and those of each row."""
  lines = [line for line in text.splitlines() if line.startswith('| ')]
  rows = [re.split(r'(?<!\\)\|', line)[1:-1] for line in lines]
  rows = [[c.strip().replace(r'\|', '|') for c in row] for row in rows]
  assert all(set(c) == {'-'} for c in rows.pop(1))
  return rows[0][1:], {row[0]: row[1:] for row in rows[1:]}


@pytest.mark.parametrize(
  ('name', 'models'),
  [
    ('vdm4', ['images_0', 'images_4', 'images_8']),
    ('vdm5', ['model']),
    ('vdm6', ['model']),
  ],
)
def test_a_table_is_made_once(tmp_path, made, capsys, name, models):
  reproduce.run(config(name), tmp_path, ONE)
  first = capsys.readouterr().out
  assert made.trained == models
  assert {p.name for p in (tmp_path / 'models').iterdir()} == set(models)
  headings, cells = table(first)
  rows = list(TABLES[name].rows)
  assert list(cells) == ['real clips', *rows]
  assert len(made.calls) == 3 * 2 * (3 if name == 'vdm6' else 1)

  raw = json.loads((tmp_path / 'table.json').read_text())
  assert raw['seeds'] == [0, 7] and list(raw['rows']) == list(cells)
  for row in rows:
    assert len(raw['rows'][row]) == 2
  check_cells(TABLES[name].columns, headings, cells, raw['rows'])

  calls = len(made.calls)
  reproduce.run(config(name), tmp_path, ONE)
  again = capsys.readouterr().out
  assert len(made.trained) == len(models) and len(made.calls) == calls
  start = first.index(raw['title'])
  assert first[start:] == again[again.index(raw['title']) :]

  page = (tmp_path / 'index.html').read_text()
  assert all(f'<h2>{row}</h2>' in page for row in cells)


def check_cells(columns, headings, cells, raw):
  """The numbers printed are numpy's, in the unit of the heading."""
  assert [h.split()[0] for h in headings] == list(columns)
  for column, heading in enumerate(headings):
    name, unit = heading.split()
    assert unit == ('[px]' if 'error' in name else '[%]')
    scale, digits = (1, 2) if unit == '[px]' else (100, 1)
    for row, texts in cells.items():
      found = [scores.get(name) for scores in raw[row]]
      if None in found:
        assert texts[column].strip() == '–'
        continue
      found = scale * np.array(found)
      text = f'{found.mean():.{digits}f}'
      if len(found) > 1:
        text += f' ± {found.std(ddof=1):.{digits}f}'
      assert texts[column].strip() == text


def test_seams_are_where_windows_begin(tmp_path, made):
  c = config('vdm6', sample__frames=13, reproduce__seeds=(3,))
  reproduce.run(c, tmp_path, ONE)
  ends, starts = 0, []
  for call in made.calls[:3]:  # of the first row
    new = 6 - len(call.known)
    starts += [ends] if ends else []
    ends += new
  assert ends == 13 and starts == [6, 10]
  raw = json.loads((tmp_path / 'table.json').read_text())['rows']
  (folder,) = (tmp_path / 'videos').glob('*reconstruction*')
  videos = np.load(folder / 'frames.npy')
  wanted = seams.seam_errors(videos, starts)['seam_error']
  assert raw['reconstruction guidance'][0]['seam_error'] == wanted > 0
  assert seams.seam_errors(videos, [5, 9])['seam_error'] != wanted
  assert raw['real clips'][0]['seam_error'] < 0.3
  assert raw['real clips'][0]['success'] > 0.95


def test_an_interrupted_table_continues(tmp_path, made):
  c = config('vdm5')
  made.most = 3
  with pytest.raises(KeyboardInterrupt):
    reproduce.run(c, tmp_path, ONE)
  made.most = 6
  reproduce.run(c, tmp_path, ONE)
  assert made.trained == ['model'] and len(made.calls) == 6


BAD = {
  'unknown table': ('vdm_table9', {}, 'vdm4'),
  'no seeds': ('vdm4', {'reproduce.seeds': ()}, 'seeds'),
  'a seed twice': ('vdm4', {'reproduce.seeds': (1, 1)}, 'seeds'),
  'no videos': ('vdm4', {'sample.count': 0}, 'sample.count'),
  'no judge': ('vdm4', {'data.source': 'folder'}, 'judge'),
  'nothing to guide': ('vdm5', {'text.kind': 'none'}, 'guidance_scale'),
  'no seams': ('vdm6', {'sample.frames': 0}, 'no seams'),
  'few frames': ('vdm6', {'data.frames': 3}, '4 frames'),
  'a training twice': (
    'pyoco5',
    {'reproduce.training_seeds': (3, 3)},
    'training_seeds',
  ),
  'whole overlap': ('vdm6', {'sample.overlap': 6}, 'overlap'),
}


@pytest.mark.parametrize('kind', BAD)
def test_mistakes_are_found_before_training(tmp_path, made, kind):
  name, changes, message = BAD[kind]
  c = config(name).unlock()
  c.update_from_flattened_dict(changes)
  with pytest.raises(errors.ConfigError, match=message) as caught:
    reproduce.run(c, tmp_path / 'out', ONE)
  text = str(caught.value)
  assert '\n' not in text and '; ' in text
  assert made.trained == [] and not (tmp_path / 'out').exists()


def test_a_config_of_no_table(tmp_path):
  with pytest.raises(errors.ConfigError, match='configs/repro'):
    reproduce.run(tiny.config(), tmp_path, ONE)


@pytest.mark.parametrize(
  ('name', 'rows', 'said'),
  [
    # Means 50, 60, 58; standard deviations √2, √2, √8; so √10 counts.
    ('on_path', ([49, 51], [59, 61], [56, 60]), 'best: b; .* of it: c'),
    ('on_path', ([49, 51], [59, 61], [50, 54]), 'best: b; .* of it: no other'),
    ('on_path', ([57, 61], [59, 61], [58, 60]), 'all rows are within'),
    ('seam_error', ([49, 51], [59, 61], [56, 60]), 'best: a; .* of it: no oth'),
    ('on_path', ([0, 0], [0, 0], [0, 0]), 'all rows are within'),
    ('on_path', ([0], [1], [2]), 'one seed has no spread'),
    ('seam_error', ([1, 2], [], [2, 3]), r'not measured .*\(b\)'),
  ],
)
def test_differences_within_the_spread_are_said(name, rows, said):
  column = {k: np.array(v, float) for k, v in zip('abc', rows, strict=True)}
  column = {'real clips': np.array([100.0])} | column
  assert re.match(said, reproduce.finding(name, column))
