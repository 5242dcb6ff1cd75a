"""A run's samples as files, and one web page made from them.

Each set of samples is a folder `samples/NAME` of MP4s, GIFs and a contact
sheet, with a `section.json` that is written last: a folder without it is not
finished and is not shown. `rebuild` makes `index.html` from those folders and
from nothing else, so that training, sampling and evaluation can each add
their part, in any order, and a lost page costs nothing. The page needs no
other file and no network: its videos stand inside it.
"""

import base64
import dataclasses
import hashlib
import html
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax import logs
from vdm_jax.errors import ConfigError, DataError
from vdm_jax.media import writing

# What a page holds at most: phones refuse more than some dozens of players.
MAX_VIDEOS, MAX_BYTES = 48, 32 << 20  # single videos, before base64
MAX_GRIDS, MAX_GRID_BYTES = 16, 16 << 20  # training steps
_SHEET_SIDE, _GIF_FRAMES = 16, 128  # a GIF is made in memory, so a short one

Facts = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Tile:
  """One video of the page; `text` says what to see, `facts` how it was made."""

  mp4: bytes | None  # None: the file is gone, which the page says
  facts: Facts = dataclasses.field(default_factory=dict)
  text: str = ''


@dataclasses.dataclass(frozen=True)
class Section:
  """A titled row of tiles, or one grid with its clips listed in `lines`."""

  title: str
  tiles: Sequence[Tile]
  facts: Facts = dataclasses.field(default_factory=dict)
  note: str = ''
  lines: Sequence[str] = ()


def write_samples(
  folder: str | os.PathLike,
  name: str,
  videos: np.ndarray,
  fps: float | Fraction,
  items: Sequence[Facts],
  facts: Facts,
  *,
  step: int | None = None,
  title: str | None = None,
  note: str = '',
  gifs: bool = True,
  array: bool = False,
) -> Path:
  """Writes a set of samples to `folder/samples/name`, replacing an older one.

  The files are `0000.mp4` …, `0000.gif` … (up to 128 frames), `grid.mp4` (the
  first clips side by side), `sheet.png` (16 × 16 frames at most), `videos.npy`.

  Args:
    folder: the run's folder.
    name: the set's name: letters, digits, `-`, `_` and `.`.
    videos: uint8 `[n, t, h, w, 3]`, in memory or a map of a long file.
    fps: frames per second.
    items: n mappings: `caption` is the text of a clip; the others, such as
      `seed`, `index` and `label`, are shown as they are called.
    facts: what they share, by name.
    step: of training, for samples that the page shows as a grid; None for
      final ones, which it shows one by one.
    title: the heading; made from `step` or `name` if None or empty.
    note: a sentence below the heading.
    gifs, array: write GIFs, and `videos.npy`, too.

  Returns the folder of the set.

  Raises:
    ConfigError: `name` cannot be a folder's name.
    ValueError: `videos`, `fps` or the number of items is wrong.
  """
  if not re.fullmatch(r'\w[\w.-]*', name):
    raise ConfigError(
      f'bad name of a sample set ({name}); use letters, digits, - _ .'
    )
  writing.check_uint8(videos, 'videos', 'n t h w 3')
  rate = writing.frame_rate(fps)
  if len(items) != len(videos):
    raise ValueError(f'{len(items)} items for {len(videos)} videos')
  here = Path(folder, 'samples', name)
  _discard(here)
  writing.write_png(here / 'sheet.png', writing.contact_sheet(_sheet(videos)))
  tiles = min(len(videos), 64, writing.grid_capacity(*videos.shape[2:4]))
  writing.write_grid_mp4(here / 'grid.mp4', videos[:tiles], rate)
  for i, video in enumerate(videos):
    writing.write_mp4(here / f'{i:04d}.mp4', video, rate)
    if gifs and len(video) <= _GIF_FRAMES:
      writing.write_gif(here / f'{i:04d}.gif', video, rate)
  if array:
    writing.write_array(here / 'videos.npy', videos)
  section = {
    'title': title or (name if step is None else f'Step {step}'),
    'step': step,
    'note': note,
    'facts': dict(facts),
    'fps': float(fps),
    'shape': list(videos.shape),
    'in_grid': tiles,
    'items': [dict(item) for item in items],
  }
  writing.write_json(here / 'section.json', section)
  return here


def _sheet(videos: np.ndarray) -> np.ndarray:
  length = videos.shape[1]
  frames = np.linspace(0, length - 1, min(length, _SHEET_SIDE)).round()
  return videos[:_SHEET_SIDE, frames.astype(int)]


def rebuild(
  folder: str | os.PathLike,
  title: str | None = None,
  facts: Facts | None = None,
  scores: Sequence[Facts] | None = None,
  curve: Mapping[str, Sequence[logs.Point]] | None = None,
) -> Path:
  """Makes `folder/index.html` from the sets of samples in `folder/samples`.

  Final samples come first and one by one, then the grids of training steps,
  newest first. The page's size is bounded: what does not fit is named with
  its place on disk. What is None is as in the last call (it is kept in
  `samples/gallery.json`), so each program gives what it knows.

  Args:
    folder: the run's folder.
    title: the page's title.
    facts: what there is to know of the run, by name.
    scores: the rows of a table, mappings from column to value.
    curve: points (step, value) by the metric's name; one plot for each.

  Returns:
    The path of the page.

  Raises:
    DataError: a `section.json` is damaged.
  """
  samples = Path(folder, 'samples')
  path = samples / 'gallery.json'
  about = {'title': 'Samples', 'facts': {}, 'scores': [], 'curve': {}}
  if path.exists():
    about |= _read_json(path)
  given = {'title': title, 'facts': facts, 'scores': scores}
  about |= {k: v for k, v in given.items() if v is not None}
  if curve is not None:
    about['curve'] = {name: logs.thin(points) for name, points in curve.items()}
  writing.write_json(path, about)
  # As read back, so that the page is the same whoever makes it.
  page = render(sections=_load(samples), **_read_json(path))
  writing.write_bytes(Path(folder, 'index.html'), page.encode())
  return Path(folder, 'index.html')


def render(
  title: str,
  facts: Facts,
  sections: Iterable[Section],
  *,
  scores: Sequence[Facts] = (),
  curve: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> str:
  """The page as HTML that needs no other file and runs no text it is given.

  Args:
    title: the heading.
    facts: a table below it.
    sections: in the order of the page.
    scores: rows of a table, mappings from column to value.
    curve: points as of `logs.thin`, by the metric's name.

  Returns a whole HTML document, the same for the same arguments.
  """
  plots = ''.join(
    logs.plot(name, points) for name, points in (curve or {}).items()
  )
  body = [f'<header><h1>{_text(title)}</h1>{_definitions(facts)}</header>']
  if scores:
    body.append(f'<section><h2>Scores</h2>{_table(scores)}</section>')
  if plots:
    body.append(f'<section class="plots">{plots}</section>')
  body += [_section(section) for section in sections]
  # The policy makes the browser refuse whatever the page did not mean to hold.
  policy = (
    "default-src 'none'; media-src data:; "
    f"style-src 'sha256-{_digest(_STYLE)}'; "
    f"script-src 'sha256-{_digest(_SCRIPT)}'"
  )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{_text(title)}</title>\n<style>{_STYLE}</style></head>\n'
    f'<body><main>{"".join(body)}</main>'
    f'<script>{_SCRIPT}</script></body></html>\n'
  )


def _load(samples: Path) -> list[Section]:
  read = [
    (path.parent, _read_json(path))
    for path in sorted(samples.glob('*/section.json'))
  ]
  final = [entry for entry in read if entry[1]['step'] is None]
  steps = [entry for entry in read if entry[1]['step'] is not None]
  steps.sort(key=lambda entry: entry[1]['step'], reverse=True)
  sections = []
  count, size = MAX_VIDEOS, MAX_BYTES
  for i, (here, about) in enumerate(final):
    left = len(final) - i  # sets that share what remains
    tiles = _single_tiles(here, about['items'], -(-count // left), size // left)
    count -= len(tiles)
    size -= sum(len(tile.mp4 or b'') for tile in tiles)
    rest = len(about['items']) - len(tiles)
    note = f'{about["note"]} {rest} more in samples/{here.name}.'
    note = note.strip() if rest else about['note']
    sections.append(Section(about['title'], tiles, about['facts'], note))
  size = MAX_GRID_BYTES
  for i, (here, about) in enumerate(steps):
    grid = _video(here / 'grid.mp4') if i < MAX_GRIDS and size > 0 else b''
    size -= len(grid or b'')
    tiles, lines, note = [Tile(grid)], [], about['note']
    if grid == b'' or size < 0:
      tiles, note = [], f'{note} See samples/{here.name}/grid.mp4.'.strip()
    else:
      lines = [_line(item) for item in about['items'][: about['in_grid']]]
    sections.append(Section(about['title'], tiles, about['facts'], note, lines))
  return sections


def _video(path: Path) -> bytes | None:
  return path.read_bytes() if path.exists() else None


def _single_tiles(
  here: Path, items: Sequence[Facts], count: int, size: int
) -> list[Tile]:
  tiles = []
  for i, item in enumerate(items[:count]):
    mp4 = _video(here / f'{i:04d}.mp4')
    size -= len(mp4 or b'')
    if size < 0:
      break
    facts = {k: v for k, v in item.items() if k != 'caption'}
    tiles.append(Tile(mp4, facts, str(item.get('caption', ''))))
  return tiles


def _section(section: Section) -> str:
  tiles = ''.join(_tile(tile) for tile in section.tiles)
  parts = [
    f'<section class="{"grid" if section.lines else "single"}">',
    f'<h2>{_text(section.title)}</h2>',
    f'<p class="facts">{_text(_line(section.facts))}</p>',
    f'<p>{_text(section.note)}</p>' if section.note else '',
    f'<div class="tiles">{tiles}</div>',
  ]
  if section.lines:
    rows = ''.join(f'<li>{_text(line)}</li>' for line in section.lines)
    parts.append(
      f'<details><summary>Clips, row by row</summary><ol>{rows}</ol></details>'
    )
  return ''.join([*parts, '</section>'])


def _tile(tile: Tile) -> str:
  line = _line(tile.facts)
  if tile.mp4 is None:
    video = '<p class="gone">The video is missing on disk.</p>'
  else:
    label = _text(tile.text or line or 'video')
    source = base64.b64encode(tile.mp4).decode()
    video = (
      f'<video src="data:video/mp4;base64,{source}" aria-label="{label}" '
      'autoplay loop muted playsinline></video>'
    )
  text = f'<p>{_text(tile.text)}</p>' if tile.text else ''
  facts = f'<p class="facts">{_text(line)}</p>' if line else ''
  caption = f'<figcaption>{text}{facts}</figcaption>'
  return f'<figure>{video}{caption if text or facts else ""}</figure>'


def _definitions(facts: Facts) -> str:
  rows = ''.join(
    f'<tr><th scope="row">{_text(k)}</th><td>{_text(v)}</td></tr>'
    for k, v in facts.items()
  )
  return f'<table>{rows}</table>' if rows else ''


def _table(rows: Sequence[Facts]) -> str:
  names = list(dict.fromkeys(name for row in rows for name in row))
  head = ''.join(f'<th scope="col">{_text(name)}</th>' for name in names)
  cells = [[f'<td>{_text(row.get(n, ""))}</td>' for n in names] for row in rows]
  body = ''.join(f'<tr>{"".join(row)}</tr>' for row in cells)
  return f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _line(facts: Facts) -> str:
  return ' · '.join(
    str(v) if k == 'caption' else f'{k} {_show(v)}' for k, v in facts.items()
  )


def _show(value: Any) -> str:
  return f'{value:.6g}' if isinstance(value, float) else str(value)


def _text(value: Any) -> str:
  return html.escape(_show(value))


def _discard(here: Path) -> None:
  # The mark of a finished set goes first.
  (here / 'section.json').unlink(missing_ok=True)
  ours = r'\d{4,}\.(mp4|gif)|grid\.mp4|sheet\.png|videos\.npy'
  for path in here.glob('*'):
    if re.fullmatch(ours, path.name):
      path.unlink()


def _read_json(path: Path) -> dict[str, Any]:
  try:
    return dict(json.loads(path.read_bytes()))
  except (TypeError, ValueError):
    raise DataError(
      f'damaged description of samples ({path}); remove the file'
    ) from None


def _digest(text: str) -> str:
  return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #667; --line: #dde;
  --page: #fbfbfc; --card: #fff; --mark: #2f6fd0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7ea; --dim: #99a;
  --line: #30333a; --page: #131417; --card: #1b1d21; --mark: #7fb0ff; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { display: flex; flex-wrap: wrap; gap: 28px 20px; max-width: 1120px;
  margin: auto; padding: 32px 20px 64px; }
header, section { flex: 1 1 100%; min-width: 0; }
section.grid { flex: 0 1 530px; }
h1 { font-size: 26px; line-height: 1.2; } h2 { font-size: 18px; }
table { border-collapse: collapse; margin: 8px 0; font-size: 14px; }
th, td { padding: 4px 20px 4px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th, .facts, summary { color: var(--dim); font-weight: 500; }
.facts, details { font-size: 13px; }
.tiles, .plots { display: grid; gap: 14px; margin-top: 10px;
  grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); }
.grid .tiles { grid-template-columns: 1fr; }
.plots { grid-template-columns:
  repeat(auto-fill, minmax(min(100%, 400px), 1fr)); }
figure { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; overflow: hidden; }
video { display: block; width: 100%; image-rendering: pixelated; }
figcaption { padding: 6px 10px 8px; font-size: 14px; line-height: 1.35; }
.gone { padding: 40px 10px; text-align: center; }
svg text { fill: var(--dim); font-size: 13px; }
svg .name { fill: var(--ink); }
svg line { stroke: var(--line); }
svg polygon { fill: var(--mark); opacity: .18; }
svg polyline { fill: none; stroke: var(--mark); stroke-width: 1.6; }
"""

# A click stops a video; who asked their system for less motion starts them.
_SCRIPT = """
const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
for (const video of document.querySelectorAll('video')) {
  video.controls = still;
  if (still) { video.autoplay = false; video.pause(); }
  else video.onclick = () => video.paused ? video.play() : video.pause();
}
"""
