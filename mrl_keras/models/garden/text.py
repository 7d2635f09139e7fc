"""The text encoder of Model Garden, BERT, as a Keras layer."""

import dataclasses

from mrl_keras.checks import whole_number
from mrl_keras.models.garden.backbone import (
    GardenBackbone,
    check_layers,
    fraction,
    layer_name,
    split_options,
)
from mrl_keras.models.garden.image import heads_divide_width
from mrl_keras.registry import register

INPUTS = ("input_word_ids", "input_mask", "input_type_ids")


@dataclasses.dataclass(frozen=True)
class BertOptions:
    """The options of `GardenBert`, which documents them."""

    type_vocab_size: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooler: bool = True
    output_layers: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "output_layers", tuple(self.output_layers))
        whole_number(self.type_vocab_size, "`type_vocab_size`")
        for name in ("dropout", "attention_dropout"):
            fraction(getattr(self, name), f"`{name}`")


@register
class GardenBert(GardenBackbone):
    """Model Garden's BERT encoder as a Keras layer. The defaults are BERT-Base.

    The layer has the word embedding table as `embeddings` (vocab_size, hidden_size), so that
    it can itself be the tied embedding of a masked language model:
    `MaskedLMHead(bert, nesting_dims)`.

    Stages: "embeddings" (words, positions, types), "block0", "block1", ..., and "pooler" if
    there is one.

    Args:
        vocab_size: int, rows of the word embedding table. Default 30522.
        hidden_size: int, the width d. Default 768.
        num_layers: int, transformer blocks. Default 12.
        num_heads: int, attention heads; it divides `hidden_size`. Default 12.
        inner_dim: int, the width inside each block's perceptron. Default 3072.
        max_length: int, the longest sequence. Default 512.
        frozen: names of stages that are not trained. Default ().
        **kwargs: the options below, and `name`, `dtype`, `trainable`.

    Options:
        type_vocab_size: int, token types. Default 2.
        dropout: float in [0, 1). Default 0.1.
        attention_dropout: float in [0, 1). Default 0.1.
        pooler: bool, the dense layer with tanh on the first token's output. Default True.
        output_layers: numbers of blocks, from 1 to `num_layers`, ascending: the vectors of all
            tokens after those blocks are outputs too, see `NestedLayers`. Default ().
        l2: must be 0.0, since BERT has no kernels that Model Garden regularises. Default 0.0.

    Input shape:
        A dict of "input_word_ids", "input_mask" (1 for tokens, 0 for padding) and
        "input_type_ids", each int (batch, length).

    Output shape:
        A dict of "sequence_output" (batch, length, hidden_size), with `pooler` "pooled_output"
        (batch, hidden_size), and for each N of `output_layers` "layerN" (batch, length,
        hidden_size).

    Raises:
        ImportError: tf-models-official is not installed.
        ValueError: an argument out of range, an unknown stage, other inputs.

    Example:

    >>> import keras
    >>> from mrl_keras.models import GardenBert
    >>> bert = GardenBert(100, hidden_size=16, num_layers=2, num_heads=2, inner_dim=32)
    >>> names = ["input_word_ids", "input_mask", "input_type_ids"]
    >>> outputs = bert({name: keras.Input((None,), dtype="int32", name=name) for name in names})
    >>> outputs["sequence_output"].shape, outputs["pooled_output"].shape
    ((None, None, 16), (None, 16))
    >>> tuple(bert.embeddings.shape)
    (100, 16)

    Source: arXiv 1810.04805.
    """

    def __init__(
        self,
        vocab_size=30522,
        hidden_size=768,
        num_layers=12,
        num_heads=12,
        inner_dim=3072,
        max_length=512,
        frozen=(),
        **kwargs,
    ):
        options, kwargs = split_options(BertOptions, kwargs)
        super().__init__(options, **kwargs)
        self.vocab_size = whole_number(vocab_size, "`vocab_size`")
        self.hidden_size = whole_number(hidden_size, "`hidden_size`")
        self.num_layers = whole_number(num_layers, "`num_layers`")
        self.num_heads = whole_number(num_heads, "`num_heads`")
        self.inner_dim = whole_number(inner_dim, "`inner_dim`")
        self.max_length = whole_number(max_length, "`max_length`")
        heads_divide_width(self.num_heads, self.hidden_size)
        check_layers(self.output_layers, self.num_layers)
        if self.l2:
            raise ValueError(
                f"`l2` must be 0: Model Garden's BERT regularises nothing. Received {self.l2}. "
                "Use an optimizer with `weight_decay`."
            )
        self._adopt(frozen)

    def _build_network(self):
        import tf_keras
        from official.nlp.modeling.networks import BertEncoder

        network = BertEncoder(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            max_sequence_length=self.max_length,
            type_vocab_size=self.type_vocab_size,
            inner_dim=self.inner_dim,
            output_dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            dict_outputs=True,
        )
        names = ["sequence_output"] + ["pooled_output"] * self.pooler
        outputs = {name: network.output[name] for name in names}
        for number in self.output_layers:
            outputs[layer_name(number)] = network.output["encoder_outputs"][number - 1]
        inputs = dict(zip(INPUTS, network.inputs, strict=True))
        return network, tf_keras.Model(inputs, outputs)

    def _stage_layers(self):
        blocks = self.network.transformer_layers
        pooler = self.network.pooler_layer
        others = [*blocks, pooler]
        embeddings = [
            layer
            for layer in self.network.layers
            if layer.weights and not any(layer is other for other in others)
        ]
        stages = {"embeddings": embeddings}
        stages.update({f"block{i}": [block] for i, block in enumerate(blocks)})
        return {**stages, "pooler": [pooler]} if self.pooler else stages

    @property
    def embeddings(self):
        """The word embedding table, a `keras.Variable` (vocab_size, hidden_size)."""
        return self._adopted_variable(self.network.get_embedding_table())

    def call(self, inputs, training=None):
        _check_inputs(inputs)
        return super().call({name: inputs[name] for name in INPUTS}, training=training)

    def compute_output_spec(self, inputs, training=None):
        _check_inputs(inputs)
        length = inputs["input_word_ids"].shape[1]
        if length is not None and length > self.max_length:
            raise ValueError(
                f"The inputs' length must not exceed `max_length` {self.max_length}. "
                f"Received {length}."
            )
        return super().compute_output_spec(inputs, training=training)

    def compute_output_shape(self, input_shape):
        batch, length = input_shape["input_word_ids"]
        sequences = ["sequence_output", *map(layer_name, self.output_layers)]
        shapes = dict.fromkeys(sequences, (batch, length, self.hidden_size))
        return {**shapes, "pooled_output": (batch, self.hidden_size)} if self.pooler else shapes

    def get_config(self):
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "inner_dim": self.inner_dim,
            "max_length": self.max_length,
        }


def _check_inputs(inputs):
    if not isinstance(inputs, dict) or not set(INPUTS) <= set(inputs):
        received = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(f"GardenBert takes a dict of {', '.join(INPUTS)}. Received {received}.")
