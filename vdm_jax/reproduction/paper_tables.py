"""What the tables and figures of the papers compare, at the papers' own scale.

The rows are the papers'; what all of them share is in the variant `paper` of
the files in configs/repro.
"""

from vdm_jax.reproduction.tables import (
  ALPHAS,
  FIG7,
  PRINTED_STRATEGIES,
  REAL,
  SCRATCH,
  STRATEGIES,
  TUNED,
  Figure,
  Overrides,
  Table,
  experts,
  sampler,
)

# Which of the sizes of configs/ucf101_pyoco.py has so many parameters.
SIZES: dict[int, Overrides] = {
  69: {
    'model.channels': 128,
    'model.multipliers': (1, 2, 2, 3),
    'model.emb_dim': 512,
  },
  112: {
    'model.channels': 128,
    'model.multipliers': (1, 2, 3, 4),
    'model.emb_dim': 512,
  },
  253: {
    'model.channels': 192,
    'model.multipliers': (1, 2, 3, 4),
    'model.emb_dim': 768,
  },
}
GROWN = {
  f'{name}, {size}M': (name, float(size))
  for name in STRATEGIES
  if name != TUNED
  for size in SIZES
}
STILLS = 'image diffusion'
METHODS = {
  'reconstruction guidance': 'reconstruction',
  'replacement': 'replacement',
}


def _same(*rows: str) -> dict[str, str]:
  """Rows that are called as in the paper."""
  return dict(zip(rows, rows, strict=True))


def _guided(frameskip: int, scale: float) -> Overrides:
  return {'sample.stride': frameskip, 'sample.guidance_scale': scale}


TABLE5 = {
  f'frameskip {stride}, {scale:.1f}': _guided(stride, scale)
  for stride in (1, 4)
  for scale in (1.0, 2.0, 5.0)
}
TABLE6 = {
  f'{scale:.1f}, {name}': {
    'sample.guidance_scale': scale,
    'sample.conditioning': method,
  }
  for scale in (2.0, 5.0)
  for name, method in METHODS.items()
}
CONFIGS = {
  'PYoCo (Config-A)': experts(),
  'PYoCo (Config-B)': experts('sr256'),
  'PYoCo (Config-C)': experts('sr256', 'interpolation'),
  'PYoCo (Config-D)': experts('sr256', 'interpolation', 'base'),
}

PAPER_TABLES = {
  'vdm1': Table(
    'Ho22 Table 1: unconditional video modelling of UCF-101',
    {'Video Diffusion': {}},
    (),
    protocol='ucf101_vdm',
    printed={'Video Diffusion': 'Video Diffusion (ours)', REAL: 'real data'},
  ),
  'vdm2': Table(
    'Ho22 Table 2: prediction on BAIR, 15 frames from 1',
    {
      'ancestral, 512 steps': sampler('ancestral', 512, 'schedule'),
      'predictor-corrector, 256 steps': sampler(
        'predictor_corrector', 256, 'schedule'
      ),
    },
    (),
    protocol='bair_1_15',
    printed={
      'ancestral, 512 steps': 'ancestral sampler, 512 steps',
      'predictor-corrector, 256 steps': 'Langevin sampler, 256 steps',
    },
  ),
  'vdm3': Table(
    'Ho22 Table 3: prediction on Kinetics-600, 11 frames from 5',
    {
      'ancestral, 256 steps': sampler('ancestral', 256, 'schedule'),
      'predictor-corrector, 128 steps': sampler(
        'predictor_corrector', 128, 'schedule'
      ),
    },
    (),
    protocol='kinetics600_5_11',
    printed={
      'ancestral, 256 steps': 'ancestral, 256 steps',
      'predictor-corrector, 128 steps': 'Langevin, 128 steps',
    },
  ),
  'vdm4': Table(
    'Ho22 Table 4: images trained on beside each video',
    {f'{k} images': {'data.images': k} for k in (0, 4, 8)},
    (),
    protocol='text_vdm',
    printed={f'{k} images': f'{k}' for k in (0, 4, 8)},
  ),
  'vdm5': Table(
    'Ho22 Table 5: classifier-free guidance, by its scale 1 + w',
    TABLE5,
    (),
    protocol='text_vdm',
    printed=_same(*TABLE5),
  ),
  'vdm6': Table(
    'Ho22 Table 6: 64 frames by models of 16, by guidance scale and method',
    TABLE6,
    (),
    protocol='text_vdm',
    frames=64,
    printed=_same(*TABLE6),
  ),
  'pyoco1': Table(
    'Ge23 Table 1: how alike the noises of frames are',
    {'noises of frames': {}},
    (),
    kind='noises',
    printed={'noises of frames': 'Cosine Similarity'},
  ),
  'pyoco2': Table(
    'Ge23 Table 2: zero-shot text to video on UCF-101',
    {'PYoCo': {}},
    (),
    scratch=(),
    protocol='ucf101_zeroshot',
    printed=_same('PYoCo'),
  ),
  'pyoco3': Table(
    'Ge23 Table 3: zero-shot text to video on MSR-VTT, by experts',
    CONFIGS,
    (),
    kind='cascade',
    protocol='msrvtt',
    printed=_same(*CONFIGS),
  ),
  'pyoco4': Table(
    'Ge23 Table 4: unconditional UCF-101',
    {f'PYoCo ({m}M)': SIZES[m] for m in (112, 253)},
    (),
    scratch=(),
    protocol='ucf101_pyoco',
    printed=_same('PYoCo (112M)', 'PYoCo (253M)'),
  ),
  'pyoco5': Table(
    'Ge23 Table 5: images first, and correlated noise',
    {STILLS: {'evaluate.measures': ('fid_frames',)}} | STRATEGIES,
    (),
    scratch=(SCRATCH,),
    stills=(STILLS,),
    protocol='ucf101_pyoco',
    printed={STILLS: 'Image Diffusion (ID)'} | PRINTED_STRATEGIES,
  ),
  'pyoco_fig7': Table(
    'Ge23 Fig. 7: how strongly the noise is correlated',
    FIG7,
    ('fvd',),
    scratch=(SCRATCH,),
    protocol='ucf101_pyoco',
    figure=Figure('α', True, ALPHAS),
  ),
  'pyoco_fig8': Table(
    'Ge23 Fig. 8: how large the network is',
    {
      row: STRATEGIES[name] | SIZES[int(size)]
      for row, (name, size) in GROWN.items()
    },
    ('fvd',),
    scratch=tuple(row for row, (name, _) in GROWN.items() if name == SCRATCH),
    protocol='ucf101_pyoco',
    figure=Figure('M parameters', False, GROWN),
  ),
}
