"""Text embedders: BERT, pooled to one embedding, trained on pairs of sentences."""

import keras

from mrl_keras.layers import GatheredBatch, MatryoshkaPairwiseCosine
from mrl_keras.models.chunked_encoder import named_model
from mrl_keras.models.contrastive_scores import similarity_layer
from mrl_keras.models.garden.backbone import layer_name
from mrl_keras.models.garden.text import INPUTS, GardenBert
from mrl_keras.models.hub import projected
from mrl_keras.models.nested_layers import NestedLayers
from mrl_keras.models.pooling import POOLINGS, pooled
from mrl_keras.nesting import NestingDims

SIDES = ("first", "second")


def text_embedder(length, width=None, pooling="mean", **options):
    """Model Garden's BERT, pooled to one embedding of a text.

    Args:
        length: int, tokens of a text with "[CLS]" and "[SEP]"; shorter ones are padded.
        width: int, the embedding width d; a linear layer maps BERT's to it where it differs.
            Default None, BERT's own.
        pooling: "mean" of the vectors of all tokens, or "cls", the first token's. Default
            "mean", which sentence encoders use; ALIGN uses "cls".
        **options: arguments of `GardenBert`.

    Returns:
        `keras.Model`: a dict of "input_word_ids", "input_mask" and "input_type_ids", each int32
        (batch, length) -> (batch, d). With the option `output_layers`, such as [4, 8, 12],
        `NestedLayers`: a dict of (batch, d) by "layer4", "layer8", "layer12".

    Raises:
        ImportError: tf-models-official is not installed.
        ValueError: an unknown pooling, or an argument out of range.

    Example:

    >>> from mrl_keras.models import text_embedder
    >>> small = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "inner_dim": 32}
    >>> text_embedder(8, width=12, vocab_size=50, **small).output_shape
    (None, 12)

    Source: arXiv 1908.10084, Section 3 (poolings).
    """
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` must be one of {POOLINGS}. Received {pooling!r}.")
    options = {"max_length": length, "pooler": False, "name": "bert", **options}
    bert = GardenBert(**options)
    inputs = {name: keras.Input((length,), dtype="int32", name=name) for name in INPUTS}
    network = keras.Model(inputs, bert(inputs))
    width = None if width == bert.hidden_size else width
    if bert.output_layers:
        names = [layer_name(number) for number in bert.output_layers]
        return NestedLayers(network, names, pooling, width, name="text_embedder")
    encoder = projected(pooled(network, pooling, "sequence_output"), width)
    return keras.Model(inputs, encoder.output, name="text_embedder")


def sentence_pairs(embedder, nesting_dims, temperature=0.05, chunk_size=None):
    """Two sentences through one embedder, and how similar they are at every prefix.

    Of the outputs compile those to train on:

    - "similarity" (batch, prefixes, batch): cosines of all first with all second sentences, over
      the temperature, for in-batch negatives: `MatryoshkaLoss(SymmetricContrastive("gathered"))`.
      Under `tf.distribute` the second sentences are those of all replicas.
    - "cosine" (batch, prefixes, 1): each pair's own cosine, for scores: `MatryoshkaLoss` around
      `CoSENT`, or around any regression loss.

    Of `NestedLayers` each layer has its own, "similarity_layer4" and "cosine_layer4" for example.

    Args:
        embedder: `keras.Model`, a dict of inputs -> (batch, d), such as `text_embedder` makes, or
            `NestedLayers`; a `ChunkedEncoder` around an encoder (batch, d) trains on large batches
            in the memory of small ones.
        nesting_dims: `NestingDims` or list of ints that ends at d.
        temperature: float above 0 of "similarity". Default 0.05.
        chunk_size: int, first sentences whose cosines are alive together, for batches whose
            cosines of all pairs take too much memory: "similarity" is scores (batch, prefixes, 2)
            then, for `MatryoshkaLoss(SymmetricContrastive("scores"))`; see `ContrastiveScores`.
            Default None, cosines of all pairs.

    Returns:
        `keras.Model`: a dict of the embedder's inputs by name, once with "first_" and once with
        "second_" before it -> a dict of "similarity" and "cosine". The embedder is its layer
        "embedder".

    Raises:
        ValueError: an embedder without embeddings (batch, d), or dims that don't end at d.

    Example:

    >>> from mrl_keras import MatryoshkaLoss, SymmetricContrastive
    >>> from mrl_keras.models import sentence_pairs
    >>> words = {"words": keras.Input((4,), name="words")}
    >>> model = sentence_pairs(keras.Model(words, keras.layers.Dense(8)(words["words"])), [2, 8])
    >>> loss = MatryoshkaLoss(SymmetricContrastive("gathered"))
    >>> model.compile("adam", loss={"similarity": loss, "cosine": None})
    >>> x = {"first_words": np.eye(4, dtype="float32"), "second_words": np.eye(4, dtype="float32")}
    >>> outputs = model(x)
    >>> outputs["similarity"].shape, outputs["cosine"].shape
    (TensorShape([4, 2, 4]), TensorShape([4, 2, 1]))

    Source: arXiv 1705.00652, Section 4 (in-batch negatives); arXiv 2205.13147, Section 3.
    """
    layers = getattr(embedder, "output", None)
    layers = layers if isinstance(layers, dict) else {"": layers}
    shapes = {tuple(getattr(embedding, "shape", ())) for embedding in layers.values()}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) != 2 or not isinstance(getattr(embedder, "input", 0), dict):
        raise ValueError(
            "`embedder` must be a functional keras.Model of a dict of inputs that ends in an "
            "embedding (batch, d), or in a dict of such. Received "
            f"{embedder!r} with outputs of the shapes {sorted(shapes)}."
        )
    dims = NestingDims(nesting_dims, width=shape[1])
    named = named_model(embedder, "embedder")
    inputs, embeddings = {}, []
    for side in SIDES:
        own = {
            name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=f"{side}_{name}")
            for name, tensor in embedder.input.items()
        }
        inputs |= {tensor.name: tensor for tensor in own.values()}
        embeddings.append(named(own))
    first, second = (found if isinstance(found, dict) else {"": found} for found in embeddings)
    outputs = {}
    for name in layers:
        pair = first[name], second[name]
        outputs |= _compared(*pair, dims, temperature, chunk_size, f"_{name}" if name else "")
    return keras.Model(inputs, outputs, name="sentence_pairs")


def _compared(first, second, dims, temperature, chunk_size, suffix):
    """The outputs of `sentence_pairs` for two embeddings (batch, d), with names that end alike."""
    similarity = similarity_layer(
        dims, chunk_size, temperature=temperature, dtype="float32", name=f"similarity{suffix}"
    )
    cosine = MatryoshkaPairwiseCosine(dims, dtype="float32", name=f"cosine{suffix}")
    everything = GatheredBatch(dtype="float32", name=f"gathered{suffix}")(second)
    found = similarity([first, everything]), cosine([first, second])
    return dict(zip((similarity.name, cosine.name), found, strict=True))
