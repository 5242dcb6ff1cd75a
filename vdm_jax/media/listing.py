"""Which videos, or other files, lie below a folder."""

import os
from pathlib import Path

from vdm_jax.errors import DataError
from vdm_jax.media import reading


def find(
  root: Path,
  suffixes: tuple[str, ...] = reading.SUFFIXES,
  what: str = 'videos',
) -> tuple[list[str], list[tuple[str, str]]]:
  """The videos below a folder, as sorted relative paths, and what is barred.

  Links are followed, hidden files and folders are not looked at.

  Args:
    root: the folder.
    suffixes: the endings of the files, in lower case.
    what: how a message calls them.

  Returns:
    Paths with '/' between their parts, and (path, reason) of the sub-folders
    that cannot be listed.

  Raises:
    DataError: `root` is not a folder that can be listed.
  """
  if not root.exists():
    raise DataError(f'no such folder ({root}); name a folder of {what}')
  if not root.is_dir():
    raise DataError(f'not a folder ({root}); name a folder of {what}')
  barred: list[OSError] = []
  names, seen = [], set()
  for folder, inner, files in os.walk(
    root, followlinks=True, onerror=barred.append
  ):
    real = os.path.realpath(folder)
    if real in seen:  # links may run in circles
      inner.clear()
      continue
    seen.add(real)
    inner[:] = sorted(name for name in inner if not name.startswith('.'))
    names += [
      Path(folder, name).relative_to(root).as_posix()
      for name in files
      if name.lower().endswith(suffixes) and not name.startswith('.')
    ]
  problems = []
  for error in barred:
    if Path(error.filename) == root:
      raise DataError(
        f'the folder cannot be listed ({root}: {error.strerror}); change its '
        'permissions'
      )
    name = Path(error.filename).relative_to(root).as_posix()
    problems.append((name, error.strerror or 'cannot be listed'))
  return sorted(names), problems
