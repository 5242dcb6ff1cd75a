"""The picture of the noise analysis, by matplotlib and scikit-learn.

Four panels after Ge23 Fig. 2: t-SNE of noises of frames, of videos, and of a
prior, and the correlation by frame lag.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float64, UInt8

from vdm_jax.media import plots

INCHES = (8.8, 7.6)
REQUIRED = ('matplotlib', 'sklearn')
PERPLEXITY = 30.0  # of t-SNE, where there are points enough; Ge23 do not say

Noises = Float[np.ndarray, 'm n d']


def check():
  """Raises ConfigError unless the picture can be drawn."""
  plots.check('the picture of the analysis needs', REQUIRED)


def draw(
  eps: Noises,
  *,
  draws: Noises,
  prior: Noises,
  name: str,
  lags: Float64[np.ndarray, 'm k'],
  curves: Mapping[str, Float64[np.ndarray, ' k']],
  stride: int = 1,
  seed: int = 0,
) -> UInt8[np.ndarray, 'h w 3']:
  """Draws the four panels.

  Args:
    eps: the noises of n frames of each of m videos.
    draws: as many independent ones, the background of the first three panels.
    prior: noises of a prior, for the third panel.
    name: of that prior.
    lags: each video's mean correlation of frames 1, 2, … k apart.
    curves: what priors have there, by name.
    stride: frames of the video from one of its n frames to the next.
    seed: of the frames in the first panel, and of t-SNE.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=INCHES, dpi=116, layout='constrained')
  canvas = FigureCanvasAgg(figure)
  (one, own), (of_prior, by_lag) = figure.subplots(2, 2)
  rng = np.random.default_rng(seed)
  some = rng.integers(eps.shape[1], size=len(eps))
  single = np.take_along_axis(eps, some[:, None, None], 1)
  _scatter(one, single, draws, seed)
  one.set_title('(a) one frame of each video')
  _scatter(own, eps, draws, seed)
  own.set_title('(b) all frames, coloured by video')
  _scatter(of_prior, prior, draws, seed)
  of_prior.set_title(f'(c) draws of {name}')
  _curves(by_lag, lags, curves, stride)
  by_lag.set_title('(d) correlation by frame lag')
  figure.suptitle('t-SNE of noises; grey: independent draws', fontsize=11)
  canvas.draw()
  return np.array(canvas.buffer_rgba())[..., :3].copy()


def _scatter(
  axis,
  coloured: Noises,
  grey: Float[np.ndarray, 'p q d'],
  seed: int,
):
  """The t-SNE of two sets of noises, the first coloured by video."""
  from matplotlib import colormaps

  m, n, d = coloured.shape
  points = layout(
    np.concatenate([coloured.reshape(-1, d), grey.reshape(-1, d)]), seed
  )
  videos, background = np.split(points, [m * n])
  axis.scatter(*background.T, s=9, color='0.8', linewidths=0)
  table = colormaps['gist_rainbow'](np.linspace(0, 1, m))
  axis.scatter(
    *videos.T,
    s=16 if n > 1 else 30,
    color=np.repeat(table, n, axis=0),
    edgecolors='black',
    linewidths=0.3,
  )
  axis.set(xticks=[], yticks=[])


def layout(
  points: Float[np.ndarray, 'p d'], seed: int = 0
) -> Float[np.ndarray, 'p 2']:
  """t-SNE by the cosine distance, in two dimensions."""
  import threadpoolctl
  from sklearn.manifold import TSNE

  unit = points / np.linalg.norm(points, axis=1, keepdims=True)
  distances = np.clip(1 - unit @ unit.T, 0, None)
  np.fill_diagonal(distances, 0)
  model = TSNE(
    metric='precomputed',
    init='random',
    perplexity=min(PERPLEXITY, (len(points) - 1) / 3),
    random_state=seed,
  )
  # So few points are slower by many threads, and much slower where other
  # programs want the cores too.
  with threadpoolctl.threadpool_limits(1):
    return model.fit_transform(distances)


def _curves(axis, lags, curves, stride: int):
  """Mean ± standard deviation over videos, and what priors have there."""
  k = stride * np.arange(1, lags.shape[1] + 1)
  axis.axhline(0, color='0.8', linewidth=1)
  axis.errorbar(
    k,
    lags.mean(0),
    lags.std(0, ddof=1),
    label='noises of frames (± over videos)',
    color='black',
    marker='o',
    markersize=4,
    capsize=2,
    linewidth=1,
  )
  for (name, curve), style in zip(curves.items(), ('--', '-'), strict=False):
    axis.plot(k, curve, label=name, linestyle=style, linewidth=1.5)
  axis.set(xlabel='frames of the video apart')
  axis.legend(fontsize=8)
