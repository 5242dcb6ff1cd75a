"""Every setting of the program, with its default, its range and its meaning.

A file in `configs/` starts from `default()` and changes what its experiment
changes. A run stores the resolved settings as JSON in its workdir; sampling
starts from that JSON, so no config file is run again.
"""

import difflib
import importlib.util
import pathlib

import ml_collections

from vdm_jax import config_file, errors


def default() -> ml_collections.ConfigDict:
  """All settings. 'ours' marks a value that neither paper gives."""
  c = ml_collections.ConfigDict()
  c.name = 'vdm'
  c.seed = 0
  c.data = _data()
  c.text = _text()
  c.model = _model()
  c.diffusion = _diffusion()
  c.refine = _refine()
  c.init = _init()
  c.optim = _optim()
  c.train = _train()
  c.mesh = _mesh()
  c.sample = _sample()
  c.analyze = _analyze()
  c.evaluate = _evaluate()
  return c


def _data() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.source = 'shapes'  # one of build.SOURCES
  c.path = ''  # the folder; for ucf101, the TFDS data folder
  c.videos = ''  # ucf101: the official layout, to prepare from
  c.list = ''  # kinetics600: the official CSV list
  c.frames = 16
  c.size = 64  # height and width, pixels
  c.stride = 1  # every stride-th frame of the video (frameskip)
  c.strides = ()  # draw each clip's stride; the model is told which
  c.flip = False  # left-right at random
  c.images = 0  # independent images packed behind each video
  c.image_path = ''  # their folder; '': frames of other videos
  # crop: keep the aspect, cut; squash: do not, as ucf101 and bair demand
  c.resize = 'crop'
  c.short = 'skip'  # clips that are too short: skip, loop or error
  c.classes = False  # folder: sub-folders are classes
  c.repeat = False  # allow fewer different clips than a batch holds
  c.workers = 2  # threads that decode ahead
  # Or processes, if above 0: a decoder that crashes or hangs costs one clip.
  c.processes = 0
  c.timeout = 120.0  # seconds that reading a clip may take; 0: any time
  c.memory = 4.0  # GiB that such a process may take; 0: no limit
  c.bad_share = 0.01  # of the clips drawn that may be unreadable; 0: none
  return c


def _text() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  # none; words: a learned table over the captions' own vocabulary;
  # embeddings: of an encoder, made by --mode=embed
  c.kind = 'none'
  c.captions = ''  # a file or folder of captions; '': the data's own
  c.encoder = ''  # the encoder's Hugging Face folder
  c.cache = ''  # the folder of embeddings
  c.encoder2 = ''  # of a second encoder, whose embeddings are told as well
  c.cache2 = ''
  c.max_length = 64  # tokens, of either encoder; ours
  # Channels of the embeddings of each encoder, for --mode=plan where there are
  # none yet; (): it says what it assumes.
  c.dims = ()
  return c


def _model() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.kind = 'unet'  # or efficient, for super-resolution; one of build.NETWORKS
  c.channels = 128
  c.multipliers = (1, 2, 4, 8)
  c.blocks = 2  # residual blocks per resolution
  c.level_blocks = ()  # efficient: each level's own; (): `blocks`
  c.attention_resolutions = (8, 16, 32)  # sides of maps, as trained: of crops
  c.head_dim = 64
  c.emb_dim = 1024
  c.emb_layers = 4
  c.groups = 32  # of GroupNorm
  c.dropout = 0.0
  c.resample = 'plain'  # plain (VDM) or residual (PYoCo)
  c.image_mode = 'self_attend'  # packed images; or bypass
  c.frame_positions = False  # tell each frame its number; ours
  c.temporal = True  # temporal attention; False: none, as for images
  c.temporal_convolution = False  # after each 3×3 of the residual blocks
  c.cross_attention = False  # to the tokens of the text
  c.labels = False  # condition on the class
  # of the computation; parameters are float32, and so are the last convolution
  # and all that makes the conditioning vectors. In the rest 'float32' is what
  # the device takes for it: TPUs round what they multiply to bfloat16, GPUs
  # perhaps to TF32, unless JAX_DEFAULT_MATMUL_PRECISION is highest.
  c.dtype = 'bfloat16'
  c.remat = 'none'  # recompute activations: none, attention, block
  return c


def _diffusion() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.prediction = 'eps'  # eps, v, x or edm (Karras22)
  c.weight = 'eps'  # weighting of the loss, a name in losses.py
  # of the noise levels, in training and in sampling: cosine (VDM), or
  # lognormal (Karras22, PYoCo)
  c.schedule = 'cosine'
  c.logsnr_min = -20.0  # cosine
  c.logsnr_max = 20.0
  c.shift = 0.0  # of the log-SNR; below 0: more time at high noise
  c.p_mean = -1.2  # lognormal: of ln σ/α
  c.p_std = 1.2
  # lognormal: the part of the probability mass that is trained on, 0 at the
  # least noise; the two experts of level 1 have (0.0, 0.5) and (0.5, 1.0)
  c.interval = (0.0, 1.0)
  c.prior = 'independent'  # of the noise: or mixed, progressive (PYoCo)
  c.prior_alpha = 0.0  # what its frames share; PYoCo: mixed 1, progressive 2
  return c


def _refine() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  # what the network sees of the stage before it: none; interpolate, every
  # factor-th frame; upsample, all frames at 1/factor of the size
  c.kind = 'none'
  c.factor = 4
  c.crop = 0  # train on random crops of so many pixels a side; 0: whole frames
  c.augment = True  # add noise to what is seen, of a random level in training
  # of the noise in sampling, 0 for none to 1; Imagen takes 0.1 to 0.3
  c.augment_level = 0.2
  return c


def _init() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  # a run whose averaged parameters this one starts from, with new layers where
  # this one has more; '': new parameters
  c.workdir = ''
  return c


def _optim() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.learning_rate = 3e-4
  c.warmup = 1000  # steps; ours
  # The last share of the steps, in which the rate falls to 0; ours.
  c.cooldown = 0.0
  c.b1 = 0.9
  c.b2 = 0.99
  c.eps = 1e-8  # ours
  c.weight_decay = 0.0
  c.clip = 1.0  # global gradient norm, 0 for none; ours
  c.ema = 0.9999
  # (pattern of the parameter path, factor of its rate; 0: frozen), first
  # match wins; the rest has 1: (('temporal', 1.0), ('.', 0.1))
  c.rates = ()
  return c


def _train() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.batch_size = 128  # clips a step, over all devices
  c.accumulate = 1  # micro-batches a step
  # Of a packed image in the loss, where a frame of the video counts 1; ours.
  c.image_weight = 1.0
  c.steps = 60_000
  c.log_every = 50
  c.checkpoint_every = 1000
  c.keep = 3  # newest checkpoints kept
  c.strict_resume = False  # end, rather than go back, at a damaged checkpoint
  c.allow_data_change = False  # go on with other data than the run began with
  c.sample_every = 5000  # 0: only at the end
  c.sample_first = 0  # an early look, at this step
  c.sample_count = 16  # clips of the samples made while training
  c.sample_steps = 64
  # Of several processes: seconds without a step after which they end, to be
  # started again; more than the longest step takes. 0: never.
  c.watchdog = 1800.0
  c.tensorboard = False  # needs the extra `tensorboard`
  c.bad_steps = 10  # not finite, one after another, that end the run
  c.drop = ml_collections.ConfigDict()  # how often a condition is left out
  c.drop.label = 0.1
  c.drop.text = 0.1
  c.drop.text2 = 0.1  # of the second encoder's, by itself
  return c


def _mesh() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.data = -1  # −1: what fsdp leaves
  c.fsdp = 1
  c.space = 1  # devices that share one video, each with a slab of its rows
  c.cpu_devices = 0  # split a CPU into so many devices; 0: do not
  c.platform = ''  # cpu, gpu or tpu, and nothing else; '': the best there is
  # of several processes, in seconds:
  c.heartbeat = 100.0  # of silence until one counts as dead
  c.patience = 60.0  # to wait for all of them to come
  return c


def _sample() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.step = 0  # of the checkpoint; 0: the newest
  c.count = 64  # 0: none after training
  c.batch_size = 16
  c.seed = 0
  # one of build.SAMPLERS; heun is for the grid karras, or 256 steps: the first
  # one of the cosine schedule is too long for it
  c.sampler = 'ancestral'
  c.steps = 256
  c.gamma = 0.1  # log-variance interpolation of `ancestral`
  c.delta = 0.1  # step size of `predictor_corrector`
  # S_churn of Karras22, over all steps; 0: none. For heun, dpmpp_2m and deis
  # of order 1 or 2, where s is within churn_min and churn_max
  c.churn = 0.0
  c.churn_min = 0.05
  c.churn_max = 50.0
  c.churn_noise = 1.003
  c.deis_order = 3
  # what `deis` interpolates in: log (ln s), sigma (s) or karras (s^(1/rho))
  c.deis_variable = 'log'
  # the levels: schedule, uniform in its time; karras, uniform in s^(1/rho)
  c.grid = 'schedule'
  c.sigma_min = 0.002  # of karras, in units of s = sigma/alpha
  c.sigma_max = 80.0
  c.rho = 7.0
  # A class for every clip; −1: all classes in turn, or none for a known video.
  c.label = -1
  c.prompt = ''  # a caption for every clip; '' for a known video: none
  # A file of captions, one per line, in turn; or ucf101: one per class of it,
  # those of Ge23.
  c.prompts = ''
  c.guidance_scale = 1.0  # 1 + w of Ho22 eq. 6; 1: unguided
  c.frames = 0  # 0: as many as the model makes at once
  c.stride = 0  # their frame stride, where the model knows several; 0: its own
  c.order = 'extension'  # of longer ones; or interpolation: key frames first
  c.overlap = 8  # frames that a window knows of the one before
  c.key_stride = 4  # interpolation: every such frame is a key frame
  c.video = ''  # a video of your own to condition on
  c.start = 0  # its first frame that is used
  c.known = ''  # frames taken from it: 0:5, 0:16:4, 0,15 or -4:
  c.factor = 1  # above 1: all of it is seen, at 1/factor of the resolution
  # reconstruction, or as baselines replacement, replacement_marginal
  c.conditioning = 'reconstruction'
  # w_r of Ho22 eq. 7: constant, as theirs; pigdm grows with the noise from 1
  # to guidance_weight (ours)
  c.guidance_weight = 9.0
  c.weight_schedule = 'pigdm'
  # workdirs of experts, 'a,b', which denoise the levels they were trained on
  c.experts = ()
  c.frame_rate = 8.0  # of the files written, frames a second
  c.arrays = False  # write raw .npy files too
  return c


def _analyze() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.path = ''  # a folder of videos; '': the data of the run
  c.videos = 16  # at most so many
  c.frames = 16  # of each
  c.stride = 1  # every stride-th frame of the video
  c.steps = 32  # of the solver; doubled until round_trip is met
  c.round_trip = 0.01  # relative RMS that encoding and decoding may lose
  c.seed = 0
  return c


def _evaluate() -> ml_collections.ConfigDict:
  c = ml_collections.ConfigDict()
  c.protocol = ''  # one of metrics.protocols.PROTOCOLS
  c.measures = ()  # some of its numbers, as 'fvd,'; (): all
  c.references = ()  # some of its sets of real clips; (): all
  c.videos = ''  # a folder of videos to evaluate; '': samples of the model
  # what the protocol compares with; '': the data of the run, if it is the same
  c.path = ''
  c.list = ''  # kinetics600: the official CSV list of the test set
  c.validation = ''  # text_vdm: the folder of the validation set
  c.captions = ''  # a file or folder of captions; '': the data's own
  c.samples = 0  # fewer than the protocol's; 0: all
  c.reference = 0  # fewer real clips; 0: all
  c.score_known = False  # score the known frames of predicted videos, too
  c.frame_count = -1  # frames that a FID of frames takes of a video; 0: all
  c.batch_size = 16  # videos, or frames, that a feature network sees at once
  c.draws = 200  # of the bootstrap; fewer for many features; 0: no intervals
  c.extras = True  # FD∞ and kernel distances
  c.floor = True  # real clips against real clips
  c.cache = ''  # statistics of real clips; '': the user's cache folder
  c.benchmark = ()  # --mode=benchmark: feature networks to time, as 'i3d,c3d'
  c.weights = ml_collections.ConfigDict()  # files made by --mode=convert
  c.weights.i3d = ''
  c.weights.c3d = ''
  c.weights.inception = ''
  c.weights.clip = ''
  c.weights.shapes = ''  # made by --mode=features
  return c


def stage(**sample) -> ml_collections.ConfigDict:
  """A stage of a cascade, for `config.cascade` (see `cascade.py`).

  Args:
    **sample: what differs from the cascade's own `sample` section.
  """
  c = ml_collections.ConfigDict()
  c.workdir = ''  # of the run that trained it
  c.frames = 16  # of the stage's videos, as long as you like
  c.size = 64  # of its frames, as it was trained
  c.stride = 1  # its frame stride, as it was trained
  # refine.augment_level, if it is to be another than in its run; −1: it is not
  c.augment_level = -1.0
  c.sample = ml_collections.ConfigDict(sample)
  return c


# What makes any config a run of seconds, to see that all works.
TINY = {
  'data.frames': 4,
  'data.size': 16,
  'data.workers': 2,
  'model.channels': 8,
  'model.multipliers': (1, 2),
  'model.blocks': 1,
  'model.level_blocks': (),
  'model.attention_resolutions': (8,),
  'model.head_dim': 8,
  'model.emb_dim': 16,
  'model.groups': 4,
  'model.dtype': 'float32',
  'model.remat': 'none',
  'train.batch_size': 4,
  'train.steps': 4,
  'train.log_every': 2,
  'train.checkpoint_every': 2,
  'train.sample_every': 0,
  'train.sample_first': 0,
  'sample.count': 4,
  'sample.batch_size': 4,
  'sample.steps': 4,
}


def variant(config: ml_collections.ConfigDict, name: str, **choices: dict):
  """Applies the changes that `--config=file.py:NAME` asks for.

  Args:
    config: changed in place.
    name: the text behind the colon; '' leaves the config alone.
    **choices: per name, a flat dict of dotted keys and their values.

  Returns:
    The config, locked.

  Raises:
    ConfigError: if there is no such variant.
  """
  if name and name not in choices:
    raise errors.ConfigError(
      f'no variant {name!r} of this config; leave it out or use one of '
      f'{", ".join(choices)}'
    )
  config.update_from_flattened_dict(choices.get(name, {}))
  if name:
    config.name = f'{config.name}_{name}'
  return config.lock()


def beside(file: str, name: str, variant: str = ''):
  """A copy of the config of another file, unlocked, to start from.

  Args:
    file: `__file__` of the config that starts from it.
    name: of the other file, as seen from its folder.
    variant: of the other config.
  """
  path = config_file.check(pathlib.Path(file).parent / name)
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant).copy_and_resolve_references().unlock()


def varied(config: ml_collections.ConfigDict, changes: dict):
  """A locked copy of a config, with the values of dotted keys changed."""
  copy = config.copy_and_resolve_references().unlock()
  copy.update_from_flattened_dict(changes)
  return copy.lock()


def choose(what: str, name: str, table):
  """table[name], or name itself for a tuple; ConfigError if it has none.

  Args:
    what: how the message calls the setting, such as 'config.data.source'.
    name: the chosen name.
    table: a dict from names to values, or a tuple of names.
  """
  if name not in table:
    near = difflib.get_close_matches(name, table, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ';'
    raise errors.ConfigError(
      f'{what} is {name!r}{hint} it must be one of {", ".join(table)}'
    )
  return table[name] if isinstance(table, dict) else name


def flat(config: ml_collections.ConfigDict) -> dict:
  """Values by dotted keys."""
  return flat_dict(config.to_dict())


def flat_dict(tree: dict, prefix: str = '') -> dict:
  """Values of a tree of dicts by dotted keys."""
  values = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      values |= flat_dict(value, f'{prefix}{key}.')
    else:
      values[prefix + key] = value
  return values
