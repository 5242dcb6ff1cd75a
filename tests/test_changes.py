"""What has changed is told by its names, and within a line."""

import pytest

from vdm_jax import changes

OLD = {
  'source': {'files': 64 * 'a', 'classes': ['cat', 'dog'], 'resize': 'crop'},
  'elements': 4,
}


def test_what_is_the_same_is_not_told():
  assert changes.told(OLD, dict(OLD)) == ''
  as_tuple = OLD['source'] | {'classes': ('cat', 'dog')}
  assert changes.told(OLD, OLD | {'source': as_tuple}) == ''


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'resize': 'squash'}, 'source.resize: crop → squash'),
    ({'files': 'b' + 63 * 'a'}, f'source.files: {16 * "a"}… → b{15 * "a"}…'),
    ({'files': 60 * 'a' + 'bbbb'}, 'source.files: …aaaaaaaaaa → …aaaaaabbbb'),
    ({'classes': ['cat', 'owl']}, 'source.classes: without dog, with owl'),
    ({'classes': ['dog', 'cat']}, 'source.classes: in another order'),
    ({'classes': []}, 'source.classes: without cat, dog'),
    ({'captions': 'c'}, 'source.captions: nothing → c'),
    ({'resize': ''}, 'source.resize: crop → nothing'),
  ],
)
def test_each_change_is_told_by_its_key(change, said):
  assert changes.told(OLD, OLD | {'source': OLD['source'] | change}) == said


def test_trees_in_a_list_are_told_apart():
  old = {'sources': [{'files': 'a'}, {'files': 'b'}]}
  new = {'sources': [{'files': 'a'}, {'files': 'c'}]}
  assert changes.told(old, new) == 'sources.1.files: b → c'


def test_many_changes_are_a_line():
  names = {f'key_{i}': 40 * str(i) for i in range(9)}
  text = changes.told(names, dict.fromkeys(names, 'x'), most=100)
  assert len(text) <= 100 and text.endswith('; and 6 more')
  assert text.startswith('key_0: ') and 'key_1: ' in text
  # The first is told, however long it is.
  assert changes.told({'a': 1}, {'a': 2}, most=0) == 'a: 1 → 2'
