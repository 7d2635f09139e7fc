"""Any Keras network as an encoder (batch, d): one of its outputs, pooled."""

import keras
from keras import ops

from mrl_keras.registry import register

POOLINGS = ("mean", "cls")
# The names that networks give the mask of their tokens: Model Garden, KerasHub.
MASK_NAMES = ("input_mask", "padding_mask")


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

    >>> from mrl_keras.models.pooling import MaskedMean
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


def pooled(network, pooling=None, output=None):
    """A network's output as one embedding.

    Args:
        network: functional `keras.Model`, such as a backbone of KerasHub or `keras.applications`:
            any inputs -> (batch, d), vectors of tokens or patches (batch, length, d), a feature
            map (batch, height, width, d), or several of these by name.
        pooling: "mean" over tokens, padding left out where the network has an input "padding_mask"
            or "input_mask", or over the feature map; "cls", the first token's vector. Default
            None: the mean of a feature map, and for tokens an error that asks.
        output: str, which of several outputs, such as "pooled_output" or "sequence_output".
            Default None, the only one.

    Returns:
        `keras.Model`: the network's inputs -> (batch, d). It shares the network's weights, and is
        the network itself where that is an encoder already.

    Raises:
        ValueError: no functional model, an output or a pooling that there is not, or a choice that
            is left open.

    Example:

    >>> from mrl_keras.models.pooling import pooled
    >>> patches = keras.Input((9, 4))
    >>> pooled(keras.Model(patches, keras.layers.Dense(8)(patches)), pooling="cls").output_shape
    (None, 8)
    """
    network = functional(network)
    chosen = _chosen_output(network, output)
    embedding = pooled_output(network, chosen, pooling, "pooling")
    if embedding is chosen and not isinstance(network.output, dict | list):
        return network
    return keras.Model(network.input, embedding, name=network.name)


def pooled_output(network, chosen, pooling, name):
    """A symbolic tensor of a functional network as one embedding, by a layer called `name`."""
    rank = len(chosen.shape)
    if pooling is not None and pooling not in POOLINGS:
        raise ValueError(f"`pooling` must be one of {POOLINGS} or None. Received {pooling!r}.")
    if rank == 2 and chosen.shape[1] is not None:
        if pooling is not None:
            raise ValueError(
                f"`pooling` is for tokens and feature maps. Received pooling={pooling!r} for an "
                f"output {tuple(chosen.shape)}, which is one embedding: leave it None, or choose "
                f"another `output`.{_outputs_of(network)}"
            )
        embedding = chosen
    elif rank == 3 and pooling == "cls":
        embedding = chosen[:, 0]
    elif rank == 3 and pooling == "mean":
        mask = _mask_of(network)
        if mask is None:
            embedding = keras.layers.GlobalAveragePooling1D(name=name)(chosen)
        else:
            embedding = MaskedMean(name=name, dtype=chosen.dtype)([chosen, mask])
    elif rank == 4 and pooling != "cls":
        embedding = keras.layers.GlobalAveragePooling2D(name=name)(chosen)
    else:
        advice = ": choose one by `pooling='mean'` or `pooling='cls'`" if rank == 3 else ""
        raise ValueError(
            "The network must end in an embedding (batch, d), in vectors (batch, length, d) or in "
            f"a feature map (batch, height, width, d). Received pooling={pooling!r} and an output "
            f"{tuple(chosen.shape)}{advice}.{_outputs_of(network)}"
        )
    return embedding


def functional(network):
    """A functional or Sequential `keras.Model` as a functional one, which shares its layers.

    Raises:
        ValueError: another object, or a model that doesn't know its inputs.
    """
    if not isinstance(network, keras.Model) or not getattr(network, "inputs", None):
        raise ValueError(
            "The network must be a functional or Sequential keras.Model that knows its inputs. "
            f"Received {network!r}: call a layer on `keras.Input`s, and make a model of both."
        )
    if isinstance(network, keras.Sequential):
        return keras.Model(network.inputs[0], network.outputs[0], name=network.name)
    return network


def _chosen_output(network, output):
    outputs = network.output
    if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
        outputs = outputs[0]
    if isinstance(outputs, dict):
        if output is None and len(outputs) == 1:
            return next(iter(outputs.values()))
        if output in outputs:
            return outputs[output]
    elif output is None and not isinstance(outputs, (list, tuple)):
        return outputs
    raise ValueError(
        f"`output` must name one of the network's outputs. Received {output!r}."
        f"{_outputs_of(network) or ' The network has one output without a name: leave it None.'}"
    )


def _outputs_of(network):
    """ " The outputs are 'a' (None, 8), 'b' (None, 4).", or "" where they have no names."""
    if not isinstance(network.output, dict):
        return ""
    shown = (f"{name!r} {tuple(tensor.shape)}" for name, tensor in network.output.items())
    return f" The outputs are {', '.join(shown)}."


def _mask_of(network):
    named = network.input if isinstance(network.input, dict) else {}
    return next((named[name] for name in MASK_NAMES if name in named), None)
