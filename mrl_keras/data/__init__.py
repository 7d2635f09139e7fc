"""Data sets as arrays and as pipelines."""

from mrl_keras.data.augmentation import resolution_stages
from mrl_keras.data.image_pipeline import (
    array_batches,
    evaluation_batches,
    streamed_batches,
)
from mrl_keras.data.image_records import clear_image_errors
from mrl_keras.data.image_sets import class_names, corrupt_images, image_set
from mrl_keras.data.images import ImageDataset, LabelledImages, load_images, read_split

__all__ = [
    "ImageDataset",
    "LabelledImages",
    "array_batches",
    "class_names",
    "clear_image_errors",
    "corrupt_images",
    "evaluation_batches",
    "image_set",
    "load_images",
    "read_split",
    "resolution_stages",
    "streamed_batches",
]
