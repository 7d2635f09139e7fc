"""Slimmable networks: one set of weights that runs at several widths."""

from __future__ import annotations

import keras
from keras import ops

from mrl_keras.nesting import NestingDims
from mrl_keras.registry import deserialize_argument, register

PAPER_WIDTHS = (0.25, 0.5, 0.75, 1.0)


@register
class Slimmable(keras.layers.Layer):
    """A convolution or dense layer that can run with its first channels alone.

        y = activation(x * W[..., :c, :round(r u)] + b[:round(r u)]),    c channels of x, u units

    Args:
        layer: `keras.layers.Conv2D` of one group or `keras.layers.Dense`, of the full width; it is
            copied without its weights.
        slim_outputs: bool, whether the outputs shrink with the width too; a classifier's don't.
            Default True.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: (batch, ..., c), c at most the channels that the layer was built with: build it,
            or call it first, at the full width.
        width: float above 0 and at most 1, r. Default 1.0.

    Output shape:
        that of `layer`, with round(r u) channels.

    Raises:
        ValueError: another kind of layer, a width out of range, more channels than the weights
            have, or a width that leaves no channel.

    Example:

    >>> import numpy as np
    >>> from mrl_keras.baselines import Slimmable
    >>> layer = Slimmable(keras.layers.Dense(8))
    >>> layer(np.ones((1, 4))).shape[-1], layer(np.ones((1, 2)), width=0.5).shape[-1]
    (8, 4)

    Source: Yu et al., "Slimmable Neural Networks", arXiv 1812.08928.
    """

    def __init__(self, layer, slim_outputs=True, **kwargs):
        super().__init__(**kwargs)
        plain = type(layer) in (keras.layers.Conv2D, keras.layers.Dense)
        last = getattr(layer, "data_format", None) in (None, "channels_last")
        if not plain or getattr(layer, "groups", 1) != 1 or not last:
            raise ValueError(
                "`layer` must be a keras.layers.Dense, or a keras.layers.Conv2D with one group and "
                f"channels last. Received {layer!r}."
            )
        self.layer = _copy(layer)
        self.slim_outputs = bool(slim_outputs)

    def build(self, input_shape):
        self.layer.build(input_shape)
        self.built = True

    def call(self, inputs, width=1.0):
        if self.layer.quantization_mode is not None:
            raise ValueError(
                "The weights of a slimmable network are cut, which quantised ones can't be. "
                f"Received {self.name!r} with {self.layer.dtype_policy.name!r}: quantise a plain "
                "network."
            )
        channels, units = inputs.shape[-1], self._units(width)
        if channels > self.layer.kernel.shape[-2]:
            raise ValueError(
                f"The weights take at most {self.layer.kernel.shape[-2]} channels. Received "
                f"inputs of shape {tuple(inputs.shape)}; build the layer at the full width first."
            )
        kernel = self.layer.kernel[..., :channels, :units]
        if isinstance(self.layer, keras.layers.Dense):
            outputs = ops.matmul(inputs, kernel)
        else:
            outputs = ops.conv(
                inputs,
                kernel,
                strides=list(self.layer.strides),
                padding=self.layer.padding,
                dilation_rate=self.layer.dilation_rate,
            )
        if self.layer.use_bias:
            outputs = ops.add(outputs, self.layer.bias[:units])
        return self.layer.activation(outputs)

    def compute_output_spec(self, inputs, width=1.0):
        shape = (*self.compute_output_shape(inputs.shape)[:-1], self._units(width))
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """At the full width."""
        return self.layer.compute_output_shape(input_shape)

    def _units(self, width):
        full = self.layer.units if isinstance(self.layer, keras.layers.Dense) else None
        full = full or self.layer.filters
        return _channels(full, width) if self.slim_outputs else full

    def get_config(self):
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "slim_outputs": self.slim_outputs,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_argument(config, "layer", keras.saving.deserialize_keras_object))


def slimmable_dims(width: int, widths=PAPER_WIDTHS) -> NestingDims:
    """The embedding width at each of the network's `widths`, as `NestingDims`.

    Args:
        width: int, d, the embedding width of the whole network.
        widths: floats, ascending, the last 1. Default (0.25, 0.5, 0.75, 1.0).

    Raises:
        ValueError: widths that don't ascend to 1, or that two embeddings share.

    >>> list(slimmable_dims(64))
    [16, 32, 48, 64]
    """
    if not len(widths) or widths[-1] != 1.0:
        raise ValueError(f"`widths` must end at 1, the whole network. Received {widths!r}.")
    return NestingDims([_channels(width, one) for one in widths], width=width)


def slimmable_classifier(backbone, units, widths=PAPER_WIDTHS):
    """A classifier that runs at several widths, made after a backbone of full width.

    At width r every convolution and dense layer uses its first round(r u) of u channels, and so
    the embedding has round(r d) components. Weights are shared by all widths except batch
    normalisation, of which each width has its own (switchable batch normalisation), since their
    statistics differ. The classifier reads the embedding of each width with the first rows of one
    kernel. Training with `MatryoshkaLoss` sums the losses of all widths, as the source does.

    The embedding of a smaller width is not a prefix of a larger one's: each width needs a forward
    pass of its own, of about r^2 of the multiplications. `subnetwork` gives one width's pass.

    Args:
        backbone: `keras.Model`, images -> (batch, d), with one input, of `Conv2D`, `Dense`,
            `BatchNormalization` and layers without weights, each used once: "small_resnet",
            "small_convnet" and "resnet" of `image_backbone`, among others. Its weights are not
            taken over.
        units: int, the number of classes.
        widths: floats, ascending, the last 1. Default (0.25, 0.5, 0.75, 1.0).

    Returns:
        `keras.Model`: images -> logits (batch, widths, units). The embedding of round(r d) dims
        is the output of its layer "embedding_at_DIM".

    Raises:
        ValueError: widths that don't ascend to 1, a layer with weights that cannot be slimmed, or
            a layer that is used twice.

    Example:

    >>> from mrl_keras.baselines import slimmable_classifier
    >>> from mrl_keras.models.backbones.small_resnet import small_resnet
    >>> model = slimmable_classifier(small_resnet((32, 32, 3), width=64), units=10)
    >>> model.output_shape, model.get_layer("embedding_at_16").output.shape
    ((None, 4, 10), (None, 16))

    Source: arXiv 1812.08928, Section 3; arXiv 2205.13147, Section 4.1, Tables 1 and 2.
    """
    dims = slimmable_dims(backbone.output_shape[-1], widths)
    images = keras.Input(backbone.input_shape[1:], name="images")
    values = {id(backbone.input): [images] * len(widths)}
    for operation in backbone.operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        values[id(operation.output)] = _at_widths(operation, _inputs(operation, values), widths)
    embeddings = [
        keras.layers.Identity(name=f"embedding_at_{dim}")(one)
        for dim, one in zip(dims, _known(backbone.output, values), strict=True)
    ]
    head = Slimmable(keras.layers.Dense(units), slim_outputs=False, name="head")
    head.build(embeddings[-1].shape)
    logits = [head(one, width=r) for one, r in zip(embeddings, widths, strict=True)]
    return keras.Model(images, ops.stack(logits, axis=1), name=f"{backbone.name}_slimmable")


def subnetwork(model, dim: int):
    """The network of one width alone, sharing its weights with the `slimmable_classifier`.

    Args:
        model: `keras.Model` that `slimmable_classifier` made.
        dim: int, its embedding width there.

    Returns:
        `keras.Model`: images -> embedding (batch, dim).

    Raises:
        ValueError: no width has this embedding width.
    """
    name = f"embedding_at_{dim}"
    known = [x.name for x in model.layers if x.name.startswith("embedding_at_")]
    if name not in known:
        raise ValueError(f"The model has the embeddings {known}. Received dim={dim!r}.")
    return keras.Model(model.input, model.get_layer(name).output, name=f"{model.name}_{dim}")


def _channels(full: int, width: float) -> int:
    """round(width * full), at least one."""
    if not 0.0 < width <= 1.0:
        raise ValueError(f"A width must be above 0 and at most 1. Received {width!r}.")
    if round(width * full) < 1:
        raise ValueError(f"The width {width} leaves none of {full} channels.")
    return round(width * full)


def _inputs(operation, values):
    """What an operation of the backbone reads, for each width: a tensor, or a list of several."""
    given = operation.input
    if isinstance(given, (list, tuple)):
        return [list(one) for one in zip(*(_known(x, values) for x in given), strict=True)]
    return _known(given, values)


def _known(tensor, values):
    if id(tensor) not in values:
        raise ValueError(
            "Every layer of a slimmable network is used once. Received one that is used more "
            f"often, or that reads another input: the tensor {tensor.name!r} has no known source."
        )
    return values[id(tensor)]


def _at_widths(operation, inputs, widths):
    """An operation of the backbone at each width; layers before the first weights run once."""
    if isinstance(operation, (keras.layers.Conv2D, keras.layers.Dense)):
        shared = Slimmable(operation, name=operation.name, dtype=operation.dtype_policy)
        shared.build(inputs[-1].shape)
        return [shared(x, width=r) for x, r in zip(inputs, widths, strict=True)]
    switchable = isinstance(operation, keras.layers.BatchNormalization)
    if not isinstance(operation, keras.layers.Layer) or (operation.weights and not switchable):
        raise ValueError(
            "A slimmable network is made of Conv2D, Dense, BatchNormalization and layers without "
            f"weights. Received {operation!r}."
        )
    if not switchable and all(x is inputs[0] for x in inputs):
        return [_copy(operation)(inputs[0])] * len(widths)
    names = [f"{operation.name}_at_{round(100 * r)}" for r in widths]
    return [_copy(operation, name)(x) for name, x in zip(names, inputs, strict=True)]


def _copy(layer, name=None):
    config = layer.get_config()
    return type(layer).from_config({**config, "name": name} if name else config)
