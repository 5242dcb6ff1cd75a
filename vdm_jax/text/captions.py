"""Captions from files: lines of text, CSV, JSON lines, or beside videos.

Captions are UTF-8, with or without a byte order mark. White space at the ends
goes, everything else stays. An empty caption is an error, never left out: what
is meant by it (no condition, or a mistake in the file) only the user knows. A
video may have several captions, one per row.
"""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from vdm_jax.errors import DataError
from vdm_jax.media import listing

COLUMNS = ('video', 'caption')


class Caption(NamedTuple):
  """A caption and its video, as the file writes it ('' in a text file)."""

  video: str
  text: str


def read(path: str | os.PathLike) -> list[Caption]:
  """Captions in the order of the file, or of the videos' sorted paths.

  Args:
    path: one of
      a `.txt` file: a caption a line; empty lines at the end do not count;
      a `.csv` file: with `video` and `caption` in its first line;
      a `.jsonl` file: a table a line, with `video` and `caption`; empty lines
        do not count;
      a folder of videos: beside each, a `.txt` file of the same name, whose
        lines make one caption; videos are named relative to the folder.

  Raises:
    DataError: there is no such file, it is not UTF-8, a column or a caption
      is missing or empty, or there are no captions at all.
  """
  path = Path(path).expanduser()
  if not path.exists():
    raise DataError(f'no such file of captions ({path}); name another')
  if path.is_dir():
    found = _from_folder(path)
  elif path.suffix.lower() in _READERS:
    found = _READERS[path.suffix.lower()](path)
  else:
    raise DataError(
      f'captions of an unknown kind ({path}); name a folder of videos or a '
      f'file with the ending {", ".join(_READERS)}'
    )
  if not found:
    raise DataError(f'there are no captions ({path}); write some')
  return found


def _from_lines(path: Path) -> list[Caption]:
  lines = _text(path).rstrip().split('\n')
  if lines == ['']:
    return []
  return [_caption(path, i, '', line) for i, line in enumerate(lines, start=1)]


def _from_csv(path: Path) -> list[Caption]:
  reader = csv.DictReader(io.StringIO(_text(path), newline=''), strict=True)
  found = []
  try:
    _check_columns(path, 1, reader.fieldnames or ())
    for row in reader:
      if None in row or None in row.values():
        raise DataError(
          f'a row has another number of columns than the first ({path}, line '
          f'{reader.line_num}); put captions with commas in double quotes'
        )
      found.append(_caption(path, reader.line_num, *_columns(row)))
  except csv.Error as error:
    line = reader.line_num + 1  # it counts what was read well
    raise DataError(
      f'a CSV file cannot be read ({path}, line {line}: {error}); mend it'
    ) from error
  return found


def _from_json_lines(path: Path) -> list[Caption]:
  found = []
  # Not splitlines: JSON strings may hold other line separators.
  for number, line in enumerate(_text(path).split('\n'), start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise DataError(
        f'a line is no JSON ({path}, line {number}: {error}); mend it'
      ) from error
    _check_columns(path, number, row if isinstance(row, dict) else ())
    found.append(_caption(path, number, *_columns(row)))
  return found


def _from_folder(root: Path) -> list[Caption]:
  videos, _ = listing.find(root)
  files = {name: (root / name).with_suffix('.txt') for name in videos}
  missing = [name for name, file in files.items() if not file.is_file()]
  if missing:
    raise DataError(
      f'videos have no captions ({len(missing)} in {root}, the first: '
      f'{missing[0]}); put a .txt file of the same name beside each'
    )
  return [
    _caption(file, 1, name, ' '.join(_text(file).split()))
    for name, file in files.items()
  ]


_READERS = {'.txt': _from_lines, '.csv': _from_csv, '.jsonl': _from_json_lines}


def _text(path: Path) -> str:
  try:
    data = path.read_bytes()
    return data.decode('utf-8-sig')
  except OSError as error:
    raise DataError(
      f'captions cannot be read ({path}: {error.strerror}); change the '
      'permissions'
    ) from error
  except UnicodeDecodeError as error:
    line = data[: error.start].count(b'\n') + 1
    raise DataError(
      f'captions are not UTF-8 ({path}, line {line}); save the file as UTF-8'
    ) from error


def _check_columns(path: Path, line: int, names):
  missing = [name for name in COLUMNS if name not in names]
  if missing:
    there = ', '.join(str(name) for name in names) or 'none'
    raise DataError(
      f'a column is missing ({path}, line {line}: {", ".join(missing)}; there '
      f'are: {there}); name the columns {" and ".join(COLUMNS)}'
    )


def _columns(row) -> tuple[Any, Any]:
  return row['video'], row['caption']


def _caption(path: Path, line: int, video: Any, text: Any) -> Caption:
  for name, value in (('video', video), ('caption', text)):
    if not isinstance(value, str):
      raise DataError(
        f'a {name} is no text ({path}, line {line}: {value!r}); put it in '
        'double quotes'
      )
  if not text.strip():
    raise DataError(
      f'a caption is empty ({path}, line {line}); write one, or remove the line'
    )
  try:
    text.encode('utf-8')
  except UnicodeEncodeError as error:
    raise DataError(
      f'a caption holds half a character ({path}, line {line}); mend it'
    ) from error
  return Caption(video.strip(), text.strip())
