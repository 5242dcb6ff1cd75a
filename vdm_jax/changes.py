"""What differs between two trees of JSON values, in a few words."""

import itertools
from collections.abc import Mapping
from typing import Any

_LONGEST = 24  # characters of a value
_LISTED = 2  # elements of a list


def told(
  old: Mapping[str, Any], new: Mapping[str, Any], most: int = 150
) -> str:
  """The differences by dotted keys, as `source.files: 1f2e3d… → 9a8b7c…`.

  Args:
    old: the one tree.
    new: the other.
    most: characters, of which the first difference alone may take more.

  Returns:
    '' if they are the same.
  """
  before, after = _flat(old), _flat(new)
  found = [
    f'{key}: {_change(before.get(key), after.get(key))}'
    for key in {**before, **after}
    if before.get(key) != after.get(key)
  ]
  for count in range(len(found), 0, -1):
    left = len(found) - count
    text = '; '.join(found[:count]) + (f'; and {left} more' if left else '')
    if len(text) <= most or count == 1:
      return text
  return ''


def _flat(tree) -> dict[str, Any]:
  """Values by dotted keys; the places in a list of trees are keys too."""
  flat = {}
  for key, value in tree.items():
    if _of_trees(value):
      value = {str(i): part for i, part in enumerate(value)}
    if isinstance(value, Mapping):
      flat |= {f'{key}.{k}': v for k, v in _flat(value).items()}
    else:
      flat[key] = list(value) if isinstance(value, tuple) else value
  return flat


def _of_trees(value) -> bool:
  return isinstance(value, list | tuple) and any(
    isinstance(part, Mapping) for part in value
  )


def _change(old, new) -> str:
  if isinstance(old, list) and isinstance(new, list):
    return _of_lists(old, new)
  was, now = ('nothing' if v in (None, '') else str(v) for v in (old, new))
  return f'{_cut(was, now)} → {_cut(now, was)}'


def _of_lists(old: list, new: list) -> str:
  gone, come = (
    [v for v in old if v not in new],
    [v for v in new if v not in old],
  )
  parts = [
    f'{sign} {_names(names)}'
    for sign, names in (('without', gone), ('with', come))
    if names
  ]
  return ', '.join(parts) or 'in another order'


def _names(values: list) -> str:
  names = ', '.join(_cut(str(v), '') for v in values[:_LISTED])
  more = len(values) - _LISTED
  return names + (f' and {more} more' if more > 0 else '')


def _cut(text: str, other: str) -> str:
  """A long text around the place where another one differs from it."""
  if len(text) <= _LONGEST:
    return text
  pairs = zip(text, other, strict=False)
  common = sum(1 for _ in itertools.takewhile(lambda ab: ab[0] == ab[1], pairs))
  begin = max(0, common - 6)
  end = begin + _LONGEST - 8
  return f'{"…" * (begin > 0)}{text[begin:end]}{"…" * (end < len(text))}'
