"""Embeddings of several layers of one network, to train and to serve less than all of it."""

import keras

from mrl_keras.models.pair_training import Untracked
from mrl_keras.models.pooling import functional, pooled_output
from mrl_keras.registry import deserialize_argument, register


@register
class NestedLayers(keras.Model):
    """The embeddings of several layers of one network, nested in layers as well as in dims.

    Trained with a `MatryoshkaLoss` at each layer,

    loss = sum over layers l and prefixes m of c_lm * L(y, z_l[..., :m]),

    the network may be left after any of these layers, with any of the prefixes. The forward pass is
    that of the deepest layer. Weights of 0 in a layer's `relative_importance` leave pairs (l, m)
    out; `loss_weights` of `compile` weigh whole layers.

    Args:
        network: functional `keras.Model`, a transformer for example: any inputs -> one or several
            outputs.
        layer_names: list of str, shallow layers first. Each is one of the network's outputs by
            name, such as "layer4" of `GardenBert(..., output_layers=[4, 8, 12])` and of
            `GardenViT`, or one of its Keras layers, such as "transformer_layer_3" of KerasHub's
            BERT.
        pooling: "mean" or "cls" of vectors of tokens or patches, see `pooled`. Default None, for
            layers that give (batch, d) or a feature map.
        width: int, the embedding width d; one linear layer maps those of all layers to it. Default
            None, the layers' own.
        **kwargs: `name`, `trainable`.

    Input shape:
        Those of `network`.

    Output shape:
        A dict of (batch, d) by `layer_names`.

    Raises:
        ValueError: a network that is not functional, a layer that it doesn't have or that is named
            twice, widths that differ, or what `pooled` refuses.

    Example:

    >>> from mrl_keras import MatryoshkaDense, MatryoshkaLoss
    >>> from mrl_keras.models import NestedLayers
    >>> x = inputs = keras.Input((4,))
    >>> for number in (1, 2, 3):
    ...     x = keras.layers.Dense(8, "relu", name=f"layer{number}")(x)
    >>> nested = NestedLayers(keras.Model(inputs, x), ["layer1", "layer3"])
    >>> model = keras.Model(nested.input, {
    ...     name: MatryoshkaDense(3, [2, 8])(embedding)
    ...     for name, embedding in nested.output.items()})
    >>> crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("sgd", {name: MatryoshkaLoss(crossentropy) for name in nested.layer_names})
    >>> labels = np.array([0, 1, 2, 0])
    >>> history = model.fit(np.eye(4), dict.fromkeys(nested.layer_names, labels), verbose=0)
    >>> nested.encoder("layer1").count_params(), nested.count_params()
    (40, 184)

    Source: arXiv 2402.14776 (2D Matryoshka sentence embeddings), which also draws layers at random
    and pulls earlier ones to the last; here all are trained at once, as the prefixes are.
    """

    def __init__(self, network, layer_names, pooling=None, width=None, **kwargs):
        network, names = functional(network), list(layer_names)
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"`layer_names` must name at least one layer, and none twice. Received {names}."
            )
        found = {
            name: pooled_output(network, _tensor(network, name), pooling, f"{name}_pooling")
            for name in names
        }
        widths = {name: embedding.shape[-1] for name, embedding in found.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"The layers must give embeddings of one width. Received {widths}.")
        if width is not None:
            dense = keras.layers.Dense(width, name="embedding")
            found = {name: dense(embedding) for name, embedding in found.items()}
        super().__init__(inputs=network.input, outputs=found, **kwargs)
        self._given = Untracked(network=network)
        self.layer_names, self.pooling, self.width = names, pooling, width

    @property
    def network(self):
        """The network as a functional model, which shares all weights."""
        return self._given.network

    def encoder(self, layer_name):
        """The network up to one layer, an encoder (batch, d) for `fit`, `cut`, indexes and exports.

        It shares the weights and has none of the later Keras layers. A network of Model Garden is
        one Keras layer: there its later blocks stay among the weights, and a compiled call or an
        export does not run them.

        Args:
            layer_name: str, one of `layer_names`.

        Raises:
            ValueError: another name.
        """
        if layer_name not in self.layer_names:
            raise ValueError(
                f"`layer_name` must be one of {self.layer_names}. Received {layer_name!r}."
            )
        return keras.Model(self.input, self.output[layer_name], name=f"{self.name}_{layer_name}")

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "network": keras.saving.serialize_keras_object(self.network),
            "layer_names": list(self.layer_names),
            "pooling": self.pooling,
            "width": self.width,
        }

    @classmethod
    def from_config(cls, config):
        revive = keras.saving.deserialize_keras_object
        return cls(**deserialize_argument(config, "network", revive))


def _tensor(network, name):
    """The symbolic output of a network, or of one of its layers, that has this name."""
    outputs = network.output if isinstance(network.output, dict) else {}
    if name in outputs:
        return outputs[name]
    known = [layer.name for layer in network.layers]
    if name not in known:
        raise ValueError(
            "Each of `layer_names` must be an output or a layer of the network. Received "
            f"{name!r}; its outputs are {list(outputs)} and its layers {known}."
        )
    return network.get_layer(name).output
