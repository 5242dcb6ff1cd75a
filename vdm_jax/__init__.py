"""Video diffusion models in JAX: VDM (Ho 2022) and PYoCo (Ge 2023)."""

import importlib

__all__ = ['VideoModel', 'fit', 'load']  # of `vdm_jax.api`, loaded when used


def __getattr__(name: str):
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module('vdm_jax.api'), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
