"""The mathematics of diffusion on video, in jax alone."""
