"""Tables of the papers: what is made, what is printed, what is made once.

The models have learnt nothing, and a stand-in draws their windows: real clips
and noise by turns, so that there is something to judge.
"""

import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from tests import quick, tiny
from vdm_jax import (
  build,
  command,
  errors,
  evaluate,
  identity,
  reproduce,
  runs,
  sample,
  train,
)
from vdm_jax import config as config_lib
from vdm_jax.data import seams, shapes
from vdm_jax.media import plots
from vdm_jax.metrics import filling, shapes_network
from vdm_jax.reproduction import bench, cascades, needs, report, videos
from vdm_jax.reproduction.paper_numbers import PRINTED
from vdm_jax.reproduction.tables import TABLES

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


def test_videos_start_from_the_images_of_their_seed(tmp_path, light, capsys):
  """Ge23 Table 5: one model of images a seed, from which three rows start."""
  reproduce.run(config('pyoco5'), tmp_path, ONE)
  assert len(light.trained) == 2 * (1 + 4) == len(set(light.trained))
  assert sum('images' in name for name in light.trained) == 2
  assert len(light.calls) == 2 * 4
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


@pytest.mark.parametrize('name', ['seeds', 'training_seeds'])
@pytest.mark.parametrize('seeds', [(), (3, 3), (0, 2**32), (-1,)])
def test_seeds_that_are_none_or_the_same_are_refused(tmp_path, name, seeds):
  good = config('pyoco5', **{f'reproduce__{name}': (0, 2**32 - 1)})
  reproduce.check(good, tmp_path, ONE)
  if name == 'training_seeds' and not seeds:
    return  # those of the config
  bad = config('pyoco5', **{f'reproduce__{name}': seeds})
  with pytest.raises(errors.ConfigError, match=f'reproduce.{name} is'):
    reproduce.check(bad, tmp_path, ONE)


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
    self.judged, score = 0, sample.score

    def judge(config, clips):
      self.judged += 1
      return score(config, clips)

    patch.setattr(sample, 'score', judge)

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


class Light(Made):
  """The same without any parameters: a model is its settings."""

  def __init__(self, patch):
    super().__init__(patch)
    patch.setattr(bench, 'fit', self.fit)
    for module in (videos, cascades):
      if hasattr(module, 'fit'):
        patch.setattr(module, 'fit', self.fit)
    patch.setattr(
      sample, 'trained_with', lambda checkpoints, c: build.data(c)[1]
    )
    patch.setattr(sample, 'restore', self.restore)
    patch.setattr(runs, 'open_run', self.open_run)

  def fit(self, row, folder, devices):
    del devices
    if not folder.exists():
      self.trained.append(folder.name)
      folder.mkdir(parents=True)
      (folder / 'config.json').write_text(identity.to_json(row))

  def restore(self, config, checkpoints, trained, mesh):
    del checkpoints
    model = build.model(config, trained)
    generate = sample.generator(config, model, mesh)
    return sample.Model(config, {}, generate, trained, config.train.steps)

  def open_run(self, workdir, setting):
    del setting
    path = pathlib.Path(workdir) / 'config.json'
    saved = identity.from_json(path.read_text())
    return None, saved, build.data(saved)[1]


@pytest.fixture
def light(monkeypatch):
  return Light(monkeypatch)


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
  headings = headings[: len(columns)]  # behind them are the paper's
  assert [h.split()[0] for h in headings] == list(columns)
  for column, heading in enumerate(headings):
    name, unit = heading.split()
    lengths = name.endswith(('error', 'jump'))
    assert unit == ('[px]' if lengths else '[%]')
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


def test_seams_are_where_windows_begin(tmp_path, light):
  c = config('vdm6', sample__frames=13, reproduce__seeds=(3,))
  reproduce.run(c, tmp_path, ONE)
  ends, starts = 0, []
  for call in light.calls[:3]:  # of the first row
    new = 6 - len(call.known)
    starts += [ends] if ends else []
    ends += new
  assert ends == 13 and starts == [6, 10]
  raw = json.loads((tmp_path / 'table.json').read_text())['rows']
  (folder,) = (tmp_path / 'videos').glob('[0-9]*reconstruction*')
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
  assert made.judged == 2 + 6  # the real clips at each start


def test_no_cell_is_made_twice(tmp_path, light, capsys):
  c = config('vdm5')
  reproduce.run(c, tmp_path, ONE)
  first = capsys.readouterr().out
  files = sorted((tmp_path / 'cells').iterdir())
  assert len(files) == 3 * 2
  # Neither the model nor the videos are asked for again.
  shutil.rmtree(tmp_path / 'models')
  shutil.rmtree(tmp_path / 'videos')
  light.most, calls, judged = len(light.calls), len(light.calls), light.judged
  reproduce.run(c, tmp_path, ONE)
  again = capsys.readouterr().out
  assert light.judged == judged + 1 and len(light.calls) == calls
  assert table(again) == table(first)


def test_a_changed_setting_makes_its_cells_again(tmp_path, light):
  reproduce.run(config('vdm5'), tmp_path, ONE)
  judged, calls = light.judged, len(light.calls)
  reproduce.run(config('vdm5', sample__steps=3), tmp_path, ONE)
  assert light.judged == judged + 1 + 6 and len(light.calls) == calls + 6
  assert light.trained == ['model']
  # A damaged cell is made again, and no other.
  (tmp_path / 'cells' / '1_scale_1_seed_7.json').write_text('{')
  reproduce.run(config('vdm5', sample__steps=3), tmp_path, ONE)
  assert light.judged == judged + 1 + 6 + 1 + 1
  # One more seed is one more cell a row.
  more = config('vdm5', sample__steps=3, reproduce__seeds=(0, 7, 8))
  reproduce.run(more, tmp_path, ONE)
  assert light.judged == judged + 1 + 6 + 1 + 1 + 1 + 3


def test_the_papers_numbers_stand_beside_ours(tmp_path, light, capsys):
  reproduce.run(config('vdm4'), tmp_path, ONE)
  out = capsys.readouterr().out
  headings, cells = table(out)
  printed = PRINTED['vdm4']
  assert headings[5:] == [f'Ho22: {c}' for c in printed.columns]
  assert cells['real clips'][5:] == ['–'] * 5
  for k in (0, 4, 8):
    assert cells[f'{k} images'][5:] == list(printed.rows[str(k)])
  assert '202.28/205.42' in out and printed.note in out
  assert '202.28/205.42' in (tmp_path / 'table.md').read_text()


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
    ('seam_jump', ([49, 51], [59, 61], [56, 60]), 'best: a; .* of it: no oth'),
    ('on_path', ([0, 0], [0, 0], [0, 0]), 'all rows are within'),
    ('on_path', ([0], [1], [2]), 'one seed has no spread'),
    ('seam_error', ([1, 2], [], [2, 3]), r'not measured .*\(b\)'),
  ],
)
def test_differences_within_the_spread_are_said(name, rows, said):
  column = {k: np.array(v, float) for k, v in zip('abc', rows, strict=True)}
  column = {'real clips': np.array([100.0])} | column
  assert re.match(said, report.finding(name, column))


# The other small tables, from nothing to a table.


def table_config(name, variant):
  path = command.table_files()[name]
  return config_lib.beside(str(path), path.name, variant)


def tiny_table(name, **changes):
  c = table_config(name, 'tiny')
  changes = {k.replace('__', '.'): v for k, v in changes.items()}
  return config_lib.varied(c, {'mesh.cpu_devices': 0, 'mesh.data': 1} | changes)


@pytest.mark.parametrize(
  ('name', 'models', 'cells'),
  [
    ('vdm1', 1, 2),
    ('vdm2', 1, 4),
    ('vdm3', 1, 4),
    ('pyoco2', 2, 2),
    ('pyoco4', 8, 4),
  ],
)
def test_small_tables(tmp_path, light, capsys, name, models, cells):
  reproduce.run(tiny_table(name), tmp_path, ONE)
  headings, rows = table(capsys.readouterr().out)
  assert len(light.trained) == models == len(set(light.trained))
  assert len(list((tmp_path / 'cells').iterdir())) == cells
  assert list(rows) == ['real clips', *TABLES[name].rows]
  printed = PRINTED[name]
  assert len(headings) == len(TABLES[name].columns) + len(printed.columns)
  for row, called in TABLES[name].printed.items():
    texts = [text or '–' for text in printed.rows[called]]
    assert rows[row][-len(texts) :] == texts
  assert (tmp_path / 'index.html').is_file()


@pytest.mark.parametrize(('name', 'known'), [('vdm2', 1), ('vdm3', 2)])
def test_prediction_is_of_other_clips(tmp_path, light, name, known):
  c = tiny_table(name, reproduce__seeds=(0,), reproduce__clips=2)
  reproduce.run(c, tmp_path, ONE)
  held_out = shapes.Shapes(frames=4, size=16, seed=1)
  for call in light.calls:
    assert sorted(call.known) == list(range(known))
    for i, frames in call.known.items():
      for row, frame in enumerate(frames):  # each clip twice, in turn
        clip = held_out.clip(row % 2)['video']
        np.testing.assert_array_equal(frame, clip[i])
  trained_on = shapes.Shapes(frames=4, size=16)
  assert np.any(trained_on.clip(0)['video'] != held_out.clip(0)['video'])


@pytest.mark.parametrize('labels', [False, True])
@pytest.mark.parametrize('kind', ['none', 'words'])
def test_predicted_clips_are_told_what_they_are(labels, kind):
  c = tiny_table('vdm2', reproduce__clips=2)
  c = config_lib.varied(c, {'model.labels': labels, 'text.kind': kind})
  found, held_out = videos.handed(c), videos.held_out(c)
  clips = [held_out.clip(i % 2) for i in range(c.sample.count)]
  own = tuple(int(clip['label']) for clip in clips)
  captions = tuple(clip['caption'] for clip in clips)
  assert found.labels == (own if labels else ())
  assert found.prompts == (captions if kind == 'words' else ())
  for video, clip in zip(found.video, clips, strict=True):
    np.testing.assert_array_equal(video, clip['video'])


def test_prompts_are_spread_over_the_captions(tmp_path, light):
  c = tiny_table('pyoco2', reproduce__seeds=(0,))
  reproduce.run(c, tmp_path, ONE)
  folder = next((tmp_path / 'samples').glob('1_*'))
  items = json.loads((folder / 'section.json').read_text())['items']
  captions = shapes.Shapes(frames=1, size=8).captions()
  assert [i['caption'] for i in items] == [captions[0], captions[-1]] * 2


@pytest.mark.slow
def test_noises_of_frames(tmp_path, monkeypatch, capsys):
  """Ge23 Table 1: of a model that has learnt nothing, whose flow is linear."""
  monkeypatch.setattr(train, 'compile_step', quick.no_step)
  c = tiny_table('pyoco1')
  c = config_lib.varied(c, {'reproduce.training_seeds': (3,)})
  reproduce.run(c, tmp_path, ONE)
  headings, rows = table(capsys.readouterr().out)
  assert list(rows) == [
    'pixels of frames',
    'independent draws',
    'noises of frames',
  ]
  raw = json.loads((tmp_path / 'table.json').read_text())['rows']
  pixels, draws = (raw[k][0] for k in list(rows)[:2])
  assert abs(draws['same_video']) < 0.1 < pixels['same_video']
  for found in raw['noises of frames']:  # frames, times a number
    assert found['same_video'] == pytest.approx(pixels['same_video'], abs=0.1)
  assert len(raw['noises of frames']) == 1
  assert rows['noises of frames'][-2:] == ['0.206 ± 0.156', '0.001 ± 0.009']
  assert headings[-2:] == ['Ge23: same video', 'Ge23: different videos']


def test_experts_in_a_cascade(tmp_path, light, capsys):
  """Ge23 Table 3: a row trains and samples what rows before it have not."""
  c = tiny_table('pyoco3', reproduce__seeds=(0,))
  reproduce.run(c, tmp_path, ONE)
  _, rows = table(capsys.readouterr().out)
  assert list(rows) == ['real clips', *TABLES['pyoco3'].rows]
  stages = ('base', 'interpolation', 'sr')
  assert light.trained == [
    *stages,
    *(f'{s}_{h}' for s in reversed(stages) for h in ('low', 'high')),
  ]
  for name in light.trained[3:]:
    path = tmp_path / 'models' / name / 'config.json'
    saved = json.loads(path.read_text())
    stage, _, half = name.rpartition('_')
    assert saved['init']['workdir'].endswith(f'/{stage}')
    low = [0.0, 0.5] if half == 'low' else [0.5, 1.0]
    assert saved['diffusion']['interval'] == low
  # A: 3 stages; B: the last one anew; C: the last two; D: all three.
  assert len(light.calls) == 3 + 1 + 2 + 3
  assert [call.size for call in light.calls[:3]] == [8, 8, 16]
  calls = len(light.calls)
  reproduce.run(c, tmp_path, ONE)
  assert len(light.calls) == calls and len(light.trained) == 9


def test_shapes_fd_where_there_is_a_network(tmp_path, light, capsys):
  network = shapes_network.ShapesNetwork()
  params = network.init(jax.random.key(0), jnp.zeros((1, 4, 16, 16, 3)))
  path = tmp_path / 'f.safetensors'
  about = {'network': 'shapes', 'layout': 'vdm_jax', 'source': 'a test'}
  about |= {'sha256': '0' * 64, 'licence': 'none'}
  filling.save(path, jax.tree.map(np.asarray, params['params']), **about)
  c = tiny_table('vdm1', reproduce__seeds=(0,), reproduce__features=str(path))
  reproduce.run(c, tmp_path / 'a', ONE)
  out = capsys.readouterr().out
  headings, rows = table(out)
  at = headings.index('shapes_fd')
  assert 'no column shapes_fd' not in out
  real, made_ = (float(rows[k][at]) for k in rows)
  assert 0 < real < made_
  c = tiny_table('vdm1', reproduce__seeds=(0,))
  reproduce.run(c, tmp_path / 'b', ONE)
  out = capsys.readouterr().out
  assert 'shapes_fd' not in table(out)[0]
  assert out.count('no column shapes_fd') == 1


# At the papers' scale, with little models.


def paper_table(name, **changes):
  c = table_config(name, 'paper')
  small = config_lib.TINY | {'data.source': 'shapes', 'mesh.data': 1}
  small |= {'data.images': 0}
  if 'images' in c.reproduce:
    small |= {f'reproduce.images.{k}': v for k, v in small.items()}
    small |= {'reproduce.images.data.frames': 1}
  changes = {k.replace('__', '.'): v for k, v in changes.items()}
  return config_lib.varied(c, small | changes)


def test_the_papers_table_is_measured_by_its_protocol(
  tmp_path, light, capsys, monkeypatch
):
  asked = []

  def measure(config, model, protocol, *, workdir, mesh, measures=()):
    asked.append((protocol, config.sample.steps, config.sample.sampler))
    return {'fvd': 70.0 + len(asked)}

  monkeypatch.setattr(evaluate, 'measure', measure)
  monkeypatch.setattr(needs, 'check', lambda bench: None)
  c = paper_table('vdm2', reproduce__seeds=(0, 1))
  for _ in range(2):
    reproduce.run(c, tmp_path, ONE)
    headings, rows = table(capsys.readouterr().out)
    assert headings == ['fvd', 'Ho22: FVD↓']
    first, second = rows.values()
    assert first == ['71.50 ± 0.71', '68.19']
    assert second == ['73.50 ± 0.71', '66.92']
  how = [('ancestral', 512)] * 2 + [('predictor_corrector', 256)] * 2
  assert asked == [('bair_1_15', steps, name) for name, steps in how]
  assert light.trained == ['model']


def test_the_image_row_is_measured_by_its_frames(
  tmp_path, light, monkeypatch, capsys
):
  asked = []

  def measure(config, model, protocol, *, workdir, mesh, measures=()):
    asked.append((config.data.frames, config.diffusion.prior, measures))
    return {'fid_frames': 30.0}

  monkeypatch.setattr(evaluate, 'measure', measure)
  monkeypatch.setattr(needs, 'check', lambda bench: None)
  reproduce.run(paper_table('pyoco5'), tmp_path, ONE)
  _, rows = table(capsys.readouterr().out)
  assert rows['image diffusion'] == ['30.00', '–', '–', '30.05']
  assert asked == [
    (1, 'independent', ('fid_frames',)),
    (4, 'independent', ()),
    (4, 'independent', ()),
    (4, 'mixed', ()),
    (4, 'progressive', ()),
  ]
  assert len(light.trained) == 1 + 4


@pytest.mark.slow
@pytest.mark.parametrize('name', TABLES)
def test_every_small_table_from_nothing(tmp_path, name, capsys):
  """Trained, sampled and judged as users do it, but for a few steps."""
  c = tiny_table(name)
  if c.reproduce.get('training_seeds', ()):
    c = tiny_table(name, reproduce__training_seeds=(0,))
  reproduce.run(c, tmp_path, ONE)
  _, rows = table(capsys.readouterr().out)
  assert list(rows)[-len(TABLES[name].rows) :] == list(TABLES[name].rows)
  assert (tmp_path / 'figure.png').exists() == bool(TABLES[name].figure)
