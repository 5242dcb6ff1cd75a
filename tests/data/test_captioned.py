"""What is said of videos becomes what a model reads; nothing is passed over."""

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from vdm_jax.data import captioned, flips, pipeline, shapes, strides
from vdm_jax.data.source import Source, checked
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.text.words import Words, words_of

PAIRS = {'a.mp4': ['a dog', 'Rex runs'], 'b/c.mp4': ['a cat']}


def make(length=20, max_length=5, **options):
  source = shapes.Shapes(frames=2, size=8, length=length)
  words = Words(source.words, max_length)
  return captioned.Captioned(source, words.encode, words.hash, **options)


def embeddings(texts):
  """Stands in for a cache: a vector per word, of two channels."""
  ids, mask = Words(shapes.Shapes(frames=1, size=8).words, 6).encode(texts)
  return np.stack([ids, -ids], axis=-1).astype(np.float32), mask


def test_text_is_the_caption():
  source = make()
  inner, words = source.source, Words(source.words, 5)
  for index in range(20):
    clip = checked(source, index, np.random.default_rng(0))
    plain = inner.clip(index)
    np.testing.assert_array_equal(clip['video'], plain['video'])
    assert clip['text'].shape == clip['text_mask'].shape == (1, 5)
    read = [words.vocabulary[i - 1] for i in clip['text'][0]]
    assert ' '.join(read) == plain['caption'] == clip['caption']
    assert clip['text_mask'].all()


@pytest.mark.parametrize('encode', [None, embeddings])
def test_batches_carry_text_the_same_for_any_processes(encode):
  source = make()
  if encode:
    source = captioned.Captioned(source.source, encode, 'e')

  def batch(**options):
    stream = pipeline.batches(source, batch_size=4, seed=0, **options)
    found = next(stream)
    stream.close()
    return found

  whole = batch()
  shape = (4, 1, 6, 2) if encode else (4, 1, 5)
  assert whole['text'].shape == shape
  assert whole['text'].dtype == (np.float32 if encode else np.int32)
  assert whole['text_mask'].shape == shape[:3]
  assert whole['text_mask'].dtype == bool
  halves = [batch(process_index=i, process_count=2) for i in range(2)]
  for name, array in whole.items():
    joined = np.concatenate([half[name] for half in halves])
    np.testing.assert_array_equal(joined, array)


def test_worker_processes_read_the_same():
  def first(source, **options):
    stream = pipeline.batches(source, batch_size=2, seed=0, **options)
    found = list(itertools.islice(stream, 2))
    stream.close()
    return found

  source = flips.Flipped(make())
  for one, two in zip(first(source), first(source, processes=1), strict=True):
    assert one.keys() == two.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], two[name])


def test_wrappers_pass_on_what_they_wrap():
  source = flips.Flipped(make())
  source = pickle.loads(pickle.dumps(source))
  assert isinstance(source, Source)
  assert len(source) == 20 and len(source.classes) == shapes.CLASSES
  inner = shapes.Shapes(frames=2, size=8, length=20)
  assert source.words == inner.words
  assert source.captions(5) == inner.captions(5)


def test_signatures_tell_the_encoder():
  signature = make().signature()
  assert json.loads(json.dumps(signature)) == signature == make().signature()
  assert make(max_length=6).signature() != signature
  assert make(length=21).signature() != signature


def test_captions_that_cannot_be_encoded_are_found_at_once():
  source = shapes.Shapes(frames=2, size=8)
  short = Words(source.words, 4)
  with pytest.raises(ConfigError, match='at most 4'):
    captioned.Captioned(source, short.encode, 'w')
  few = Words(tuple(w for w in source.words if w != 'red'), 8)
  with pytest.raises(ConfigError, match="'red'"):
    captioned.Captioned(source, few.encode, 'w')
  every = source.captions()
  known = set(every[3:])
  with pytest.raises(DataError, match=r'3 of 84.*--mode=embed') as caught:
    captioned.Captioned(source, embeddings, 'e', known=known)
  assert every[0] in str(caught.value)
  captioned.Captioned(source, embeddings, 'e', known=set(every))

  class Still(shapes.Shapes):
    def captions(self, n=None):
      return ['a red disc', '!']

  with pytest.raises(DataError, match=r"no words .'!'"):
    captioned.Captioned(
      Still(frames=2, size=8), Words(('a', 'red', 'disc'), 3).encode, 'w'
    )


def test_a_source_without_captions_is_refused():
  class Mute:
    classes = ()

    def __len__(self):
      return 1

    def clip(self, index, rng): ...

    def signature(self): ...

  with pytest.raises(DataError, match='no captions'):
    captioned.Captioned(Mute(), embeddings, 'e')
  wrapped = flips.Flipped(strides.Strides({1: Mute()}))
  assert not hasattr(wrapped, 'captions') and not hasattr(wrapped, 'words')
  assert captioned.vocabulary(wrapped, make()) == make().words


def test_captions_of_a_file_are_relative_to_the_videos(tmp_path):
  rows = [
    ('./a.mp4', 'one'),
    (str(tmp_path / 'videos/b/c.mp4'), 'two'),
    ('x/../a.mp4', 'three'),
  ]
  lines = [json.dumps({'video': v, 'caption': c}) for v, c in rows]
  path = tmp_path / 'captions.jsonl'
  path.write_text('\n'.join(lines))
  assert captioned.captions_of(path, tmp_path / 'videos') == {
    'a.mp4': ['one', 'three'],
    'b/c.mp4': ['two'],
  }
  path.write_text(lines[0] + '\n{"video": "../out.mp4", "caption": "four"}')
  with pytest.raises(DataError, match='outside of the folder'):
    captioned.captions_of(path, tmp_path / 'videos')


def test_captions_beside_the_videos(tmp_path):
  (tmp_path / 'deep').mkdir()
  (tmp_path / 'deep/a.mp4').touch()
  (tmp_path / 'deep/a.txt').write_text('a dog\nruns\n')
  found = captioned.captions_of(tmp_path, tmp_path)
  assert found == {'deep/a.mp4': ['a dog runs']}


def test_captions_without_videos_are_refused(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('a dog\n')
  with pytest.raises(DataError, match=r"which video.*'a dog'.*\.csv"):
    captioned.captions_of(path, tmp_path)


def test_examples_are_spread_and_always_the_same():
  table = {f'{i:02}.mp4': [f'c{i}'] for i in range(10)}
  captions = captioned.Captions(table, list(table))
  assert captions(5) == ['c0', 'c2', 'c4', 'c6', 'c8']
  assert captions(12)[10:] == ['c0', 'c1']
  assert captions(0) == []
  assert captions() == sorted(f'c{i}' for i in range(10))
  orders = [list(table), list(reversed(table))]
  assert len({tuple(captioned.Captions(table, o)(3)) for o in orders}) == 1
  assert captioned.Captions(table, ['03.mp4'])() == ['c3']


def test_every_caption_of_a_file_is_drawn_as_often():
  captions = captioned.Captions(PAIRS, list(PAIRS))
  drawn = [
    captions.draw('a.mp4', np.random.default_rng(seed)) for seed in range(400)
  ]
  assert abs(drawn.count('a dog') - 200) < 40
  assert set(drawn) == set(PAIRS['a.mp4'])
  assert captions.words == words_of(['a dog', 'rex runs', 'a cat'])


def test_what_is_chosen_and_what_is_left_out():
  files = ['a.mp4', 'd.mp4', 'e/f.mp4']
  none = captioned.Classes(Path('x'), files)
  chosen, problems = captioned.choose(files, none, PAIRS)
  assert chosen == ['a.mp4']
  assert problems == [
    ('d.mp4', 'no caption'),
    ('e/f.mp4', 'no caption'),
    ('b/c.mp4', 'named by the captions, but not there'),
  ]
  assert captioned.choose(files, none, None) == (files, [])
  folders = captioned.Classes(Path('x'), files, folders=True)
  chosen, problems = captioned.choose(files, folders, PAIRS | {'e/f.mp4': 'f'})
  assert chosen == ['e/f.mp4']
  assert problems[:2] == [
    ('a.mp4', 'in no class folder'),
    ('d.mp4', 'no caption'),
  ]


def test_a_text_is_not_a_list_of_captions():
  for wrong in ('a dog', []):
    with pytest.raises(DataError, match=r'list of captions.*a\.mp4'):
      captioned.Captions({'a.mp4': wrong}, ['a.mp4'])
