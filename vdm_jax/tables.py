"""What the tables and figures of the papers compare, row by row."""

import dataclasses
from typing import Any

Overrides = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Figure:
  """How a table is drawn: a line for each series, a level for the rest.

  Attributes:
    label: of the horizontal axis.
    logarithmic: whether that axis is.
    points: by row, its series and its place on the axis; rows that are not
      here are drawn as horizontal lines.
  """

  label: str
  logarithmic: bool
  points: dict[str, tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Table:
  """What a table compares.

  Attributes:
    title: which table of which paper.
    rows: by name, what differs from the config: in training, in sampling.
    columns: scores of the judge, and `seam_error`.
    scratch: the rows whose models begin from nothing, where the others begin
      from a model of images; None where all begin from nothing.
    figure: how it is drawn besides, if it is.
  """

  title: str
  rows: dict[str, Overrides]
  columns: tuple[str, ...]
  scratch: tuple[str, ...] | None = None
  figure: Figure | None = None


def prior(kind: str, alpha: float = 0.0) -> Overrides:
  """The noise prior of a row."""
  return {'diffusion.prior': kind, 'diffusion.prior_alpha': alpha}


def sampler(name: str, steps: int, grid: str = 'karras', **more) -> Overrides:
  """How a row is sampled."""
  how = {'sampler': name, 'steps': steps, 'grid': grid} | more
  return {f'sample.{k}': v for k, v in how.items()}


VIDEO = ('valid', 'identity', 'on_path', 'success', 'trajectory_error')
CAPTION = ('caption_shape', 'caption_colour', 'caption_direction', 'caption')
SCRATCH = 'from scratch'
TUNED = 'fine-tuned'
STRATEGIES = {
  SCRATCH: prior('independent'),
  TUNED: prior('independent'),
  'fine-tuned, mixed': prior('mixed', 1.0),
  'fine-tuned, progressive': prior('progressive', 2.0),
}
# Ge23 Fig. 7 also has α = ∞, one noise for all frames: a singular Σ, with
# which videos are frozen; and α = 0, which is independent noise.
ALPHAS = {
  f'{kind}, α = {alpha:g}': (kind, alpha)
  for kind in ('mixed', 'progressive')
  for alpha in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
}
# In place of 69, 112 and 253 M parameters.
WIDTHS = {
  f'{name}, {width} channels': (name, float(width))
  for name in STRATEGIES
  if name != TUNED
  for width in (16, 32, 48)
}

TABLES = {
  'vdm4': Table(
    'Ho22 Table 4 in miniature: images trained on beside each video',
    {
      f'{k} images': {'data.images': k, 'sample.guidance_scale': 1.0}
      for k in (0, 4, 8)
    },
    VIDEO,
  ),
  'vdm5': Table(
    'Ho22 Table 5 in miniature: classifier-free guidance, by its scale 1 + w',
    {f'scale {s:g}': {'sample.guidance_scale': s} for s in (1.0, 2.0, 5.0)},
    (*CAPTION, 'on_path', 'success'),
  ),
  'vdm6': Table(
    'Ho22 Table 6 in miniature: long videos, by three ways to extend them',
    {
      'reconstruction guidance': {'sample.conditioning': 'reconstruction'},
      'replacement, q(z_s|x, z_t)': {'sample.conditioning': 'replacement'},
      'replacement, q(z_s|x)': {'sample.conditioning': 'replacement_marginal'},
    },
    ('valid', 'identity', 'on_path', 'success', 'seam_error'),
  ),
  'samplers': Table(
    'Samplers, by the number of calls of the network',
    {
      'ancestral, 256': sampler('ancestral', 256, 'schedule'),
      'ancestral, 25': sampler('ancestral', 25, 'schedule'),
      'DDIM, 25': sampler('ddim', 25),
      'Heun, 25': sampler('heun', 13),
      'DPM-Solver++(2M), 25': sampler('dpmpp_2m', 25),
      'DEIS, 25': sampler('deis', 25),
      'DEIS with churn, 25': sampler(
        'deis', 25, deis_order=2, churn=3.0, churn_noise=1.0
      ),
    },
    ('identity', 'on_path', 'success', 'caption', 'trajectory_error'),
  ),
  'pyoco5': Table(
    'Ge23 Table 5 in miniature: images first, and correlated noise',
    STRATEGIES,
    VIDEO,
    scratch=(SCRATCH,),
  ),
  'pyoco_fig7': Table(
    'Ge23 Fig. 7 in miniature: how strongly the noise is correlated',
    {
      SCRATCH: prior('independent'),
      'independent': prior('independent'),
      **{row: prior(*point) for row, point in ALPHAS.items()},
    },
    VIDEO,
    scratch=(SCRATCH,),
    figure=Figure('α', True, ALPHAS),
  ),
  'pyoco_fig8': Table(
    'Ge23 Fig. 8 in miniature: how large the network is',
    {
      row: STRATEGIES[name] | {'model.channels': int(width)}
      for row, (name, width) in WIDTHS.items()
    },
    VIDEO,
    scratch=tuple(row for row, (name, _) in WIDTHS.items() if name == SCRATCH),
    figure=Figure('channels of the first level', False, WIDTHS),
  ),
}
