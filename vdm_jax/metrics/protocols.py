"""Protocols of evaluation, by name: everything that a number depends on.

A protocol says which real clips there are and how they are cut, how many
samples are compared with them, which frames count, and by which network and
statistic. `Protocol.whence` says of each choice where it is from:

  Ho22, Ge23     the papers say so
  another name   the program or paper that they follow
  ours           nobody says; the reason is given

The numbers of two protocols cannot be compared, and a number that departs from
its protocol has another name (`scoring.renamed`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vdm_jax.errors import ConfigError

VIEWS = ('video', 'average', 'first', 'frames')
STATISTICS = ('frechet', 'inception_score')
CONDITIONS = ('none', 'any', 'class_prompts', 'captions')


@dataclasses.dataclass(frozen=True)
class Feature:
  """One vector for each sample.

  Attributes:
    network: of `features.NETWORKS`.
    output: which of its outputs.
    view: 'video', of a network of videos; of one of images 'average' of the
      output over frames, the 'first' frame, or 'frames', each a sample.
    settings: of the network where they are not its own, (name, value).
    frames: of view 'frames': how many of a video, drawn at random; 0 for all.
  """

  network: str
  output: str
  view: str = 'video'
  settings: tuple[tuple[str, Any], ...] = ()
  frames: int = 0


@dataclasses.dataclass(frozen=True)
class Measure:
  """A number, or with several references a number for each.

  Attributes:
    name: of the number.
    statistic: 'frechet' or 'inception_score'.
    feature: what it is made of.
    samples: the first so many; 0 for all of the protocol.
    divisor: of covariances, 'n-1' or 'n'.
    splits, repeats, shuffle, eps: of `inception_score`.
    weighted: every class counts alike, however many prompts it has.
  """

  name: str
  statistic: str
  feature: Feature
  samples: int = 0
  divisor: str = 'n-1'
  splits: int = 1
  repeats: int = 1
  shuffle: int | None = None
  eps: float = 0.0
  weighted: bool = False


@dataclasses.dataclass(frozen=True)
class Data:
  """Real clips.

  Attributes:
    source: 'ucf101' (TFDS), 'ucf101_files', 'bair', 'kinetics600', 'folder' or
      'shapes'.
    size: height and width, pixels; 0 for that of the samples.
    resize: 'crop' or 'squash', of whatever is larger.
    stride: every stride-th frame; 0 for that of the samples.
    lead: clips are the first frames of the first so many; 0: they begin
      anywhere, at random.
    frames: of a clip; 0 for those of the samples.
  """

  source: str
  size: int
  resize: str = 'crop'
  stride: int = 1
  lead: int = 0
  frames: int = 0


@dataclasses.dataclass(frozen=True)
class Reference:
  """A set of real clips to compare with.

  Attributes:
    name: '' if there is no other.
    split: of the data.
    clips: how many, of different videos as far as there are.
    per_video: clips of a video.
  """

  name: str
  split: str
  clips: int
  per_video: int = 1


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What a number depends on, apart from the videos.

  Attributes:
    title: in words.
    data: the real clips.
    references: the sets of them.
    measures: the numbers.
    samples: generated videos.
    frames: of each, known ones included; 0 for what the model makes.
    known: its first frames, which are a real clip's; they are not scored
      (unless asked for). Sample i has those of clip i modulo their number.
    conditions: what the model is told: 'none', 'any', the 'class_prompts' of
      UCF-101 in turn, or the 'captions' of the data.
    judge: whether the judge of moving shapes is asked, too.
    seed: of the choice of real clips and where they begin, and of the choice
      and order of videos in a folder.
    whence: where each choice is from.
  """

  title: str
  data: Data
  references: tuple[Reference, ...]
  measures: tuple[Measure, ...]
  samples: int
  frames: int
  known: int = 0
  conditions: str = 'none'
  judge: bool = False
  seed: int = 0
  whence: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def wanted(self, measure: Measure) -> int:
    """Samples that a measure is made of."""
    return measure.samples or self.samples


# What `whence` speaks of, besides every measure.
CHOICES = (
  'data',
  'size and resize',
  'clips',
  'reference',
  'samples',
  'frames',
  'conditions',
  'seed',
)
_SEED = (
  'ours: 0, of clips and of videos in a folder; unlike most programs, they '
  'depend on nothing else'
)

# DeepMind's network as published, on frames resized as TensorFlow 1 does.
_I3D = Feature('i3d', 'logits', settings=(('bn_eps', 1e-3), ('resize', 'tf1')))
# The same weights in PyTorch, where the norms' ε was forgotten.
_I3D_TATS = Feature(
  'i3d', 'logits', settings=(('bn_eps', 1e-5), ('resize', 'half_pixel'))
)
_C3D, _C3D_IS = Feature('c3d', 'fc7'), Feature('c3d', 'logits')
_TF = (('resize', 'tensorflow'),)


def _fvd(feature: Feature = _I3D, **options) -> Measure:
  return Measure('fvd', 'frechet', feature, **options)


def _fid(name: str, view: str, **options) -> Measure:
  feature = Feature('inception', 'pool3', view, _TF, **options)
  return Measure(name, 'frechet', feature)


def _is(name: str, view: str, splits: int) -> Measure:
  feature = Feature('inception', 'logits_unbiased', view, _TF)
  # Captions may be sorted: every split is of samples from all over.
  shuffle = 0 if splits > 1 else None
  return Measure(
    name, 'inception_score', feature, splits=splits, shuffle=shuffle
  )


def _is_c3d(**options) -> Measure:
  return Measure('is_c3d', 'inception_score', _C3D_IS, eps=1e-20, **options)


_TGAN2 = 'Ho22 footnote 2: tgan2, C3D'
_FVD = 'Unterthiner 2018: TF-Hub I3D logits, ε = 1e-3, TF1 resize, n − 1'

UCF101_VDM = Protocol(
  title='Ho22 Table 1: unconditional UCF-101, FID and IS by C3D',
  data=Data('ucf101', 64, resize='squash'),
  references=(Reference('', 'train+test', 13_320),),
  measures=(Measure('fid_c3d', 'frechet', _C3D), _is_c3d()),
  samples=10_000,
  frames=16,
  whence={
    'data': 'Ho22: TFDS without further processing, all 13,320 videos',
    'size and resize': 'Ho22: 64; TFDS squashes to a square',
    'clips': 'ours: one a video, anywhere in it (tgan2: ten)',
    'reference': 'ours: what was trained on; the paper does not say',
    'samples': 'Ho22: 10,000',
    'frames': 'Ho22: 16',
    'conditions': 'Ho22: none',
    'seed': _SEED,
    'fid_c3d': f'{_TGAN2}, fc7 after ReLU; n − 1 as its np.cov',
    'is_c3d': f'{_TGAN2}, softmax of fc8, ε = 1e-20; one split: ours',
  },
)

UCF101_PYOCO = Protocol(
  title='Ge23 Tables 4 and 5: unconditional UCF-101, IS and FVD',
  data=Data('ucf101_files', 64, resize='crop'),
  references=(Reference('', 'train', 2048),),
  measures=(
    _is_c3d(),
    _fvd(_I3D_TATS, samples=2048),
    dataclasses.replace(_fid('fid_frames', 'frames'), samples=2048),
  ),
  samples=10_000,
  frames=16,
  whence={
    'data': 'TATS: the training videos of split 1',
    'size and resize': 'Ge23: 64; TATS: the square in the middle',
    'clips': 'TATS: one a video, anywhere in it',
    'reference': 'TATS: 2,048 clips',
    'samples': 'Ho22: 10,000 for IS; TATS: 2,048 for FVD; Ge23 names both',
    'frames': 'Ge23: 16',
    'conditions': 'Ge23: none',
    'seed': _SEED,
    'is_c3d': 'Ge23: C3D; the rest as of ucf101_vdm',
    'fvd': 'TATS (the same first author): PyTorch I3D, ε = 1e-5, half pixels',
    'fid_frames': "ours: Ge23's 'averaged frame FID', taken as of all frames",
  },
)

UCF101_ZEROSHOT = Protocol(
  title='Ge23 Table 2: zero-shot text to video on UCF-101',
  data=Data('ucf101_files', 256, resize='crop', stride=5),
  references=(Reference('', 'train', 2048),),
  measures=(
    _is_c3d(samples=20 * 101, weighted=True),
    _fvd(_I3D_TATS, samples=2048),
  ),
  samples=2048,
  frames=16,
  conditions='class_prompts',
  whence={
    'data': 'TATS: the training videos of split 1',
    'size and resize': 'Ge23: 256, of its cascade; TATS: the square',
    'clips': 'ours: stride 5, that of the samples; one a video',
    'reference': 'TATS: 2,048 clips',
    'samples': 'Ge23: 20 a prompt for IS, 2,048 for FVD (here: 28 more)',
    'frames': 'Ge23: 16 at frameskip 5',
    'conditions': 'Ge23: prompts for classes; the list is a reprint',
    'seed': _SEED,
    'is_c3d': 'Ge23: C3D; ours: classes count alike',
    'fvd': 'TATS: PyTorch I3D, ε = 1e-5, half pixels',
  },
)

BAIR_1_15 = Protocol(
  title='Ho22 Table 2: BAIR, 15 frames predicted from 1',
  data=Data('bair', 64, resize='squash', lead=30),
  references=(Reference('', 'test', 256),),
  measures=(_fvd(),),
  samples=100 * 256,
  frames=16,
  known=1,
  whence={
    'data': 'Ho22: the 256 examples of the evaluation set',
    'size and resize': 'Ho22: 64, as stored',
    'clips': 'FitVid: the first 16 of the 30 frames',
    'reference': 'Ho22: the 256 examples',
    'samples': 'Ho22: 100 × 256',
    'frames': 'Ho22: 1 + 15; FitVid: the 15 predicted are scored',
    'conditions': 'Ho22: the known frame',
    'seed': _SEED,
    'fvd': _FVD,
  },
)

KINETICS600_5_11 = Protocol(
  title='Ho22 Table 3: Kinetics-600, 11 frames predicted from 5',
  data=Data('kinetics600', 64),
  references=(Reference('', 'test', 50_000),),
  measures=(_fvd(), Measure('is_i3d', 'inception_score', _I3D)),
  samples=50_000,
  frames=16,
  known=5,
  whence={
    'data': 'Ho22: 50,000 videos of the test set, without replacement',
    'size and resize': 'Ho22: 64; ours: the square in the middle',
    'clips': 'Ho22: anywhere, the same for conditions and reference',
    'reference': 'Ho22: the clips that are continued',
    'samples': 'Ho22: 50,000',
    'frames': 'Ho22: 5 + 11; FitVid: the 11 predicted are scored',
    'conditions': 'Ho22: the known frames',
    'seed': _SEED,
    'fvd': _FVD,
    'is_i3d': 'Ho22: I3D; ours: its 400 classes, one split',
  },
)

MSRVTT = Protocol(
  title='Ge23 Table 3: zero-shot text to video on MSR-VTT',
  data=Data('folder', 256, resize='crop', frames=1),
  references=(Reference('', 'test', 59_794, per_video=20),),
  measures=(
    Measure(
      'clip_fid', 'frechet', Feature('clip', 'embedding', 'frames', frames=1)
    ),
    _fid('fid', 'frames', frames=1),
  ),
  samples=59_794,
  frames=0,
  conditions='captions',
  whence={
    'data': 'Ge23: the 2,990 videos of the test set',
    'size and resize': 'Ge23: 256; ours: the square in the middle',
    'clips': 'ours: single frames, anywhere',
    'reference': 'ours: one frame for each caption, 20 a video',
    'samples': 'Ge23: one for each of the 59,794 captions',
    'frames': 'ours: one frame of each video, at random',
    'conditions': 'Ge23: the captions',
    'seed': _SEED,
    'clip_fid': 'Kynkäänniemi 2023, clean-fid: embedding, not normalised',
    'fid': 'Ge23: Inception v3; ours: the resize of its own graph',
  },
)

TEXT_VDM = Protocol(
  title='Ho22 Tables 4 to 6: text to video, against training and validation',
  data=Data('folder', 64, resize='crop', stride=0),
  references=(
    Reference('train', 'train', 4096),
    Reference('validation', 'validation', 4096),
  ),
  measures=(
    _fvd(),
    _fid('fid_avg', 'average'),
    _fid('fid_first', 'first'),
    _is('is_avg', 'average', 1),
    _is('is_avg_splits', 'average', 10),
    _is('is_first', 'first', 1),
    _is('is_first_splits', 'first', 10),
  ),
  samples=4096,
  frames=16,
  conditions='captions',
  whence={
    'data': 'ours: any; the 10 million videos of the paper are not public',
    'size and resize': 'Ho22: 64; ours: the square in the middle',
    'clips': "ours: the model's stride, one a video, anywhere",
    'reference': 'Ho22: training and validation set; ours: 4,096 clips of each',
    'samples': 'Ho22: 4,096',
    'frames': 'Ho22: 16',
    'conditions': 'ours: captions of the validation set',
    'seed': _SEED,
    'fvd': _FVD,
    'fid_avg': 'Ho22: activations averaged over frames; ours: of pool3',
    'fid_first': 'Ho22: first frames',
    'is_avg': 'Ho22: as fid_avg, 1 split; ours: the average is of logits',
    'is_avg_splits': 'Ho22: the same, mean of 10 splits; ours: random ones',
    'is_first': 'Ho22: first frames, 1 split',
    'is_first_splits': 'Ho22: the same, mean of 10 splits; ours: random ones',
  },
)

SHAPES = Protocol(
  title='Moving shapes: the judge, and a Fréchet distance of our own',
  data=Data('shapes', 0, stride=0),
  references=(Reference('', 'seed 1', 2048),),
  measures=(Measure('shapes_fd', 'frechet', Feature('shapes', 'features')),),
  samples=512,
  frames=0,
  conditions='any',
  judge=True,
  whence={
    'data': 'ours: clips of a seed that is not trained on',
    'size and resize': "ours: the samples'",
    'clips': "ours: the samples' stride",
    'reference': 'ours: 2,048 clips, 32 times as many as features',
    'samples': 'ours: 512, 8 times as many as features',
    'frames': 'ours: all',
    'conditions': 'ours: whatever the model is told',
    'seed': _SEED,
    'shapes_fd': 'ours: the network of --mode=features',
  },
)

PROTOCOLS: Mapping[str, Protocol] = {
  'ucf101_vdm': UCF101_VDM,
  'ucf101_pyoco': UCF101_PYOCO,
  'ucf101_zeroshot': UCF101_ZEROSHOT,
  'bair_1_15': BAIR_1_15,
  'kinetics600_5_11': KINETICS600_5_11,
  'msrvtt': MSRVTT,
  'text_vdm': TEXT_VDM,
  'shapes': SHAPES,
}


def protocol(name: str, measures: tuple[str, ...] = ()) -> Protocol:
  """A protocol, or some of its numbers.

  Args:
    name: of PROTOCOLS.
    measures: names of its measures, and 'judge'; all if empty.

  Raises:
    ConfigError: there is no such protocol or measure.
  """
  if name not in PROTOCOLS:
    known = ', '.join(PROTOCOLS)
    raise ConfigError(
      f'config.evaluate.protocol is {name!r}; it must be one of {known}'
    )
  whole = PROTOCOLS[name]
  legal = [m.name for m in whole.measures] + ['judge'] * whole.judge
  unknown = [m for m in measures if m not in legal]
  if unknown:
    raise ConfigError(
      f'config.evaluate.measures has {unknown[0]!r}, which {name} does not; '
      f'its measures are {", ".join(legal)}'
    )
  if not measures:
    return whole
  return dataclasses.replace(
    whole,
    measures=tuple(m for m in whole.measures if m.name in measures),
    judge='judge' in measures,
  )
