"""An encoder or a classifier that ends at one prefix, for deployment."""

import keras

from mrl_keras.checks import whole_number
from mrl_keras.layers import MatryoshkaDense
from mrl_keras.models.pooling import functional


def cut(model, dim, normalize=False):
    """A model that computes one prefix alone.

    Where the embedding comes from a dense layer, the columns behind the prefix are left out of it,
    and of a classifier's head the prefix's own kernel is kept, so that the saved model is smaller.
    All other layers are the model's own.

    Args:
        model: functional `keras.Model` to an embedding (batch, d), or to the logits (batch,
            prefixes, units) of a `MatryoshkaDense`.
        dim: int, the prefix: 1 to d; of a classifier a prefix that its head can evaluate.
        normalize: bool, L2-normalise the prefix; of an embedding only. Default False.

    Returns:
        `keras.Model`: the same inputs -> (batch, dim), or logits (batch, units).

    Raises:
        ValueError: another kind of output, a `dim` out of range, or `normalize` of a classifier.

    Example:

    >>> from mrl_keras.models import cut, image_classifier, small_convnet
    >>> encoder = small_convnet((8, 8, 1), width=64)
    >>> cut(encoder, 8, normalize=True).output_shape
    (None, 8)
    >>> cut(image_classifier(encoder, 10, [8, 64]), 8).output_shape
    (None, 10)

    Source: arXiv 2205.13147, Section 3.
    """
    dim, model = whole_number(dim, "`dim`"), functional(model)
    output = model.output
    history = getattr(output, "_keras_history", None)
    head = None if history is None else history.operation
    if isinstance(head, MatryoshkaDense) and len(output.shape) == 3:
        if normalize:
            raise ValueError("`normalize` is for embeddings. Received a classifier.")
        embedding = _read_by(output)
        head.compute_output_shape(embedding.shape, dim)  # refuses other dims
        found = _prefix_head(head, dim)(_prefix(embedding, dim))
    elif len(getattr(output, "shape", ())) == 2 and output.shape[1] and dim <= output.shape[1]:
        found = _prefix(output, dim)
        if normalize:
            found = keras.layers.UnitNormalization(axis=-1, name="normalized")(found)
    else:
        raise ValueError(
            "`model` must end in an embedding (batch, d) with d at least `dim`, or in a "
            f"MatryoshkaDense. Received dim={dim} and the output {output!r}."
        )
    return keras.Model(model.input, found, name=f"{model.name}_{dim}")


def _read_by(tensor):
    """What the layer read when it made this tensor: a layer may be called more than once."""
    layer, call, _ = tensor._keras_history
    return layer._inbound_nodes[call].input_tensors[0]


def _prefix(embedding, dim):
    """The first `dim` components of a symbolic embedding; the others are not computed."""
    layer = embedding._keras_history.operation
    plain = type(layer) is keras.layers.Dense and layer.quantization_mode is None
    elementwise = (keras.activations.linear, keras.activations.relu, keras.activations.tanh)
    if not plain or layer.activation not in elementwise:
        return embedding[:, :dim]
    return _dense(layer, layer.kernel[:, :dim], layer.bias, dim)(_read_by(embedding))


def _prefix_head(head, dim):
    place = 0 if head.efficient else head.nesting_dims.index(dim)
    bias = head.biases[place] if head.use_bias else None
    return _dense(head, head.kernels[place][:dim], bias, head.units)


def _dense(layer, kernel, bias, units):
    """A dense layer like `layer`, with these weights."""
    made = keras.layers.Dense(
        units,
        activation=layer.activation,
        use_bias=bias is not None,
        dtype=layer.variable_dtype if layer.quantization_mode else layer.dtype_policy,
        name=layer.name,
    )
    made.build((None, kernel.shape[0]))
    made.set_weights([kernel] if bias is None else [kernel, bias[:units]])
    return made
