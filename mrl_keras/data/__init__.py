"""Data sets as arrays."""

from mrl_keras.data.images import ImageDataset, LabelledImages, load_images

__all__ = ["ImageDataset", "LabelledImages", "load_images"]
