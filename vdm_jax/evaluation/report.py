"""From samples and real clips to `metrics.json`, a table and the page."""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from vdm_jax import runtime, sample
from vdm_jax.data import shapes
from vdm_jax.errors import DataError
from vdm_jax.evaluation.plan import Plan
from vdm_jax.evaluation.samples import Samples, Set, without
from vdm_jax.media import gallery, writing
from vdm_jax.metrics import features, moments, reference, scoring
from vdm_jax.metrics.protocols import Feature, Measure
from vdm_jax.metrics.protocols import Reference as Asked
from vdm_jax.metrics.reference import Provenance, Reference
from vdm_jax.metrics.scoring import Extras, Seconds, Wanted

Statistics = dict[Feature, Reference]
FILE = 'metrics.json'
# What the time goes to besides samples and networks.
OWN = ('reading', 'accumulating', 'statistics')


def make(
  config, plan: Plan, samples: Samples, sets: Mapping[str, Set], mesh, seconds
) -> dict[str, Any]:
  """All numbers, and all that they depend on; all processes must call it.

  Args:
    config: the whole config.
    plan: what is to be done.
    samples: the videos.
    sets: the reference sets by their names.
    mesh: the devices.
    seconds: that were spent so far.

  Returns:
    What `metrics.json` holds, on the first process; else what is of no use.
  """
  begin = time.monotonic() - sum(seconds.values())
  collect = Collector(config, plan, mesh, seconds)
  size = samples.frames, samples.size
  made = collect.statistics(
    samples.read,
    np.arange(samples.count),
    samples.identity,
    folder=samples.folder / 'features',
    part='samples',
    size=size,
  )
  real: dict[str, tuple[Statistics, Statistics]] = {}
  for name, chosen in sets.items():
    real[name] = collect.references(chosen, name, samples, size)
  with seconds.on('statistics'):
    numbers = {}
    if jax.process_index() == 0:
      numbers = _numbers(config, plan, samples, sets, made, real)
  return _report(plan, samples, numbers, sets, seconds, begin)


class Collector:
  """Statistics of clips by every network, kept for the next evaluation."""

  def __init__(self, config, plan: Plan, mesh, seconds: Seconds):
    self._config, self._plan = config, plan
    self._mesh, self._seconds = mesh, seconds
    self._extractors: dict[tuple, features.Extractor] = {}

  def references(
    self, chosen: Set, name: str, samples: Samples, size: tuple[int, int]
  ) -> tuple[Statistics, Statistics]:
    """Of a reference set and of the clips that its floor is made of."""
    folder = pathlib.Path(self._config.evaluate.cache).expanduser()
    if not self._config.evaluate.cache:
      folder = runtime.cache_folder() / 'references'
    found: list[Statistics] = []
    for part, clips in (('reference', chosen.real), ('floor', chosen.other)):
      if clips is None:
        found.append({})
        continue
      first = self._plan.known
      found.append(
        self.statistics(
          without(clips, first),
          clips.chosen[:, 0],
          clips.signature(),
          folder=folder / self._plan.name,
          part=f'{part} {name}'.strip(),
          size=size,
          scores=min(samples.count, len(clips)),
        )
      )
    return found[0], found[1]

  def statistics(
    self,
    read,
    videos: Int[np.ndarray, ' c'],
    identity: str,
    *,
    folder: pathlib.Path,
    part: str,
    size: tuple[int, int],
    scores: int = 0,
  ) -> Statistics:
    """Of some clips, out of a folder or computed and kept there.

    Args:
      read: the clips by their numbers.
      videos: of each clip the video that it is of, by its number.
      identity: what tells them from others.
      folder: where statistics are kept.
      part: what they are called.
      size: frames and side of the clips.
      scores: rows that are kept for Inception scores; 0 for all samples.

    Returns:
      By feature; processes other than the first may have none.
    """
    wanted, files, count = {}, {}, len(videos)
    for m in self._plan.protocol.measures:
      if part.startswith('floor') and m.statistic != 'frechet':
        continue
      few = count
      if part == 'samples':
        few = min(count, self._plan.protocol.wanted(m))
      keep = moments.KEEP
      if m.statistic == 'inception_score':
        keep = scores or few
      old = wanted.get(m.feature, Wanted(0, 0))
      wanted[m.feature] = Wanted(max(few, old.samples), max(keep, old.keep))
    for f, w in wanted.items():
      about = self._provenance(f, w, identity, part, size)
      text = json.dumps(dataclasses.asdict(about), sort_keys=True)
      digest = hashlib.sha256(text.encode()).hexdigest()[:16]
      files[f] = folder / f'{f.network}_{f.output}_{digest}.npz', about
    found = {f: self._kept(*files[f]) for f in wanted}
    missing = _agreed([f for f in wanted if found[f] is None], list(wanted))
    if missing:
      new = self._collect(read, {f: wanted[f] for f in missing}, part)
      for f, stream in new.items():
        found[f] = Reference.of(stream, files[f][1])
        if jax.process_index() == 0:
          with self._seconds.on('accumulating'):
            reference.save(files[f][0], found[f])
    return {
      f: dataclasses.replace(r, video_of=videos[: wanted[f].samples])
      for f, r in found.items()
      if r is not None
    }

  def _kept(self, file: pathlib.Path, about: Provenance) -> Reference | None:
    if jax.process_index() or not file.is_file():
      return None
    with self._seconds.on('accumulating'):
      try:
        return reference.load(file, about)
      except DataError as error:
        runtime.warn(f'{error}; they are computed again')
        return None

  def _collect(self, read, wanted: dict[Feature, Wanted], part: str):
    keys = dict.fromkeys((f.network, f.settings) for f in wanted)
    for name, settings in keys:
      if (name, settings) not in self._extractors:
        self._extractors[name, settings] = features.Extractor(
          name,
          self._plan.weights[name].params,
          self._mesh,
          self._config.evaluate.batch_size,
          **dict(settings),
        )
    return scoring.collect(
      read,
      wanted,
      {k: self._extractors[k] for k in keys},
      seed=self._plan.protocol.seed,
      seconds=self._seconds,
      name=f'features of the {part}',
      quiet=jax.process_index() > 0,
    )

  def _provenance(self, f: Feature, w: Wanted, identity, part, size):
    entry, data = features.network(f.network), self._plan.protocol.data
    how = {
      'settings': entry.settings | dict(f.settings),
      'view': f.view,
      'frames': f.frames,
      'resize': data.resize,
      'known': self._plan.known,
    }
    return Provenance(
      data=hashlib.sha256(identity.encode()).hexdigest(),
      split=part,
      protocol=self._plan.name,
      preprocessing=json.dumps(how, sort_keys=True),
      network=f.network,
      sha256=self._plan.weights[f.network].about['file_sha256'],
      feature=f.output,
      counts={
        'samples': w.samples,
        'kept': w.keep,
        'frames': size[0],
        'side': size[1],
      },
    )


def _agreed(missing: list[Feature], everything: list[Feature]) -> list[Feature]:
  """What the first process has not, for all of them."""
  flags = np.array([f in missing for f in everything], np.int32)
  flags = sample.from_first(flags)
  return [f for f, flag in zip(everything, flags, strict=True) if flag]


def _numbers(config, plan: Plan, samples: Samples, sets, made, real):
  """Every number by its name, the judge's among them."""
  c, protocol = config.evaluate, plan.protocol
  extras = Extras(draws=c.draws, extrapolate=c.extras, seed=protocol.seed)
  numbers = {}
  for m in protocol.measures:
    for asked in protocol.references:
      several = len(protocol.references) > 1
      if m.statistic == 'frechet':
        ours, floors = (s.get(m.feature) for s in real[asked.name])
        found = scoring.distance(
          made[m.feature],
          ours,
          divisor=m.divisor,
          fixed=sets[asked.name].fixed,
          extras=extras,
        )
        if c.floor:
          found['floor'] = scoring.floor(ours, floors, divisor=m.divisor)
        name = f'{m.name}_{asked.name}' if several and asked.name else m.name
      elif asked is protocol.references[0]:
        found = _score(plan, m, samples, made, real[asked.name][0], extras)
        name = m.name
      else:
        continue
      found |= {'measure': m.name, 'reference': asked.name}
      endings = _departures(plan, m, asked, samples, sets)
      found['deviations'] = list(endings.values())
      numbers[scoring.renamed(name, list(endings))] = found
  if protocol.judge:
    numbers |= _judged(plan, samples, sets)
  return numbers


def _score(plan: Plan, m: Measure, samples: Samples, made, real, extras):
  """An Inception score, and beside it that of real clips."""
  rows = made[m.feature].rows[: min(samples.count, plan.protocol.wanted(m))]
  classes = None
  if m.weighted and samples.classes is not None:
    classes = samples.classes[: len(rows)]
  found = scoring.score(rows, m, classes=classes, extras=extras)
  others = real[m.feature].rows[: len(rows)]
  if len(others) >= m.splits:
    plain = scoring.score(others, m, extras=Extras(draws=0))
    found['real'] = {'value': plain['value'], 'n': plain['n']}
  return found


def _departures(
  plan: Plan, m: Measure | None, asked: Asked | None, samples: Samples, sets
) -> dict[str, str]:
  """How a number departs from the protocol: endings of its name, sentences."""
  found = {}
  wanted = plan.protocol.wanted(m) if m else plan.protocol.samples
  count = min(samples.count, wanted)
  if count < wanted:
    found[f'{count}_of_{wanted}_samples'] = (
      f'{count} samples, of {wanted} of the protocol'
    )
  if m and asked and m.statistic == 'frechet':
    there = len(sets[asked.name].real)
    if there < asked.clips:
      found[f'against_{there}_of_{asked.clips}'] = (
        f'{there} real clips, of {asked.clips} of the protocol'
      )
  if m and m.weighted and samples.classes is None:
    found['unweighted'] = (
      'videos count alike, not classes: of which class each should be is not '
      'known'
    )
  if plan.protocol.known and not plan.known:
    found['known_scored'] = (
      f'the {plan.protocol.known} frames that are known are scored, too'
    )
  if m and m.feature.view == 'frames' and plan.frame_count >= 0:
    number = plan.frame_count or 'all'
    found[f'{number}_frames'] = f'{number} frames of each video are taken'
  return found | dict(samples.deviations)


def _judged(plan: Plan, samples: Samples, sets) -> dict[str, Any]:
  """What the judge says of samples and of real clips."""

  def judge(read, count, **told):
    videos = read(np.arange(count))
    return shapes.scores(videos, stride=float(samples.stride), **told)

  found = judge(
    samples.read,
    samples.count,
    labels=samples.labels,
    captions=samples.captions or None,
  )
  real = next(iter(sets.values())).real
  clips = min(samples.count, len(real))
  best = judge(real.read, clips)
  departures = _departures(plan, None, None, samples, sets)
  result = {}
  for name, value in found.items():
    about = {'value': value, 'n': [samples.count], 'measure': 'judge'}
    about |= {'reference': '', 'notes': []}
    about['deviations'] = list(departures.values())
    if name in best:
      about['real'] = {'value': best[name], 'n': [clips]}
    if name not in ('valid', 'trajectory_error'):
      about['interval'] = _wilson(value, samples.count)
    result[scoring.renamed(f'judge_{name}', list(departures))] = about
  return result


def _wilson(p: float, n: int) -> dict[str, Any]:
  """Wilson's interval of 95 % for a share p of n."""
  z = 1.96
  centre = (p + z * z / (2 * n)) / (1 + z * z / n)
  half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
  low, high = float(centre - half), float(centre + half)
  return {'low': low, 'high': high, 'level': 0.95, 'method': 'Wilson'}


def _report(plan: Plan, samples: Samples, numbers, sets, seconds, begin):
  """What the file holds."""
  own = sum(
    seconds.get(k, 0) for k in ('reading', 'accumulating', 'statistics')
  )
  networks = seconds.get('networks', 0.0)
  endings: dict[str, None] = {}
  for found in numbers.values():
    endings |= dict.fromkeys(found['deviations'])
  notes = list(samples.notes)
  for name, chosen in sets.items():
    if chosen.problems:
      notes.append(
        f'{chosen.problems} entries of the data cannot be used'
        + (f' ({name})' if name else '')
      )
  used = {m.feature for m in plan.protocol.measures}
  return {
    'protocol': plan.name,
    'title': plan.protocol.title,
    'numbers': numbers,
    'deviations': list(endings),
    'notes': notes,
    'samples': {
      'count': samples.count,
      'frames': samples.frames,
      'scored_from': plan.known,
      'size': samples.size,
      'stride': samples.stride,
      **samples.about,
    },
    'references': {
      name or 'real': {
        'clips': len(chosen.real),
        **json.loads(chosen.real.signature()),
      }
      for name, chosen in sets.items()
    },
    'networks': {
      f.network: plan.weights[f.network].about
      | {
        'settings': features.network(f.network).settings | dict(f.settings),
        'licence': features.network(f.network).licence,
      }
      for f in used
    },
    'whence': dict(plan.protocol.whence),
    'seconds': {k: round(v, 3) for k, v in seconds.items()}
    | {
      'total': round(time.monotonic() - begin, 3),
      'overhead': round(own / networks, 4) if networks else None,
    },
    'versions': runtime.versions(),
  }


def write(folder: pathlib.Path, report: Mapping[str, Any]) -> pathlib.Path:
  """Writes a report; returns its path."""
  path = folder / FILE
  writing.write_json(path, report)
  return path


def line(name: str, found: Mapping[str, Any]) -> dict[str, str]:
  """A number as a line of a table."""
  value, n = found['value'], found['n']
  interval, beside = found.get('interval'), found.get('floor')
  between = '–'
  if interval:
    between = f'{_text(interval["low"])} … {_text(interval["high"])}'
  real = found.get('real') or beside or {}
  return {
    'number': name,
    'value': _text(value),
    '95 %': between,
    'n': ' / '.join(map(str, n)),
    'real clips': _text(real['value']) if real else '–',
  }


def _text(value: float) -> str:
  return f'{value:.4g}' if abs(value) < 1000 else f'{value:.1f}'


def show(config, workdir: pathlib.Path, report, path: pathlib.Path):
  """Prints the numbers as a table, and adds them to the page."""
  lines = [line(*item) for item in report['numbers'].items()]
  names = list(lines[0])
  table = [names, *([row[k] for k in names] for row in lines)]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  runtime.say(f'{report["protocol"]}: {report["title"]}')
  for row in table:
    cells = (cell.ljust(w) for cell, w in zip(row, widths, strict=True))
    runtime.say(f'  {"  ".join(cells)}'.rstrip())
  for text in (*report['deviations'], *report['notes']):
    runtime.say(f'note: {text}')
  scores = []
  for file in sorted((workdir / 'evaluations').glob(f'*/{FILE}')):
    old = json.loads(file.read_text())
    scores += [
      {'protocol': old['protocol']} | line(*item)
      for item in old['numbers'].items()
    ]
  page = gallery.rebuild(workdir, facts=sample.facts(config), scores=scores)
  runtime.say(f'{path}; open {page}')
