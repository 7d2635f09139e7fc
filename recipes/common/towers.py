"""Image and text networks as tasks use them: made from a config, run over arrays."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mrl_keras.models import image_backbone

SIZED = ("small_convnet", "small_resnet")
"""The backbones whose width is free, so that they need to be told."""


def make_backbone(name, image_shape, width, options, **more):
    """The image backbone of a config: raw images -> (batch, d).

    Args:
        name: str, see `image_backbone`.
        image_shape: (height, width, channels).
        width: int, `config.embedding_width`, for the backbones that fix no width themselves.
        options: a config's arguments of the backbone.
        **more: further arguments.
    """
    given = {key: list(v) if isinstance(v, tuple) else v for key, v in options.items()}
    if name in SIZED:
        given = {"width": width, **given}
    return image_backbone(name, image_shape, **given, **more)


def embed_images(tower, images, batch_size, jit_compile=False):
    """Embeddings (images, d) of raw images (images, height, width, channels), see `_embed`."""

    def padded(start):
        batch = images[start : start + batch_size]
        return np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])

    return _embed(tower, len(images), padded, batch_size, jit_compile)


def embed_texts(tower, wordpiece, texts, batch_size, jit_compile=False):
    """Embeddings (texts, d) of strings, which `wordpiece` makes tokens of, see `_embed`."""

    def padded(start):
        batch = list(texts[start : start + batch_size])
        return wordpiece(tf.constant(batch + [""] * (batch_size - len(batch))))

    return _embed(tower, len(texts), padded, batch_size, jit_compile)


def _embed(tower, rows, padded, batch_size, jit_compile):
    """`tower` over batches that are all of one size, so that shapes are static; float32."""
    if not tower.compiled:
        tower.compile(jit_compile=jit_compile)
    parts = [
        np.asarray(tower.predict_on_batch(padded(start)), "float32")[: rows - start]
        for start in range(0, rows, batch_size)
    ]
    return np.concatenate(parts)
