"""The notebook runs from top to bottom, and what it shows are videos."""

import base64
import html.parser
import io
import json
import os
import pathlib

import av
import numpy as np
import pytest

from tests.test_given import write_lossless

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')

NOTEBOOK = pathlib.Path('launch/colab.ipynb')
URI = 'data:video/mp4;base64,'
SMALL = {
  'data.frames': 3,
  'data.size': 8,
  'model.channels': 8,
  'model.multipliers': [1],
  'model.attention_resolutions': [],
  'model.head_dim': 8,
  'model.emb_dim': 16,
  'model.groups': 4,
  'train.batch_size': 4,
  'sample.count': 0,
  'sample.overlap': 1,
}


class Sources(html.parser.HTMLParser):
  """The `src` of every video of a page."""

  def __init__(self, page):
    super().__init__()
    self.found = []
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    if tag == 'video':
      self.found.append(dict(attrs)['src'])


def decoded(uri):
  """(frames, height, width) of a video in a page."""
  assert uri.startswith(URI)
  data = base64.b64decode(uri.removeprefix(URI), validate=True)
  with av.open(io.BytesIO(data)) as container:
    frames = [f.to_ndarray(format='rgb24') for f in container.decode(video=0)]
  return len(frames), *frames[0].shape[:2]


def execute(tmp_path, **choices):
  """The cells' outputs: (all text, the videos of each cell that shows any)."""
  book = nbformat.read(NOTEBOOK, as_version=4)
  choices = {f'VDM_{k}': str(v) for k, v in choices.items()}
  env = os.environ | choices | {'PYTHONPATH': str(pathlib.Path.cwd())}
  client = nbclient.NotebookClient(
    book, timeout=300, resources={'metadata': {'path': str(tmp_path)}}
  )
  client.execute(env=env)
  outputs = [o for c in book.cells for o in c.get('outputs', ())]
  text = ''.join(o.text for o in outputs if o.output_type == 'stream')
  pages = [o.data['text/html'] for o in outputs if 'data' in o]
  return text, [[decoded(u) for u in Sources(p).found] for p in pages]


def test_the_notebook_is_valid_and_holds_no_outputs():
  book = nbformat.read(NOTEBOOK, as_version=4)
  nbformat.validate(book)
  code = [c for c in book.cells if c.cell_type == 'code']
  assert len(code) > 8 and '@title' in code[0].source
  for cell in code:
    assert not cell.outputs and cell.execution_count is None


@pytest.mark.slow
def test_the_notebook_trains_and_shows_videos(tmp_path):
  frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  own = write_lossless(tmp_path / 'own.avi', frames)
  options = {'SAMPLES': 2, 'SAMPLE_STEPS': 2, 'SETTINGS': json.dumps(SMALL)}
  text, shown = execute(tmp_path, STEPS=2, OWN=own.name, **options)
  assert '2 × CPU' in text and 'M parameters' in text
  assert 'frames that show one shape of one colour' in text
  assert shown == [[(t, 128, 128)] * 2 for t in (3, 12, 5, 6)]
  assert (tmp_path / 'runs' / 'notebook' / 'checkpoints' / '2').is_dir()
