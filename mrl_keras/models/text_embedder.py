"""Text embedders: BERT, pooled to one embedding, trained on pairs of sentences."""

import keras
from keras import ops

from mrl_keras.layers import GatheredBatch, MatryoshkaPairwiseCosine, MatryoshkaSimilarity
from mrl_keras.models.garden.text import INPUTS, GardenBert
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import register

POOLINGS = ("mean", "cls")
SIDES = ("first", "second")


@register
class MaskedMean(keras.layers.Layer):
    """The mean of a sequence's vectors, padding left out.

    y = sum_t mask[t] x[t] / max(sum_t mask[t], 1)

    Args:
        **kwargs: `name`, `dtype`.

    Input shape:
        A list of the sequence (batch, length, d) and the mask (batch, length), 1 for tokens and
        0 for padding.

    Output shape:
        (batch, d).

    Example:

    >>> from mrl_keras.models.text_embedder import MaskedMean
    >>> sequence = np.array([[[1.0], [3.0], [9.0]]], "float32")
    >>> MaskedMean()([sequence, np.array([[1, 1, 0]])]).numpy().tolist()
    [[2.0]]
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def call(self, inputs):
        sequence, mask = inputs
        weights = ops.expand_dims(ops.cast(mask, sequence.dtype), 2)
        tokens = ops.maximum(ops.sum(weights, axis=1), 1.0)
        return ops.sum(ops.multiply(sequence, weights), axis=1) / tokens

    def compute_output_shape(self, input_shape):
        batch, _, width = input_shape[0]
        return (batch, width)


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
        (batch, length) -> (batch, d).

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
    sequence = bert(inputs)["sequence_output"]
    if pooling == "mean":
        embedding = MaskedMean(name="pooling")([sequence, inputs["input_mask"]])
    else:
        embedding = sequence[:, 0]
    if width not in (None, bert.hidden_size):
        embedding = keras.layers.Dense(width, name="embedding")(embedding)
    return keras.Model(inputs, embedding, name="text_embedder")


def sentence_pairs(embedder, nesting_dims, temperature=0.05):
    """Two sentences through one embedder, and how similar they are at every prefix.

    Of the outputs compile those to train on:

    - "similarity" (batch, prefixes, batch): cosines of all first with all second sentences, over
      the temperature, for in-batch negatives: `MatryoshkaLoss(SymmetricContrastive("gathered"))`.
      Under `tf.distribute` the second sentences are those of all replicas.
    - "cosine" (batch, prefixes, 1): each pair's own cosine, for scores: `MatryoshkaLoss` around
      `CoSENT`, or around any regression loss.

    Args:
        embedder: `keras.Model`, a dict of inputs -> (batch, d), such as `text_embedder` makes.
        nesting_dims: `NestingDims` or list of ints that ends at d.
        temperature: float above 0 of "similarity". Default 0.05.

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
    shape = getattr(embedder, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 2 or not isinstance(embedder.input, dict):
        raise ValueError(
            "`embedder` must be a functional keras.Model of a dict of inputs that ends in an "
            f"embedding (batch, d). Received {embedder!r} with output shape {shape}."
        )
    dims = NestingDims(nesting_dims, width=shape[1])
    # A model of its own with the wanted name, which shares the embedder's layers.
    named = keras.Model(embedder.input, embedder.output, name="embedder")
    inputs, embeddings = {}, []
    for side in SIDES:
        own = {
            name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=f"{side}_{name}")
            for name, tensor in embedder.input.items()
        }
        inputs |= {tensor.name: tensor for tensor in own.values()}
        embeddings.append(named(own))
    first, second = embeddings
    similarity = MatryoshkaSimilarity(
        dims, temperature=temperature, dtype="float32", name="similarity"
    )
    everything = GatheredBatch(dtype="float32", name="gathered")(second)
    outputs = {
        "similarity": similarity([first, everything]),
        "cosine": MatryoshkaPairwiseCosine(dims, dtype="float32", name="cosine")([first, second]),
    }
    return keras.Model(inputs, outputs, name="sentence_pairs")
