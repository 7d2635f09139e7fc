"""Keras layers over nested prefixes."""

from mrl_keras.layers.matryoshka_dense import MatryoshkaDense
from mrl_keras.layers.matryoshka_similarity import MatryoshkaSimilarity
from mrl_keras.layers.prefix_normalization import PrefixNormalization, normalize_prefix

__all__ = ["MatryoshkaDense", "MatryoshkaSimilarity", "PrefixNormalization", "normalize_prefix"]
