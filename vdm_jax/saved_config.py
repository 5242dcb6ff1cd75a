"""The config of an earlier run, for `--config=saved_config.py:config.json`."""

import pathlib

from vdm_jax import identity


def get_config(path: str):
  """Reads the JSON file that a run left in its workdir."""
  return identity.from_json(pathlib.Path(path).read_text())
