"""Keras layers over nested prefixes."""

from mrl_keras.layers.matryoshka_dense import MatryoshkaDense

__all__ = ["MatryoshkaDense"]
