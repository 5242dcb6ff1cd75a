"""What the papers print in the tables that we make again, exactly as printed.

Ho22 is Video Diffusion Models, Ge23 PYoCo. The rows are those of the papers'
own models; rows that quote other methods are left out. Of two numbers with a
slash between them, FVD and FID are measured against the training and the
validation set, IS over one and over ten splits.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Printed:
  """A table of a paper.

  Attributes:
    paper: 'Ho22' or 'Ge23'.
    table: its name there.
    columns: its headings.
    rows: by name, a text for each column; '' where nothing is printed.
    note: what else there is to say of it.
  """

  paper: str
  table: str
  columns: tuple[str, ...]
  rows: Mapping[str, tuple[str, ...]]
  note: str = ''

  def row(self, name: str | None) -> dict[str, str]:
    """A row by our headings, such as 'Ho22: FVD↓'; dashes if name is None."""
    cells = self.rows[name] if name else ('',) * len(self.columns)
    return {
      f'{self.paper}: {column}': cell or '–'
      for column, cell in zip(self.columns, cells, strict=True)
    }


_TEXT = ('FVD↓', 'FID-avg↓', 'IS-avg↑', 'FID-first↓', 'IS-first↑')


def _cells(text: str) -> tuple[str, ...]:
  """'a | b' as ('a', 'b')."""
  return tuple(cell.strip() for cell in text.split('|'))


PRINTED = {
  'vdm1': Printed(
    'Ho22',
    'Table 1',
    ('FID↓', 'IS↑'),
    {
      'Video Diffusion (ours)': ('295 ± 3', '57 ± 0.62'),
      'real data': ('', '60.2'),
    },
    'Both are of C3D; 10,000 samples of 16×64×64.',
  ),
  'vdm2': Printed(
    'Ho22',
    'Table 2',
    ('FVD↓',),
    {
      'ancestral sampler, 512 steps': ('68.19',),
      'Langevin sampler, 256 steps': ('66.92',),
    },
    '100 samples for each of 256 clips of BAIR, against these clips.',
  ),
  'vdm3': Printed(
    'Ho22',
    'Table 3',
    ('FVD↓', 'IS↑'),
    {
      'ancestral, 256 steps': ('18.6', '15.39'),
      'Langevin, 128 steps': ('16.2 ± 0.34', '15.64'),
    },
    'Both are of I3D; 50,000 clips of Kinetics-600, which are drawn without '
    'replacement: with it, and other clips as a reference, their FVD is 16.9.',
  ),
  'vdm4': Printed(
    'Ho22',
    'Table 4',
    _TEXT,
    {
      name: _cells(row)
      for name, row in {
        '0': '202.28/205.42 | 37.52/37.40 | 7.91/7.58 | 41.14/40.87 '
        '| 9.23/8.74',
        '4': '68.11/70.74 | 18.62/18.42 | 9.02/8.53 | 22.54/22.19 | 10.58/9.91',
        '8': '57.84/60.72 | 15.57/15.44 | 9.32/8.82 | 19.25/18.98 '
        '| 10.81/10.12',
      }.items()
    },
    '4096 samples of the small text-to-video model.',
  ),
  'vdm5': Printed(
    'Ho22',
    'Table 5',
    _TEXT,
    {
      name: _cells(row)
      for name, row in {
        'frameskip 1, 1.0': '41.65/43.70 | 12.49/12.39 | 10.80/10.07 '
        '| 16.42/16.19 | 12.17/11.22',
        'frameskip 1, 2.0': '50.19/48.79 | 10.53/10.47 | 13.22/12.10 '
        '| 13.91/13.75 | 14.81/13.46',
        'frameskip 1, 5.0': '163.74/160.21 | 13.54/13.52 | 14.80/13.46 '
        '| 17.07/16.95 | 16.40/14.75',
        'frameskip 4, 1.0': '56.71/60.30 | 11.03/10.93 | 9.40/8.90 '
        '| 16.21/15.96 | 11.39/10.61',
        'frameskip 4, 2.0': '54.28/51.95 | 9.39/9.36 | 11.53/10.75 '
        '| 14.21/14.04 | 13.81/12.63',
        'frameskip 4, 5.0': '185.89/176.82 | 11.82/11.78 | 13.73/12.59 '
        '| 16.59/16.44 | 16.24/14.62',
      }.items()
    },
    '4096 samples of the large text-to-video model. Their guidance weight is '
    'taken for 1 + w.',
  ),
  'vdm6': Printed(
    'Ho22',
    'Table 6',
    _TEXT,
    {
      name: _cells(row)
      for name, row in {
        '2.0, reconstruction guidance': '136.22/134.55 | 13.77/13.62 '
        '| 10.30/9.66 | 16.34/16.46 | 14.67/13.37',
        '2.0, replacement': '451.45/436.16 | 25.95/25.52 | 7.00/6.75 '
        '| 16.33/16.46 | 14.67/13.34',
        '5.0, reconstruction guidance': '133.92/133.04 | 13.59/13.58 '
        '| 10.31/9.65 | 16.28/16.53 | 15.09/13.72',
        '5.0, replacement': '456.24/441.93 | 26.05/25.69 | 7.04/6.78 '
        '| 16.30/16.54 | 15.11/13.69',
      }.items()
    },
    '4096 samples of 64×64×64 by the large text-to-video model. Which form of '
    'the replacement method is theirs is not said.',
  ),
  'pyoco1': Printed(
    'Ge23',
    'Table 1',
    ('same video', 'different videos'),
    {'Cosine Similarity': ('0.206 ± 0.156', '0.001 ± 0.009')},
    'Of a text-to-image model; their ± is the spread of pairs or of videos, '
    'which is not said.',
  ),
  'pyoco2': Printed(
    'Ge23',
    'Table 2',
    ('IS↑', 'FVD↓'),
    {'PYoCo': ('47.76', '355.19')},
    'Zero-shot on UCF-101: IS of C3D for 20 videos a prompt, FVD of 2048.',
  ),
  'pyoco3': Printed(
    'Ge23',
    'Table 3',
    ('CLIP-FID↓', 'FID↓'),
    {
      'PYoCo (Config-A)': ('10.21', '25.39'),
      'PYoCo (Config-B)': ('9.95', '24.28'),
      'PYoCo (Config-C)': ('9.91', '24.54'),
      'PYoCo (Config-D)': ('9.73', '22.14'),
    },
    'Zero-shot on MSR-VTT: 76×256×256 for each of its 59,794 captions. Which '
    'super-resolution has experts is not said.',
  ),
  'pyoco4': Printed(
    'Ge23',
    'Table 4',
    ('IS↑', 'FVD↓'),
    {
      'PYoCo (112M)': ('57.93 ± .24', '332 ± 13'),
      'PYoCo (253M)': ('60.01 ± .51', '310 ± 13'),
    },
    'Unconditional UCF-101, 16×64×64; IS of C3D.',
  ),
  'pyoco5': Printed(
    'Ge23',
    'Table 5',
    ('IS↑', 'FVD↓', 'FID↓'),
    {
      'Image Diffusion (ID)': ('', '', '30.05'),
      'Training from scratch': ('28.25', '903.37', '124.75'),
      'Finetuning from ID': ('41.25', '566.67', '56.43'),
      '+ Mixed Noise': ('52.71', '337.40', '31.57'),
      '+ Progressive Noise': ('53.52', '339.67', '31.88'),
    },
    'UCF-101, 16×64×64; FID is that of frames, averaged. The size of the '
    'network is not said.',
  ),
  'pyoco_fig7': Printed(
    'Ge23',
    'Fig. 7',
    (),
    {},
    'The figure is drawn without numbers: FVD of the network of 69 M '
    'parameters, means of three trainings; mixed noise is best at α = 1, '
    'progressive noise at α = 2.',
  ),
  'pyoco_fig8': Printed(
    'Ge23',
    'Fig. 8',
    (),
    {},
    'The figure is drawn without numbers: FVD of 69, 112 and 253 M parameters. '
    'The larger the network the lower it is, and both kinds of shared noise '
    'stay far below training from scratch.',
  ),
}
