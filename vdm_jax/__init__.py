"""Video diffusion models in JAX: VDM (Ho 2022) and PYoCo (Ge 2023)."""
