"""Figures of tables, by matplotlib (the extra `plots`)."""

import importlib.util
import math
import pathlib
from collections.abc import Mapping

import numpy as np

from vdm_jax import errors

INCHES = (4.2, 3.2)  # of one panel, width and height


def check(what: str = 'figures need', modules: tuple = ('matplotlib',)):
  """Raises ConfigError unless the modules of a picture are installed.

  Args:
    what: the message's first words.
    modules: what they need.
  """
  for name in modules:
    if importlib.util.find_spec(name) is None:
      raise errors.ConfigError(
        f"{what} {name}, which is not installed; run pip install -e '.[plots]'"
      )


def draw(
  path: pathlib.Path,
  columns: Mapping[str, Mapping[str, np.ndarray]],
  points: Mapping[str, tuple[str, float]],
  *,
  title: str,
  label: str,
  logarithmic: bool = False,
) -> pathlib.Path:
  """Draws a panel for each column: mean ± standard deviation of each row.

  Args:
    path: where the picture goes, a PNG.
    columns: by title of a panel, the values of all seeds by row.
    points: by row, its series and its place on the horizontal axis; the other
      rows are drawn as levels.
    title: of the whole.
    label: of the horizontal axis.
    logarithmic: whether that axis is.
  """
  from matplotlib.figure import Figure

  figure = Figure(
    figsize=(INCHES[0] * len(columns), INCHES[1]), layout='constrained'
  )
  axes = figure.subplots(1, len(columns), squeeze=False)[0]
  for axis, (name, rows) in zip(axes, columns.items(), strict=True):
    _panel(axis, rows, points)
    axis.set(title=name, xlabel=label)
    if logarithmic:
      axis.set_xscale('log')
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower center', ncols=4)
  figure.suptitle(title)
  figure.savefig(path, dpi=120)
  return path


def _panel(axis, rows: Mapping[str, np.ndarray], points):
  """Lines with error bars, and levels."""
  rows = {row: values for row, values in rows.items() if len(values)}
  series: dict[str, list] = {}
  for row in filter(rows.__contains__, points):
    name, place = points[row]
    series.setdefault(name, []).append((place, *_spread(rows[row])))
  for name, found in series.items():
    places, means, spreads = np.array(sorted(found)).T
    axis.errorbar(
      places, means, spreads, label=name, marker='o', capsize=3, linewidth=1
    )
  levels = [row for row in rows if row not in points]
  for number, row in enumerate(levels):
    style = ('-', '--', ':', '-.')[number % 4]
    axis.axhline(rows[row].mean(), label=row, color='0.4', linestyle=style)


def _spread(values: np.ndarray) -> tuple[float, float]:
  """Mean and standard deviation, which one value does not have."""
  deviation = values.std(ddof=1) if len(values) > 1 else math.nan
  return float(values.mean()), float(deviation)
