"""What the tables and figures of the papers compare, row by row, in miniature.

Those at the papers' own scale are in `paper_tables`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

Overrides = dict[str, Any]

REAL = 'real clips'


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
    columns: of the judge's scores and others; () for all that there are.
    scratch: the rows whose models begin from nothing, where the others begin
      from a model of images; None where all begin from nothing.
    figure: how it is drawn besides, if it is.
    kind: what a row is: 'videos' of a model, 'cascade' of several, or the
      'noises' that a model of images finds.
    stills: the rows that are a model of images itself.
    protocol: of `metrics.protocols`, at the papers' scale.
    frames: of a video, where they are not those of the protocol.
    printed: by row, what the same row is called in `paper_numbers`.
  """

  title: str
  rows: dict[str, Overrides]
  columns: tuple[str, ...]
  scratch: tuple[str, ...] | None = None
  figure: Figure | None = None
  kind: str = 'videos'
  stills: tuple[str, ...] = ()
  protocol: str = ''
  frames: int = 0
  printed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def prior(kind: str, alpha: float = 0.0) -> Overrides:
  """The noise prior of a row."""
  return {'diffusion.prior': kind, 'diffusion.prior_alpha': alpha}


def sampler(name: str, steps: int, grid: str = 'karras', **more) -> Overrides:
  """How a row is sampled."""
  how = {'sampler': name, 'steps': steps, 'grid': grid} | more
  return {f'sample.{k}': v for k, v in how.items()}


def experts(*stages: str) -> Overrides:
  """The stages of a cascade that two experts sample."""
  return {'reproduce.experts': stages}


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
PRINTED_STRATEGIES = {
  SCRATCH: 'Training from scratch',
  TUNED: 'Finetuning from ID',
  'fine-tuned, mixed': '+ Mixed Noise',
  'fine-tuned, progressive': '+ Progressive Noise',
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
FIG7 = {
  SCRATCH: prior('independent'),
  'independent': prior('independent'),
  **{row: prior(*point) for row, point in ALPHAS.items()},
}

TABLES = {
  'vdm1': Table(
    'Ho22 Table 1 in miniature: videos of nothing',
    {'Video Diffusion': {}},
    VIDEO,
    printed={'Video Diffusion': 'Video Diffusion (ours)', REAL: 'real data'},
  ),
  'vdm2': Table(
    'Ho22 Table 2 in miniature: 5 frames predicted from 1',
    {
      'ancestral, 64 steps': sampler('ancestral', 64, 'schedule'),
      'predictor-corrector, 32 steps': sampler(
        'predictor_corrector', 32, 'schedule'
      ),
    },
    VIDEO,
    printed={
      'ancestral, 64 steps': 'ancestral sampler, 512 steps',
      'predictor-corrector, 32 steps': 'Langevin sampler, 256 steps',
    },
  ),
  'vdm3': Table(
    'Ho22 Table 3 in miniature: 4 frames predicted from 2, of other clips',
    {
      'ancestral, 32 steps': sampler('ancestral', 32, 'schedule'),
      'predictor-corrector, 16 steps': sampler(
        'predictor_corrector', 16, 'schedule'
      ),
    },
    VIDEO,
    printed={
      'ancestral, 32 steps': 'ancestral, 256 steps',
      'predictor-corrector, 16 steps': 'Langevin, 128 steps',
    },
  ),
  'vdm4': Table(
    'Ho22 Table 4 in miniature: images trained on beside each video',
    {
      f'{k} images': {'data.images': k, 'sample.guidance_scale': 1.0}
      for k in (0, 4, 8)
    },
    VIDEO,
    printed={f'{k} images': f'{k}' for k in (0, 4, 8)},
  ),
  'vdm5': Table(
    'Ho22 Table 5 in miniature: classifier-free guidance, by its scale 1 + w',
    {f'scale {s:g}': {'sample.guidance_scale': s} for s in (1.0, 2.0, 5.0)},
    (*CAPTION, 'on_path', 'success'),
    printed={f'scale {s:g}': f'frameskip 1, {s:.1f}' for s in (1.0, 2.0, 5.0)},
  ),
  'vdm6': Table(
    'Ho22 Table 6 in miniature: long videos, by three ways to extend them',
    {
      'reconstruction guidance': {'sample.conditioning': 'reconstruction'},
      'replacement, q(z_s|x, z_t)': {'sample.conditioning': 'replacement'},
      'replacement, q(z_s|x)': {'sample.conditioning': 'replacement_marginal'},
    },
    ('valid', 'identity', 'on_path', 'success', 'seam_error', 'seam_jump'),
    printed={
      'reconstruction guidance': '2.0, reconstruction guidance',
      'replacement, q(z_s|x, z_t)': '2.0, replacement',
      'replacement, q(z_s|x)': '2.0, replacement',
    },
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
  'pyoco1': Table(
    'Ge23 Table 1 in miniature: how alike the noises of frames are',
    {'noises of frames': {}},
    (
      'same_video',
      'same_video_spread',
      'different_videos',
      'different_videos_spread',
    ),
    kind='noises',
    printed={'noises of frames': 'Cosine Similarity'},
  ),
  'pyoco2': Table(
    'Ge23 Table 2 in miniature: videos of prompts',
    {'PYoCo': prior('progressive', 2.0)},
    (*CAPTION, 'on_path', 'success'),
    scratch=(),
    printed={'PYoCo': 'PYoCo'},
  ),
  'pyoco3': Table(
    'Ge23 Table 3 in miniature: experts in the stages of a cascade',
    {
      'Config-A: none': experts(),
      'Config-B: super-resolution': experts('sr'),
      'Config-C: and interpolation': experts('sr', 'interpolation'),
      'Config-D: and base': experts('sr', 'interpolation', 'base'),
    },
    (*VIDEO, 'label'),
    kind='cascade',
    printed={
      'Config-A: none': 'PYoCo (Config-A)',
      'Config-B: super-resolution': 'PYoCo (Config-B)',
      'Config-C: and interpolation': 'PYoCo (Config-C)',
      'Config-D: and base': 'PYoCo (Config-D)',
    },
  ),
  'pyoco4': Table(
    'Ge23 Table 4 in miniature: two sizes, fine-tuned from images',
    {
      'PYoCo, 32 channels': {'model.channels': 32},
      'PYoCo, 48 channels': {'model.channels': 48},
    },
    VIDEO,
    scratch=(),
    printed={
      'PYoCo, 32 channels': 'PYoCo (112M)',
      'PYoCo, 48 channels': 'PYoCo (253M)',
    },
  ),
  'pyoco5': Table(
    'Ge23 Table 5 in miniature: images first, and correlated noise',
    STRATEGIES,
    VIDEO,
    scratch=(SCRATCH,),
    printed=PRINTED_STRATEGIES,
  ),
  'pyoco_fig7': Table(
    'Ge23 Fig. 7 in miniature: how strongly the noise is correlated',
    FIG7,
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
