"""The page holds everything, needs nothing, and is made from files alone."""

import base64
import hashlib
import html.parser
import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from vdm_jax.errors import ConfigError, DataError
from vdm_jax.media import gallery

HOSTILE = "</p></video><script>alert(1)</script>\"onload='x' & <img src=y>"


class Page(html.parser.HTMLParser):
  """Tags with attributes, and the text, of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.texts = [], [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ('meta', 'line'):
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append((self.open[-1] if self.open else '', data))

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]

  def text(self, *tags):
    return [text for tag, text in self.texts if tag in tags]


def clips(n, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 255, (n, 2, 8, 8, 3), np.uint8)


def items(n, **more):
  return [{'seed': 5, 'index': i} | more for i in range(n)]


def final(folder, n=3, name='final', **more):
  return gallery.write_samples(
    folder, name, clips(n), 8, items(n, **more), {'sampler': 'ddim'}
  )


def during(folder, step, n=2):
  return gallery.write_samples(
    folder,
    f'step-{step}',
    clips(n, seed=step),
    8,
    items(n),
    {},
    step=step,
    gifs=False,
  )


def open_page(folder):
  return Page((folder / 'index.html').read_text())


def test_a_set_of_samples_has_its_files(tmp_path):
  videos = clips(3)
  here = gallery.write_samples(
    tmp_path, 'final', videos, 8, items(3), {}, array=True
  )
  assert here == tmp_path / 'samples' / 'final'
  names = {path.name for path in here.iterdir()}
  each = {f'000{i}.{kind}' for i in range(3) for kind in ('mp4', 'gif')}
  whole = {'grid.mp4', 'sheet.png', 'videos.npy', 'section.json'}
  assert names == each | whole
  np.testing.assert_array_equal(np.load(here / 'videos.npy'), videos)
  with Image.open(here / 'sheet.png') as image:
    assert image.size == (2 * 10 + 2, 3 * 10 + 2)


def test_a_long_sheet_is_bounded(tmp_path):
  videos = np.repeat(clips(1), 9, axis=1)  # 18 frames
  gallery.write_samples(
    tmp_path, 'a', np.repeat(videos, 17, 0), 8, items(17), {}, gifs=False
  )
  with Image.open(tmp_path / 'samples' / 'a' / 'sheet.png') as image:
    assert image.size == (162, 162)


def test_memory_does_not_grow_with_the_length(tmp_path):
  peaks = []
  for length in (32, 128):
    videos = np.lib.format.open_memmap(
      tmp_path / f'{length}.npy', 'w+', np.uint8, shape=(1, length, 8, 8, 3)
    )
    tracemalloc.start()
    gallery.write_samples(
      tmp_path, 'a', videos, 8, items(1), {}, gifs=False, array=True
    )
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
  frame = 128 * 128 * 3
  assert peaks[0] > frame  # the control: one enlarged frame is seen
  assert peaks[1] < peaks[0] + frame  # 96 more are not


@pytest.mark.parametrize('length', [128, 129])
def test_only_short_videos_become_gifs(tmp_path, length):
  videos = np.zeros((1, length, 8, 8, 3), np.uint8)
  here = gallery.write_samples(tmp_path, 'a', videos, 8, items(1), {})
  assert (here / '0000.mp4').exists()
  assert (here / '0000.gif').exists() == (length <= 128)


def test_a_smaller_set_leaves_nothing_of_the_larger(tmp_path):
  here = final(tmp_path, n=3)
  (here / 'mine.txt').write_text('kept')
  final(tmp_path, n=1)
  names = {path.name for path in here.iterdir()}
  assert names == {
    '0000.mp4', '0000.gif', 'grid.mp4', 'sheet.png', 'section.json', 'mine.txt'
  }  # fmt: skip


def test_the_page_has_every_item_and_its_very_video(tmp_path):
  here = final(tmp_path, n=3, label=np.int32(4), caption='A dog.')
  gallery.rebuild(tmp_path, 'My run', {'steps': 10, 'rate': np.float32(0.5)})
  page = open_page(tmp_path)
  videos = page.all('video')
  assert len(videos) == 3
  for i, video in enumerate(videos):
    head, data = video['src'].split(',')
    assert head == 'data:video/mp4;base64'
    assert base64.b64decode(data) == (here / f'000{i}.mp4').read_bytes()
    assert {'autoplay', 'loop', 'muted', 'playsinline'} <= set(video)
    assert f'seed 5 · index {i} · label 4' in page.text('p')
  assert page.text('p').count('A dog.') == 3
  assert page.text('h1', 'title') == ['My run', 'My run']
  assert page.text('th', 'td') == ['steps', '10', 'rate', '0.5']
  assert page.open == []


def test_the_page_needs_nothing_and_runs_nothing_else(tmp_path):
  final(tmp_path, n=2, caption=HOSTILE)
  gallery.write_samples(
    tmp_path, 'b', clips(1), 8, items(1), {HOSTILE: HOSTILE},
    title=HOSTILE, note=HOSTILE, step=1,
  )  # fmt: skip
  gallery.rebuild(
    tmp_path,
    HOSTILE,
    {HOSTILE: HOSTILE},
    scores=[{HOSTILE: HOSTILE}],
    curve={HOSTILE: [(1, 2.0), (2, 1.0)]},
  )
  text = (tmp_path / 'index.html').read_text()
  page = Page(text)
  assert '://' not in text and 'url(' not in text and '@import' not in text
  assert {'link', 'img', 'iframe', 'object', 'a'}.isdisjoint(
    tag for tag, _ in page.tags
  )
  for _, attrs in page.tags:
    assert attrs.get('src', 'data:').startswith('data:')
    assert not any(name.startswith('on') for name in attrs)
  # Each place shows the text as it was given.
  for tag, least in [('p', 3), ('h1', 1), ('h2', 1), ('th', 2), ('td', 2)]:
    assert sum(HOSTILE in text for text in page.text(tag)) >= least
  assert page.all('video')[0]['aria-label'] == HOSTILE


def test_the_policy_allows_exactly_the_pages_own_script(tmp_path):
  final(tmp_path, n=1)
  gallery.rebuild(tmp_path, 'a', {})
  page = open_page(tmp_path)
  (script,), (style,) = page.text('script'), page.text('style')
  policy = page.all('meta')[1]['content']
  assert policy.startswith("default-src 'none'; ")
  assert 'unsafe' not in policy
  for text in (script, style):
    digest = hashlib.sha256(text.encode()).digest()
    assert base64.b64encode(digest).decode() in policy


def test_the_page_is_a_function_of_the_files(tmp_path):
  final(tmp_path)
  during(tmp_path, 500)
  path = gallery.rebuild(
    tmp_path,
    'a',
    {'x': 1},
    scores=[{'metric': 'FVD', 'value': 1 / 3}],
    curve={'loss': [(i, 1 / (i + 1)) for i in range(1000)]},
  )
  before = path.read_bytes()
  path.unlink()
  assert gallery.rebuild(tmp_path).read_bytes() == before
  during(tmp_path, 1000)
  assert gallery.rebuild(tmp_path).read_bytes() != before


def test_each_program_gives_what_it_knows(tmp_path):
  final(tmp_path, n=1)
  gallery.rebuild(tmp_path, 'a', {'x': 1}, curve={'loss': [(1, 2.0)]})
  gallery.rebuild(tmp_path, scores=[{'metric': 'FVD', 'value': 12.5}, {'n': 4}])
  page = open_page(tmp_path)
  assert page.text('h1') == ['a']
  assert page.text('th') == ['x', 'metric', 'value', 'n']
  assert page.text('td') == ['1', 'FVD', '12.5', '4']
  assert len(page.all('polyline')) == 1
  gallery.rebuild(tmp_path, scores=[])
  assert open_page(tmp_path).text('th') == ['x']


def test_final_samples_first_then_the_newest_steps(tmp_path):
  for step in (500, 1000, 20000):
    during(tmp_path, step)
  final(tmp_path)
  gallery.rebuild(tmp_path, 'a', {})
  page = open_page(tmp_path)
  headings = ['final', 'Step 20000', 'Step 1000', 'Step 500']
  assert page.text('h2') == headings
  assert len(page.all('video')) == 3 + 3  # a grid for each step
  grid = (tmp_path / 'samples' / 'step-20000' / 'grid.mp4').read_bytes()
  assert base64.b64decode(page.all('video')[3]['src'][22:]) == grid
  assert page.text('li') == ['seed 5 · index 0', 'seed 5 · index 1'] * 3


def test_an_unfinished_set_is_not_shown(tmp_path):
  here = final(tmp_path)
  during(tmp_path, 1)
  (here / 'section.json').unlink()
  gallery.rebuild(tmp_path, 'a', {})
  assert open_page(tmp_path).text('h2') == ['Step 1']


def test_a_kill_while_replacing_a_set_hides_it(tmp_path, monkeypatch):
  here = final(tmp_path)

  def killed(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(gallery.writing, 'write_mp4', killed)
  with pytest.raises(KeyboardInterrupt):
    final(tmp_path)
  assert not (here / 'section.json').exists()


def test_a_page_is_bounded_and_says_what_is_left_out(tmp_path, monkeypatch):
  here = final(tmp_path, n=3)
  final(tmp_path, n=2, name='more')
  for step in (1, 2, 3):
    during(tmp_path, step)
  monkeypatch.setattr(gallery, 'MAX_VIDEOS', 2)
  monkeypatch.setattr(gallery, 'MAX_GRIDS', 1)
  gallery.rebuild(tmp_path, 'a', {})
  page = open_page(tmp_path)
  assert len(page.all('video')) == 2 + 1
  text = ' '.join(page.text('p'))
  assert '2 more in samples/final.' in text
  assert '1 more in samples/more.' in text
  assert 'See samples/step-2/grid.mp4.' in text
  assert 'See samples/step-1/grid.mp4.' in text
  assert 'samples/step-3' not in text

  monkeypatch.setattr(gallery, 'MAX_VIDEOS', 9)
  first = (here / '0000.mp4').stat().st_size
  monkeypatch.setattr(gallery, 'MAX_BYTES', first)
  monkeypatch.setattr(gallery, 'MAX_GRID_BYTES', 1)
  gallery.rebuild(tmp_path)
  assert len(open_page(tmp_path).all('video')) == 1


def test_a_video_that_is_gone_is_said(tmp_path):
  here = final(tmp_path, n=2)
  (here / '0001.mp4').unlink()
  gallery.rebuild(tmp_path, 'a', {})
  page = open_page(tmp_path)
  assert len(page.all('video')) == 1
  assert 'The video is missing on disk.' in page.text('p')
  assert 'seed 5 · index 1' in page.text('p')


def test_damage_is_said(tmp_path):
  here = final(tmp_path, n=1)
  for text in ('{"title": ', '3'):
    (here / 'section.json').write_text(text)
    with pytest.raises(DataError, match=r'section\.json'):
      gallery.rebuild(tmp_path, 'a', {})


@pytest.mark.parametrize('name', ['', '..', 'a/b', '.hidden', 'a b'])
def test_a_name_stays_in_the_folder(tmp_path, name):
  with pytest.raises(ConfigError, match='name'):
    final(tmp_path, name=name)
  assert not list(tmp_path.iterdir())


def test_wrong_arguments_leave_the_old_set(tmp_path):
  here = final(tmp_path, n=2)
  for videos, fps, count in [
    (clips(2), 8, 1),
    (clips(2), 0, 2),
    (clips(2)[0], 8, 2),
    (clips(2) / 255, 8, 2),
  ]:
    with pytest.raises(ValueError, match=r'.'):
      gallery.write_samples(tmp_path, 'final', videos, fps, items(count), {})
    assert len(json.loads((here / 'section.json').read_text())['items']) == 2
