"""Matryoshka Representation Learning for TensorFlow and Keras 3 (arXiv 2205.13147)."""

from mrl_keras.nesting import NestingDims
from mrl_keras.version import __version__

__all__ = ["NestingDims", "__version__"]
