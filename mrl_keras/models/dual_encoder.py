"""Dual encoders (ALIGN): two towers whose embeddings are compared at every prefix."""

import keras

from mrl_keras.layers import GatheredBatch
from mrl_keras.models.chunked_encoder import named_model
from mrl_keras.models.contrastive_scores import similarity_layer
from mrl_keras.nesting import NestingDims

TOWERS = ("image_tower", "text_tower")


def dual_encoder(
    image_tower, text_tower, nesting_dims, temperature=0.07, per_prefix=False, chunk_size=None
):
    """Two towers and the similarities of all their pairs at every prefix.

    S[i, p, j] = cos(image[i, :m], text[j, :m]) / T for the p-th prefix size m: MRL on both
    embeddings, each prefix L2-normalised by itself. Under `tf.distribute` a replica's images are
    compared with the texts of all replicas, which are gathered once, at full width. Compile it
    with `MatryoshkaLoss(SymmetricContrastive("gathered"))`.

    Args:
        image_tower: `keras.Model`, one input -> (batch, d), such as `image_backbone` makes.
            Any two towers do, of images, texts or else; a `ChunkedEncoder` around one trains it
            on large batches in the memory of small ones.
        text_tower: `keras.Model`, one or several inputs -> (batch, d), such as `text_embedder`
            makes, with `pooling="cls"` as in ALIGN.
        nesting_dims: `NestingDims` or list of ints that ends at d.
        temperature: float from 0.01 to 100, the initial value of T, which is learned. Default
            0.07, CLIP's.
        per_prefix: bool, a temperature of its own for each prefix. Default False, one for all
            as in ALIGN.
        chunk_size: int, images whose logits are alive together, for batches whose logits of all
            pairs take too much memory; see `ContrastiveScores`. Compile the model with
            `MatryoshkaLoss(SymmetricContrastive("scores"))` then. Default None, logits of all
            pairs.

    Returns:
        `keras.Model`: a dict of both towers' inputs by name -> logits (batch, prefixes, batch),
        or with `chunk_size` scores (batch, prefixes, 2). The towers are its layers "image_tower"
        and "text_tower", see `towers`, and the temperature is in its layer "similarity".

    Raises:
        ValueError: towers without embeddings (batch, d) of one width, inputs of one name, or
            dims that don't end at d.

    Example:

    >>> import keras
    >>> from mrl_keras import MatryoshkaLoss, SymmetricContrastive
    >>> from mrl_keras.models import dual_encoder
    >>> pixels, words = (keras.Input((4,), name=name) for name in ("pixels", "words"))
    >>> image = keras.Model(pixels, keras.layers.Dense(8)(pixels))
    >>> text = keras.Model(words, keras.layers.Dense(8)(words))
    >>> model = dual_encoder(image, text, [2, 4, 8])
    >>> model.compile("adam", loss=MatryoshkaLoss(SymmetricContrastive("gathered")))
    >>> pairs = {"pixels": np.eye(4, dtype="float32"), "words": np.eye(4, dtype="float32")}
    >>> history = model.fit(pairs, np.zeros(4), verbose=0)  # the labels are not read
    >>> model(pairs).shape
    TensorShape([4, 3, 4])

    Source: arXiv 2205.13147, Section 3 and Appendix C; arXiv 2102.05918.
    """
    widths = [
        _width(tower, name) for tower, name in zip((image_tower, text_tower), TOWERS, strict=True)
    ]
    if widths[0] != widths[1]:
        raise ValueError(
            "Both towers must give embeddings of one width. Received widths "
            f"{widths[0]} (image) and {widths[1]} (text); end one in `keras.layers.Dense`."
        )
    dims = NestingDims(nesting_dims, width=widths[0])
    inputs, outputs = {}, []
    for tower, name in zip((image_tower, text_tower), TOWERS, strict=True):
        named = {tensor.name: tensor for tensor in tower.inputs}
        taken = sorted(set(named) & set(inputs))
        if taken:
            raise ValueError(f"The towers must have inputs of different names. Both have {taken}.")
        inputs |= named
        outputs.append(named_model(tower, name)(tower.input))
    image, text = outputs
    similarity = similarity_layer(
        dims,
        chunk_size,
        temperature=temperature,
        learnable_temperature=True,
        per_prefix_temperature=per_prefix,
        dtype="float32",
        name="similarity",
    )
    texts = GatheredBatch(dtype="float32", name="gathered")(text)
    return keras.Model(inputs, similarity([image, texts]), name="dual_encoder")


def towers(model):
    """(image tower, text tower) of a dual encoder, which share its weights.

    Args:
        model: what `dual_encoder` made.

    Returns:
        Two `keras.Model`s, raw inputs -> (batch, d).
    """
    return tuple(model.get_layer(name) for name in TOWERS)


def _width(tower, name):
    shape = getattr(tower, "output_shape", None)
    if not isinstance(tower, keras.Model) or not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(
            f"`{name}` must be a functional keras.Model that ends in an embedding (batch, d). "
            f"Received {tower!r} with output shape {shape}."
        )
    return shape[1]
