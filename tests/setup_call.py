"""What setup.py asks setuptools for, without installing anything."""

import runpy

import setuptools


def arguments() -> dict:
  """The arguments of `setuptools.setup`."""
  given = {}
  real = setuptools.setup
  setuptools.setup = lambda **kwargs: given.update(kwargs)
  try:
    runpy.run_path('setup.py')
  finally:
    setuptools.setup = real
  return given
