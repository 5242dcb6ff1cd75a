"""Whether a checkpoint fits what is wanted, before an array of it is read.

A checkpoint lists its arrays (`meta['arrays']`: path → type, shape and
fingerprint), so a mismatch costs a look at one small file and is one line.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from vdm_jax import changes, errors, fingerprint

PyTree = Any


def listing(items: Mapping[str, PyTree], values: Mapping[str, int]) -> dict:
  """What a checkpoint says of its arrays, as JSON holds it.

  Args:
    items: trees of arrays by the names of the items.
    values: their fingerprints by path.
  """
  return {
    path: [str(a.dtype), list(a.shape), values[path]]
    for path, a in fingerprint.flat(items).items()
  }


def differences(
  saved: Mapping[str, list], wanted: Mapping[str, PyTree]
) -> list[str]:
  """What is saved and what is wanted instead, as text, the gravest first.

  Args:
    saved: the `listing` of a checkpoint.
    wanted: trees of `ShapeDtypeStruct`s by the names of items; the items of
      the checkpoint that are not wanted do not count.
  """
  new = fingerprint.flat(wanted)
  old = {k: v for k, v in saved.items() if k.partition('/')[0] in wanted}
  found = [
    f'it has no {item}'
    for item in wanted
    if _of(item, new) and not _of(item, old)
  ]
  if found:
    return found
  for path in (p for p in new if p in old):
    dtype, shape, *_ = old[path]
    now = [str(new[path].dtype), list(new[path].shape)]
    if shape != now[1]:
      found.append(f'{path}: shape {tuple(shape)} → {tuple(now[1])}')
    elif dtype != now[0]:
      found.append(f'{path}: {dtype} → {now[0]}')
  found += _count('lacks', [p for p in new if p not in old])
  found += _count('has besides', [p for p in old if p not in new])
  return found


def refuse(saved, wanted, *, what: str, advice: str):
  """Raises CheckpointError unless the arrays wanted are those saved.

  Args:
    saved: the `listing` of a checkpoint.
    wanted: as of `differences`.
    what: has the arrays, as the message calls it.
    advice: what to do about it.
  """
  found = differences(saved, wanted)
  if found:
    more = f'; and {len(found) - 2} more' if len(found) > 2 else ''
    raise errors.CheckpointError(
      f'{what} does not fit ({"; ".join(found[:2])}{more}); {advice}'
    )


def refuse_data(saved: dict | None, now: dict, *, allowed: bool) -> str:
  """Compares the data signature of a checkpoint with that of now.

  Args:
    saved: of the checkpoint.
    now: of the data that there are.
    allowed: whether they may differ.

  Returns:
    What has changed, in a line; '' if nothing has.

  Raises:
    CheckpointError: they differ, which is not allowed.
  """
  changed = changes.told(saved or {}, now)
  if not changed:
    return ''
  what = f'the data of the run have changed ({changed})'
  if not allowed:
    raise errors.CheckpointError(
      f'{what}; bring the old data back, choose another --workdir, or allow '
      'it by config.train.allow_data_change=True'
    )
  return f'{what}, as config.train.allow_data_change allows'


def _of(item: str, paths: Iterable[str]) -> list[str]:
  return [p for p in paths if p.partition('/')[0] == item]


def _count(verb: str, paths: list[str]) -> list[str]:
  if not paths:
    return []
  arrays = 'arrays' if len(paths) > 1 else 'array'
  return [f'it {verb} {len(paths)} {arrays} such as {paths[0]}']
