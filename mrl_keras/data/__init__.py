"""Data sets as arrays and as tf.data pipelines: images, texts, images with texts."""

from mrl_keras.data.image.augmentation import resolution_stages
from mrl_keras.data.image.digit_pairs import digit_pairs
from mrl_keras.data.image.memory import ImageDataset, LabelledImages, load_images, read_split
from mrl_keras.data.image.pipeline import (
    ImageStreamOptions,
    array_batches,
    evaluation_batches,
    streamed_batches,
)
from mrl_keras.data.image.records import explain_image_errors
from mrl_keras.data.image.sets import class_names, corrupt_images, image_set
from mrl_keras.data.image_text.pipeline import caption_batches, streamed_caption_batches
from mrl_keras.data.image_text.sets import (
    CaptionedImages,
    caption_set,
    caption_texts,
    read_captioned,
)
from mrl_keras.data.sampling import Sampling
from mrl_keras.data.text.masked_lm import (
    masked_lm_batches,
    masked_lm_evaluation,
    masked_lm_stream,
    token_rows,
)
from mrl_keras.data.text.sets import read_columns, text_set
from mrl_keras.data.text.stream import TextSource, streamed_texts
from mrl_keras.data.text.wordpiece import (
    SPECIAL_PIECES,
    Wordpiece,
    learn_vocabulary,
    read_vocabulary,
    write_vocabulary,
)

__all__ = [
    "CaptionedImages",
    "ImageDataset",
    "ImageStreamOptions",
    "LabelledImages",
    "SPECIAL_PIECES",
    "Sampling",
    "TextSource",
    "Wordpiece",
    "array_batches",
    "caption_batches",
    "caption_set",
    "caption_texts",
    "class_names",
    "corrupt_images",
    "digit_pairs",
    "evaluation_batches",
    "explain_image_errors",
    "image_set",
    "learn_vocabulary",
    "load_images",
    "read_captioned",
    "masked_lm_batches",
    "masked_lm_evaluation",
    "masked_lm_stream",
    "read_columns",
    "read_split",
    "read_vocabulary",
    "resolution_stages",
    "streamed_batches",
    "streamed_caption_batches",
    "streamed_texts",
    "text_set",
    "token_rows",
    "write_vocabulary",
]
