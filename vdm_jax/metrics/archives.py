"""Zip archives of others: looked at with suspicion, never extracted.

A zip may claim anything. Before a member is read, the whole directory is
checked: how many members, of what kind, what they are called, and how large
all of them would become. Members are then read in small pieces, so that one
that lies about its size costs no memory either.
"""

import stat
import zipfile
from io import BufferedIOBase
from pathlib import PurePosixPath

MAX_ENTRIES = 100_000
MAX_DIRECTORY = 2**25  # bytes of a directory, or of a piece of a member
MAX_TOTAL = 2**33  # bytes of all members: 8 GiB, 40 times the largest network
# Weights hardly shrink (float32 noise: 1.1 times), a bomb does 1000 times.
# Of the whole archive, since a member of zeros alone is innocent.
MAX_RATIO = 100
SPARE = 2**26  # an archive may become 64 MiB whatever its ratio
_PIECE = 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1


class Refused(Exception):
  """Why a file is not read, in words that follow its name.

  Attributes:
    advice: what to do about it.
  """

  def __init__(
    self, cause: str, advice: str = 'fetch it again from its publisher'
  ):
    super().__init__(cause)
    self.advice = advice


def shown(name: object, most: int = 60) -> str:
  """A name out of a file, fit for one line of a message."""
  text = name if isinstance(name, str) else repr(name)
  text = ascii(text)[1:-1]
  return text if len(text) <= most else f'{text[: most - 1]}…'


class _Careful:
  """A file whose pieces are small, since zipfile reads a directory whole."""

  def __init__(self, file: BufferedIOBase):
    self._file = file
    self.seek, self.tell = file.seek, file.tell
    self.size = file.seek(0, 2)

  def seekable(self) -> bool:
    return True

  def read(self, size: int = -1) -> bytes:
    left = max(0, self.size - self.tell())
    size = left if size is None or size < 0 else min(size, left)
    if size > MAX_DIRECTORY:
      raise Refused(f'its directory takes {size / 1e6:.0f} MB')
    return self._file.read(size)


def directory(file: BufferedIOBase) -> zipfile.ZipFile:
  """Opens a zip and checks what it claims to hold.

  Raises:
    Refused: it is damaged; has too many members, or one twice; would become
      too large; or a member is a link, encrypted, compressed in a way other
      than deflate, or named outside of the archive.
  """
  source = _Careful(file)
  try:
    archive = zipfile.ZipFile(source)
  except zipfile.BadZipFile as error:
    raise Refused('it is a damaged or truncated zip') from error
  members = archive.infolist()
  if len(members) > MAX_ENTRIES:
    raise Refused(f'it claims {len(members)} members')
  names = set()
  for member in members:
    _check_member(member)
    if member.filename in names:
      raise Refused(f'it holds {shown(member.filename)} twice')
    names.add(member.filename)
  _check_sizes(members, source.size)
  return archive


def _check_member(member: zipfile.ZipInfo):
  # As it stands in the file: zipfile itself cuts names at a zero byte.
  name = member.orig_filename
  path = PurePosixPath(name)
  if (
    path.is_absolute()
    or '..' in path.parts
    or any(c in name for c in ('\\', ':', '\0'))
  ):
    raise Refused(f'it names a member outside of it, {shown(name)}')
  kind = stat.S_IFMT(member.external_attr >> 16)
  if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
    raise Refused(f'its member {shown(name)} is a link or a device')
  if member.flag_bits & _ENCRYPTED:
    raise Refused(f'its member {shown(name)} is encrypted')
  if member.compress_type not in _METHODS:
    raise Refused(
      f'its member {shown(name)} is compressed by method {member.compress_type}'
    )
  stored = member.compress_type == zipfile.ZIP_STORED
  if stored and member.file_size != member.compress_size:
    raise Refused(
      f'its member {shown(name)} claims {member.file_size} bytes, and has '
      f'{member.compress_size}'
    )


def _check_sizes(members: list[zipfile.ZipInfo], size: int):
  packed = sum(m.compress_size for m in members)
  total = sum(m.file_size for m in members)
  if packed > size:
    raise Refused(
      f'its members claim {packed} bytes of a file of {size}, so that they '
      'overlap or it is truncated'
    )
  if total > MAX_TOTAL:
    raise Refused(
      f'it would become {total / 2**30:.1f} GiB, more than any network here '
      f'({MAX_TOTAL // 2**30} GiB)'
    )
  if total > max(SPARE, MAX_RATIO * size):
    raise Refused(
      f'it would become {total / size:.0f} times as large (a zip bomb), which '
      'no weights do'
    )


def content(archive: zipfile.ZipFile, name: str, most: int = MAX_TOTAL):
  """The bytes of a member of at most `most` bytes.

  Raises:
    Refused: the member is missing, too large, or damaged.
  """
  try:
    member = archive.getinfo(name)
  except KeyError as error:
    raise Refused(f'its member {shown(name)} is missing') from error
  if member.file_size > most:
    raise Refused(f'its member {shown(name)} claims {member.file_size} bytes')
  pieces, left = [], member.file_size
  try:
    with archive.open(member) as file:
      while piece := file.read(_PIECE):
        pieces.append(piece)
        left -= len(piece)
  except Refused:
    raise
  except Exception as error:
    # BadZipFile, zlib.error, EOFError, … as zipfile happens to find it.
    raise Refused(f'its member {shown(name)} is damaged') from error
  if left:
    raise Refused(f'its member {shown(name)} is not of the size it claims')
  return b''.join(pieces)
