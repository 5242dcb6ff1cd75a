"""Kinetics-600: the official list of videos over a folder of what is there.

The list is a CSV file with the columns `label,youtube_id,time_start,time_end,
split`; the older one has `is_cc` besides, and the older test list no `label`.
The videos are files of the common downloaders, in sub-folders or not:
`{youtube_id}_{time_start:06d}_{time_end:06d}.mp4`, or `{youtube_id}.mp4`.
"""

import csv
import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.data.folder import Folder
from vdm_jax.data.source import Wrapper
from vdm_jax.errors import DataError
from vdm_jax.media import listing

COLUMNS = ('youtube_id', 'time_start', 'time_end', 'split')
_SAME = {'val': 'validate', 'validation': 'validate'}  # lists differ in this
_NAME = re.compile(r'(.+)_(\d{1,9})_(\d{1,9})', re.ASCII)


class Clip(NamedTuple):
  """What a list calls a video: a part of one on YouTube."""

  youtube_id: str
  start: int  # seconds
  end: int

  def __str__(self) -> str:
    return f'{self.youtube_id}_{self.start:06d}_{self.end:06d}.mp4'


class Row(NamedTuple):
  """A line of the list; `label` is '' where the list has no labels."""

  clip: Clip
  label: str
  split: str


class Found(NamedTuple):
  """What of a split is in a folder.

  Attributes:
    labels: the class of each file that counts, by its path in the folder.
    classes: all classes of the list, sorted; none if the list has no labels.
    problems: (path, reason) of what is left out; a missing video and a file
      of another split is counted, not named.
  """

  labels: Mapping[str, str]
  classes: tuple[str, ...]
  problems: list[tuple[str, str]]


class Kinetics600(Wrapper):
  """One element per video of a split that is there; see `Folder`.

  Attributes:
    classes: all classes of the list, sorted, whatever is there.
    problems: (path, reason); how many of the list's videos are there, and what
      is left out.
    files: paths of the elements, relative to the folder.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    list_file: str | os.PathLike,
    *,
    frames: int,
    size: int,
    stride: int = 1,
    split: str = 'train',
    resize: str = 'crop',
    short: str = 'skip',
    cache: str | os.PathLike | None = None,
    workers: int | None = None,
    processes: int = 0,
    seconds: float = 0.0,
  ):
    """Finds the videos of a split, and decodes what the cache does not know.

    Args:
      path: the folder of the videos.
      list_file: the official CSV, of one split or of several.
      frames: frames of a clip.
      size: height and width of a frame, pixels.
      stride: every stride-th frame is taken.
      split: 'train', 'validate', 'test' or whatever the list has.
      resize: see `Folder`.
      short: see `Folder`.
      cache: see `Folder`.
      workers: see `Folder`.
      processes: see `Folder`.
      seconds: see `Folder`.

    Raises:
      ConfigError: options that cannot work.
      DataError: the list cannot be read, or none of its videos can be used.
    """
    found = find(list_file, path, split=split)
    folder = Folder(
      path,
      frames=frames,
      size=size,
      stride=stride,
      resize=resize,
      short=short,
      labels=found.labels,
      cache=cache,
      workers=workers,
      processes=processes,
      seconds=seconds,
    )
    super().__init__(folder)
    self.split, self.classes = split, found.classes
    # The folder names every file of the other splits; these are counted.
    named = [p for p in folder.problems if p[1] != 'not in the list']
    self.problems = found.problems + named
    numbers = {name: i for i, name in enumerate(self.classes)}
    self._labels = {f: numbers.get(found.labels[f], 0) for f in folder.files}

  def clip(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """Reads a clip; its `id` is the path. See `Source.clip`."""
    clip = self.source.clip(index, rng)
    return clip | {'label': np.int32(self._labels[clip['id']])}

  def signature(self) -> dict[str, Any]:
    """JSON-able identity: that of the folder, the split and the classes."""
    return self.source.signature() | {
      'source': 'kinetics600',
      'split': self.split,
      'classes': list(self.classes),
    }


def labels(
  list_file: str | os.PathLike,
  folder: str | os.PathLike,
  *,
  split: str = 'train',
) -> Mapping[str, str]:
  """The class of each file of a split, by its path; see `find`."""
  return find(list_file, folder, split=split).labels


def find(
  list_file: str | os.PathLike,
  folder: str | os.PathLike,
  *,
  split: str = 'train',
) -> Found:
  """Which files of a folder are videos of a split.

  A file without times in its name counts where the list, in all its splits, has
  one clip of that video; it may hold more than that clip. Of several files of
  a clip the first in alphabetical order counts, those with times before the
  others. Of a clip that the list has in several classes the first counts.

  Args:
    list_file: the official CSV.
    folder: of the videos; sub-folders are searched, their names do not matter.
    split: which videos of the list.

  Raises:
    DataError: the list cannot be read or has no such split, or none of its
      videos is there.
  """
  rows = read_list(list_file)
  folder = Path(folder).expanduser()
  wanted, doubtful = _of_split(rows, split, list_file)
  names, _ = listing.find(folder)
  chosen, problems, strange = _match(names, rows, wanted)
  if not chosen:
    raise DataError(
      f'none of the {len(wanted)} videos of the list is there ({folder}, '
      f'{list_file}, split {split!r}); name the files such as '
      f'{next(iter(wanted))}'
    )
  counted = []
  if len(chosen) < len(wanted):
    counted.append(
      f'{len(chosen)} of {len(wanted)} videos of the list are there '
      f'(split {split!r})'
    )
  if doubtful:
    counted.append(
      f'{doubtful} videos of the list are in several classes; the first counts'
    )
  place = os.path.abspath(Path(list_file).expanduser())
  told = [(place, text) for text in counted]
  if strange:
    told.append((str(folder), f'{strange} files are of no video of the split'))
  return Found(
    labels={name: wanted[clip] for clip, name in chosen.items()},
    classes=tuple(sorted({row.label for row in rows} - {''})),
    problems=told + problems,
  )


def read_list(path: str | os.PathLike) -> list[Row]:
  """The rows of an official list, in their order.

  Args:
    path: a CSV file in UTF-8; columns may be in any order, and more than these.

  Raises:
    DataError: there is no such file, or a line is not as it should be; the
      message has its number.
  """
  path = Path(path).expanduser()
  reader = csv.DictReader(io.StringIO(_text(path), newline=''), strict=True)
  rows = []
  try:
    there = [str(name).strip() for name in reader.fieldnames or ()]
    reader.fieldnames = there
    missing = [name for name in COLUMNS if name not in there]
    if missing:
      raise DataError(
        f'a column of the list is missing ({path}, line 1: '
        f'{", ".join(missing)}); give the official CSV, with '
        f'label,{",".join(COLUMNS)} in its first line'
      )
    for row in reader:
      rows.append(_row(row, f'{path}, line {reader.line_num}'))
  except csv.Error as error:
    raise DataError(
      f'the list is no CSV file ({path}, line {reader.line_num + 1}: {error}); '
      'mend it'
    ) from error
  return rows


def _row(row: dict, where: str) -> Row:
  if None in row or None in row.values():
    raise DataError(
      f'a row of the list has another number of columns than the first '
      f'({where}); put labels with commas in double quotes'
    )
  row = {name: text.strip() for name, text in row.items()}
  for name in ('label', 'youtube_id', 'split'):
    if not row.get(name, 'none'):
      raise DataError(f'{name} is empty in the list ({where}); mend the row')
  times = []
  for name in ('time_start', 'time_end'):
    try:
      time = float(row[name])
    except ValueError:
      time = -1.0
    if not 0 <= time < math.inf:
      raise DataError(
        f'{name} is no time in the list ({where}: {row[name]!r}); write it in '
        'seconds'
      )
    times.append(int(time))
  split = row['split'].lower()
  return Row(
    Clip(row['youtube_id'], *times),
    row.get('label', ''),
    _SAME.get(split, split),
  )


def _of_split(rows, split, path) -> tuple[dict[Clip, str], int]:
  """The class of each clip of the split, and how many have several."""
  split = _SAME.get(split.lower(), split.lower())
  wanted: dict[Clip, str] = {}
  doubtful = set()
  for row in rows:
    if (
      row.split == split and wanted.setdefault(row.clip, row.label) != row.label
    ):
      doubtful.add(row.clip)
  if not wanted:
    there = ', '.join(sorted({row.split for row in rows})) or 'nothing'
    raise DataError(
      f'no videos of the split {split!r} in the list ({path} has {there}); '
      'give the list of that split'
    )
  return wanted, len(doubtful)


def _match(names, rows, wanted):
  """The file of each clip, (path, reason) of others, the count of the rest."""
  clips: dict[str, set[Clip]] = {}
  for row in rows:
    clips.setdefault(row.clip.youtube_id, set()).add(row.clip)
  chosen: dict[Clip, str] = {}
  problems, strange, plain = [], 0, []
  for name in names:
    stem = PurePosixPath(name).stem
    # First, since an identity may end like a name with times.
    if stem in clips:
      plain.append((name, clips[stem]))
      continue
    parts = _NAME.fullmatch(stem)
    clip = parts and Clip(parts[1], int(parts[2]), int(parts[3]))
    if clip not in wanted:
      strange += 1
    elif name != (first := chosen.setdefault(clip, name)):
      problems.append((name, f'the same video as {first}'))
  for name, these in plain:
    among = [clip for clip in these if clip in wanted]
    if not among:
      strange += 1
    elif len(these) > 1:
      problems.append((name, f'the list has {len(these)} clips of this video'))
    elif name != (first := chosen.setdefault(among[0], name)):
      problems.append((name, f'the same video as {first}'))
  return chosen, problems, strange


def _text(path: Path) -> str:
  try:
    data = path.read_bytes()
    return data.decode('utf-8-sig')
  except OSError as error:
    raise DataError(
      f'the list cannot be read ({path}: {error.strerror}); name the official '
      'CSV file'
    ) from error
  except UnicodeDecodeError as error:
    line = data[: error.start].count(b'\n') + 1
    raise DataError(
      f'the list is not UTF-8 ({path}, line {line}); save it as UTF-8'
    ) from error
