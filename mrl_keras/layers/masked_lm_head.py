"""The head of a masked language model: MRL-E through the tied embedding table."""

import keras
from keras import ops

from mrl_keras.checks import whole_number
from mrl_keras.layers.matryoshka_dense import efficient_prefix_logits
from mrl_keras.layers.nested_softmax import nested_label_scores
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import deserialize_argument, register
from mrl_keras.sharing import HoldsModelLayer


def gather_positions(hidden, positions):
    """The hidden states at some positions of each sequence.

    Args:
        hidden: tensor (batch, length, width).
        positions: int tensor (batch, positions). A position outside [0, length) gives NaN.

    Returns:
        Tensor (batch, positions, width).
    """
    batch, length, width = ops.shape(hidden)
    inside = ops.logical_and(positions >= 0, positions < length)
    first = ops.multiply(ops.arange(batch, dtype="int32"), length)
    rows = ops.add(ops.where(inside, positions, 0), ops.expand_dims(first, 1))
    found = ops.take(ops.reshape(hidden, (-1, width)), rows, axis=0)
    missing = ops.cast(float("nan"), found.dtype)
    return ops.where(ops.expand_dims(inside, -1), found, missing)


@register
class MaskedLMHead(HoldsModelLayer, keras.layers.Layer):
    """BERT's masked language model head, with nested classifiers tied to the embedding table.

    At the masked positions, h = LayerNorm(activation(x @ W + c)), as in BERT; prefix m's
    logits over the vocabulary are then

    z_m = h[:, :m] @ E[:, :m]^T + b,

    with the input embedding's table E (vocabulary, d) and one bias b for all prefixes: MRL-E
    through the weights that the model has anyway.

    Called with the labels, the layer gives each prefix's crossentropy and whether the label
    is the top-1, and never holds the logits of the whole vocabulary: they are computed a
    block at a time, and again in the gradient. So 7 prefixes train in the memory of one.
    The labels are an input because loss and metrics are then functions of a small output,
    computed once, and plain `compile` and `fit` work on every backend. Padded positions
    get a sample weight of 0. Called without labels, it gives the plain logits of every
    prefix, for prediction at few positions.

    Whatever the dtype policy, the classifier is computed and its scores are given in
    float32.

    Args:
        embedding: the input embedding, a Keras layer with a weight `embeddings`
            (vocabulary, d), such as `keras.layers.Embedding` or `ReversibleEmbedding`. It
            stays shared when a model with both is saved and loaded, cloned or made of its
            config: there it is found by its class, name and config. Freezing this layer freezes
            it, too.
        nesting_dims: `NestingDims` or list of ints that ends at d.
        activation: Keras activation of the dense layer. Default "gelu".
        kernel_initializer: of the dense layer W (width, d). Default "glorot_uniform".
        layer_norm_epsilon: float. Default 1e-12, as in BERT.
        block_size: int, vocabulary entries whose logits are computed together; they take
            4 * batch * positions * prefixes * block_size bytes. Default 2048.
        **kwargs: `name`, `dtype`, `trainable`.

    Input shape:
        A list of the encoder's output (batch, length, width), masked positions (batch,
        positions) and, optionally, their labels (batch, positions); ints, or floats that
        hold them exactly. A position or label out of range gives NaN.

    Output shape:
        With labels (batch, positions, prefixes, 2): crossentropy, and 1 where no logit
        exceeds the label's, else 0. Without labels (batch, positions, prefixes,
        vocabulary) logits. The prefixes are on axis -2. Masks end here.

    Raises:
        ValueError: an `embedding` without a table or with other output weights, dims that
            don't end at d, or inputs that don't fit.

    Example:

    >>> import keras
    >>> from mrl_keras import MaskedLMAccuracy, MaskedLMCrossentropy, MaskedLMHead
    >>> from mrl_keras import MatryoshkaLoss, per_prefix
    >>> tokens, positions, labels = (
    ...     keras.Input((n,), dtype="int32", name=name)
    ...     for n, name in ((16, "tokens"), (3, "positions"), (3, "labels")))
    >>> embedding = keras.layers.Embedding(100, 8)
    >>> hidden = keras.layers.Dense(8)(embedding(tokens))  # an encoder stands here
    >>> head = MaskedLMHead(embedding, nesting_dims=[2, 4, 8])
    >>> model = keras.Model([tokens, positions, labels], head([hidden, positions, labels]))
    >>> model.output_shape
    (None, 3, 3, 2)
    >>> model.compile(
    ...     "adam",
    ...     loss=MatryoshkaLoss(MaskedLMCrossentropy(), reduction="mean_with_sample_weight"),
    ...     weighted_metrics=per_prefix(MaskedLMAccuracy(), [2, 4, 8]))
    >>> predictor = keras.Model([tokens, positions], head([hidden, positions]))
    >>> predictor.output_shape
    (None, 3, 3, 100)

    `fit` then takes ((tokens, positions, labels), labels, weights), weights (batch,
    positions).

    Source: arXiv 2205.13147, Section 3 (weight-tying for masked language models), Table 7
    (accuracy of each prefix), Appendix C.
    """

    _held = "embedding"

    def __init__(
        self,
        embedding,
        nesting_dims,
        activation="gelu",
        kernel_initializer="glorot_uniform",
        layer_norm_epsilon=1e-12,
        block_size=2048,
        **kwargs,
    ):
        # Do not autocast: token ids must stay integers.
        super().__init__(autocast=False, **kwargs)
        _check_embedding(embedding)
        self.embedding = embedding
        self.nesting_dims = NestingDims(nesting_dims)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.layer_norm_epsilon = float(layer_norm_epsilon)
        self.block_size = whole_number(block_size, "`block_size`")
        self.transform = keras.layers.Dense(
            self.nesting_dims.width,
            activation=self.activation,
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="transform",
        )
        self.normalization = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name="normalization"
        )
        self.supports_masking = True

    def build(self, input_shape):
        if isinstance(self.embedding, keras.layers.Embedding) and not self.embedding.built:
            self.embedding.build((None, None))
        vocabulary = self._checked_table().shape[0]
        shape = tuple(_checked_shapes(input_shape)[0])
        self.transform.build(shape)
        self.normalization.build((*shape[:-1], self.nesting_dims.width))
        self.bias = self.add_weight(name="bias", shape=(vocabulary,), initializer="zeros")
        self.built = True

    def call(self, inputs):
        _checked_shapes(_shapes(inputs))
        hidden, positions, *labels = inputs
        gathered = gather_positions(hidden, ops.cast(positions, "int32"))
        states = self.normalization(self.transform(ops.cast(gathered, self.compute_dtype)))
        table = self._float_table()
        bias = ops.convert_to_tensor(self.bias)
        if not labels:
            states, table, bias = (ops.cast(x, "float32") for x in (states, table, bias))
            logits = efficient_prefix_logits(states, ops.transpose(table), bias, self.nesting_dims)
            return ops.stack(logits, axis=-2)
        scores = nested_label_scores(
            ops.reshape(states, (-1, self.nesting_dims.width)),
            table,
            bias,
            ops.reshape(ops.cast(labels[0], "int32"), (-1,)),
            self.nesting_dims,
            self.block_size,
        )
        return ops.reshape(scores, (*ops.shape(positions), len(self.nesting_dims), 2))

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the mask of the sequence does not fit the gathered positions

    def compute_output_shape(self, input_shape):
        shapes = _checked_shapes(input_shape)
        last = 2 if len(shapes) == 3 else self._checked_table().shape[0]
        return (*shapes[1], len(self.nesting_dims), last)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape(_shapes(inputs))
        return keras.KerasTensor(shape, dtype="float32")

    def _float_table(self):
        """The table; of an embedding that was quantised to int8, what its numbers stand for."""
        table, mode = self.embedding.embeddings, getattr(self.embedding, "quantization_mode", None)
        table = ops.convert_to_tensor(table)
        if mode is None:
            return table
        if mode != "int8" or getattr(self.embedding, "lora_enabled", False):
            raise ValueError(
                f"The head reads an embedding of floats or of int8 without LoRA. Received "
                f"{self.embedding.name!r} with quantization mode {mode!r}: quantise the other "
                'layers, `model.quantize(..., filters="REGEX OF THEIR NAMES")`.'
            )
        scale = ops.expand_dims(ops.convert_to_tensor(self.embedding.embeddings_scale), -1)
        return ops.divide(ops.cast(table, scale.dtype), scale)

    def _checked_table(self):
        """The table (vocabulary, d), where `nesting_dims` end at d."""
        table = getattr(self.embedding, "embeddings", None)
        if table is None or len(table.shape) != 2:
            raise ValueError(
                "`embedding` must be a layer with a weight `embeddings` (vocabulary, d), such as "
                f"keras.layers.Embedding. Received {self.embedding!r}; pass the token embedding "
                "itself, not a layer around it."
            )
        if table.shape[1] != self.nesting_dims.width:
            raise ValueError(
                f"`nesting_dims` must end at the width {table.shape[1]} of the embedding table "
                f"{tuple(table.shape)}. Received {list(self.nesting_dims)}."
            )
        return table

    def get_config(self):
        return {
            **super().get_config(),
            "embedding": keras.layers.serialize(self.embedding),
            "nesting_dims": list(self.nesting_dims),
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "block_size": self.block_size,
        }

    @classmethod
    def from_config(cls, config):
        return cls._revive(deserialize_argument(config, "embedding", keras.layers.deserialize))


def _check_embedding(embedding):
    if not isinstance(embedding, keras.layers.Layer):
        raise ValueError(
            "`embedding` must be a Keras layer with a weight `embeddings` (vocabulary, d). "
            f"Received {embedding!r}."
        )
    if not getattr(embedding, "tie_weights", True):
        raise ValueError(
            f"`embedding` {embedding.name!r} has `tie_weights=False`, an output table of its own. "
            "This head ties its classifier to the input table: set `tie_weights=True`."
        )
    if getattr(embedding, "logit_soft_cap", None) is not None:
        raise ValueError(
            f"`embedding` {embedding.name!r} has a `logit_soft_cap` of "
            f"{embedding.logit_soft_cap}, which this head does not apply: leave it None."
        )


def _shapes(inputs):
    return [x.shape for x in inputs] if isinstance(inputs, (list, tuple)) else inputs.shape


def _checked_shapes(shapes):
    """`shapes` of [hidden, positions] or [hidden, positions, labels], which fit together."""
    shapes = [tuple(shape) if hasattr(shape, "__len__") else shape for shape in shapes]
    ranks = [len(shape) if isinstance(shape, tuple) else 0 for shape in shapes]
    fits = ranks in ([3, 2], [3, 2, 2]) and all(
        len({n for n in sizes if n is not None}) <= 1
        for sizes in ([shape[0] for shape in shapes], [shape[1] for shape in shapes[1:]])
    )
    if not fits:
        raise ValueError(
            "MaskedLMHead takes a list of hidden states (batch, length, width), positions (batch, "
            "positions) and, for training, labels (batch, positions). Received shapes "
            f"{shapes}."
        )
    return shapes
