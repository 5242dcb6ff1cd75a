"""A plan as lines of text."""

import math
from typing import Any

from vdm_jax.planning.targets import GIB, Target

# Where a kernel belongs, by the first of these in its place in the program.
_PARTS = (
  ('random numbers', ('threefry', 'random', 'erf_inv', 'shuffle')),
  ('spatial attention', ('/spatial/',)),
  ('text attention', ('/cross/',)),
  ('temporal attention', ('/temporal/',)),
  ('norms', ('/norm_0/', '/norm_1/', '/norm_out/')),
  ('resampling', ('_resample/',)),
  ('convolutions', ('conv_', 'conv_general_dilated', '/shortcut/')),
  ('conditioning', ('/emb/', '/label/', '/text', '/tokens', '/stride/')),
  ('other parts of the network', ('UNet',)),
  ('optimizer', ('train_step',)),
)


def by_part(spent: dict[str, float]) -> dict[str, float]:
  """What is spent at places in the program, by kinds of work, most first."""
  table = {}
  for source, count in spent.items():
    part = next(
      (p for p, marks in _PARTS if any(m in source for m in marks)),
      'copies and the rest',
    )
    table[part] = table.get(part, 0.0) + count
  return dict(sorted(table.items(), key=lambda row: -row[1]))


def gib(count: float | None) -> str:
  """Bytes as '12.34 GiB', small ones as '1.2 MiB'."""
  if count is None:
    return 'more than there is'
  if count < GIB / 10:
    return f'{count / 2**20:.1f} MiB'
  return f'{count / GIB:.2f} GiB'


def program(facts, target: Target, *, useful: float, images: int) -> list[str]:
  """What there is to say of one compiled program.

  Args:
    facts: of `programs.compile_case`.
    target: what it is compiled for.
    useful: FLOPs a device that the method takes, however it is programmed.
    images: packed behind each video of it.
  """
  behind = f' with {images} images' if images else ''
  head = (
    f'{facts["program"]}, {facts["batch"]} video(s){behind} a chip'
    f'{_parts(facts)}, remat {facts["remat"]}, fsdp {facts["fsdp"]}:'
  )
  if not facts['fits']:
    return [head, f'  does not fit: it needs {gib(facts["needed"])}']
  m = facts['memory']
  has = f' of {gib(target.memory)}' if target.memory else ''
  lines = [
    head,
    f'  memory a chip     {gib(m["total"])}{has}: arguments '
    f'{gib(m["arguments"])}, temporaries {gib(m["temporaries"])}, outputs '
    f'{gib(m["outputs"])} ({gib(m["aliased"])} in place of arguments), code '
    f'{gib(m["code"])}',
    f'  FLOPs a chip      {facts["bound"]["flops"] / 1e12:.4g} T compiled, '
    f'{facts["counted"] / 1e12:.4g} T in the program, {useful / 1e12:.4g} T of '
    'the method (multiplications, without padding)',
  ]
  lines += _times(facts, target, useful)
  lines += _exchanges(facts, target)
  return lines


def _parts(facts) -> str:
  return f' × {facts["accumulate"]}' if facts['accumulate'] > 1 else ''


def _times(facts, target, useful) -> list[str]:
  bound = facts['bound']
  if not target.flops:
    return []
  lines = []
  for name, meaning in (
    ('serial', 'each kernel at its limit, one after the other'),
    ('overlapped', 'arithmetic and memory never waiting for each other'),
  ):
    share = useful / (bound[name] * target.flops) if bound[name] else 0.0
    lines.append(
      f'  time at least     {bound[name] * 1e3:.1f} ms ({share:.0%} of '
      f'{target.flops / 1e12:.0f} TFLOP/s): {meaning}'
    )
  total = sum(facts['parts'].values()) or 1.0
  spent = [f'{k} {v / total:.0%}' for k, v in facts['parts'].items()]
  lines.append(f'  of which          {", ".join(spent[:8])}')
  return lines


def _exchanges(facts, target) -> list[str]:
  lines = []
  for kind, row in facts['collectives'].items():
    late = ''
    if row['overlapped']:
      late = f', {gib(row["overlapped"])} of it beside other work'
    lines.append(
      f'  {kind:<18}{row["count"]:.0f} times, {gib(row["bytes"])}{late}; sends '
      f'{gib(row["sent"])} a chip'
    )
  sent = sum(row['sent'] for row in facts['collectives'].values())
  if sent and target.links:
    lines.append(
      f'  exchanges take    {sent / target.links * 1e3:.1f} ms at least, at '
      f'{target.links / 1e9:.0f} GB/s of links'
    )
  for row in facts['exchanges'][:3] if sent else ():
    if row['bytes'] > GIB:
      lines.append(
        f'  mind this one     {row["kind"]} of {gib(row["bytes"])} over '
        f'{row["group"]} chips, {row["source"] or "of the partitioner"}'
      )
  return lines or ['  no exchanges between chips']


def table(rows: list[dict[str, Any]], target: Target) -> list[str]:
  """The largest batches: a row per policy, a column per size of fsdp.

  A number that a compilation has shown stands as it is; '≈' is in front of
  what the memory model says of it, '?' where the time was over before.
  """
  sizes = sorted({row['fsdp'] for row in rows})
  lines = [
    f'the largest batch a chip in {gib(target.memory)}:',
    '  ' + f'{"remat":<12}' + ''.join(f'{f"fsdp {s}":>12}' for s in sizes),
  ]
  for remat in dict.fromkeys(row['remat'] for row in rows):
    cells = {r['fsdp']: _cell(r) for r in rows if r['remat'] == remat}
    lines.append(
      '  ' + f'{remat:<12}' + ''.join(f'{cells[s]:>12}' for s in sizes)
    )
  return lines


def _cell(row) -> str:
  if row['batch'] is None:
    return '?'
  mark = '' if row['shown'] else '≈ '
  return f'{mark}{row["batch"]}' if row['batch'] else f'{mark}none'


def rounded(value: float, digits: int = 4) -> float:
  """With so many significant digits."""
  if not value or not math.isfinite(value):
    return value
  return round(value, digits - 1 - math.floor(math.log10(abs(value))))
