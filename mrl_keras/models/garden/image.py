"""Image networks of Model Garden as Keras layers: ResNet and VisionTransformer."""

import dataclasses

from mrl_keras.checks import whole_number
from mrl_keras.models.garden.backbone import (
    GardenBackbone,
    check_layers,
    fraction,
    layer_name,
    split_options,
)
from mrl_keras.registry import register


@dataclasses.dataclass(frozen=True)
class ResNetOptions:
    """The options of `GardenResNet`, which documents them."""

    stem_type: str = "v0"
    resnetd_shortcut: bool = False
    replace_stem_max_pool: bool = False
    se_ratio: float | None = None
    stochastic_depth: float = 0.0
    activation: str = "relu"
    synchronized: bool = True
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5

    def __post_init__(self):
        _one_of(self.stem_type, ("v0", "v1"), "`stem_type`")
        if self.se_ratio:
            fraction(self.se_ratio, "`se_ratio`")
        for name in ("stochastic_depth", "norm_momentum"):
            fraction(getattr(self, name), f"`{name}`")


@register
class GardenResNet(GardenBackbone):
    """Model Garden's ResNet (or ResNet-D, ResNet-RS) as a Keras layer.

    Stages: "stem", "stage2", "stage3", "stage4", "stage5", as conv2 to conv5 of the ResNet
    paper.

    Args:
        model_id: int, the depth: 10, 18, 26, 34, 50, 101, 152, 200, 270, 350 or 420. Default
            50.
        depth_multiplier: float, the factor of all widths. Default 1.0: 64 to 512 channels, of
            50 layers on to 2,048.
        last_stage: int, 2 to 5: later stages are left out. Default 5.
        pooling: "avg" gives the mean over the image, None the feature map. Default "avg".
        image_shape: (height, width, channels); None where it varies. Default (None, None, 3).
        frozen: names of stages that are not trained. Default ().
        **kwargs: the options below, and `name`, `dtype`, `trainable`.

    Options:
        stem_type: "v0", one 7 x 7 convolution, or "v1", three 3 x 3 ones. Default "v0".
        resnetd_shortcut: bool, average pooling in the shortcuts (ResNet-D). Default False.
        replace_stem_max_pool: bool, a convolution instead of the stem's max pooling (ResNet-RS).
            Default False.
        se_ratio: float, ratio of squeeze and excitation; None is without. Default None.
        stochastic_depth: float in [0, 1), the rate at which the last stage's residual branches
            are dropped in training. Default 0.0.
        activation: str, name of an activation in Model Garden. Default "relu".
        synchronized: bool, batch statistics over all replicas. Default True.
        norm_momentum: float in [0, 1), of the moving statistics. Default 0.9.
        norm_epsilon: float, of batch normalisation. Default 1e-5.
        l2: float, the factor of the sum of squares of each convolution's kernel, as a
            regularisation loss. Default 0.0.

    Input shape:
        (batch, height, width, channels), normalised floats.

    Output shape:
        (batch, d), or without pooling (batch, height / 2**last_stage, width / 2**last_stage,
        d), rounded up.

    Raises:
        ImportError: tf-models-official is not installed.
        ValueError: an argument out of range, an unknown stage.

    Example:

    >>> import keras
    >>> from mrl_keras.models import GardenResNet
    >>> resnet = GardenResNet(18, depth_multiplier=0.125, frozen=["stem"])
    >>> resnet(keras.Input((32, 32, 3))).shape
    (None, 64)
    >>> resnet.stages
    ('stem', 'stage2', 'stage3', 'stage4', 'stage5')
    >>> resnet.frozen = ()

    Source: arXiv 1512.03385; arXiv 2103.07579.
    """

    def __init__(
        self,
        model_id=50,
        depth_multiplier=1.0,
        last_stage=5,
        pooling="avg",
        image_shape=(None, None, 3),
        frozen=(),
        **kwargs,
    ):
        options, kwargs = split_options(ResNetOptions, kwargs)
        super().__init__(options, **kwargs)
        self.model_id = whole_number(model_id, "`model_id`")
        self.depth_multiplier = float(depth_multiplier)
        self.last_stage = _one_of(last_stage, (2, 3, 4, 5), "`last_stage`")
        self.pooling = _one_of(pooling, ("avg", None), "`pooling`")
        self.image_shape = checked_image_shape(image_shape)
        if int(64 * self.depth_multiplier) < 1:
            raise ValueError(
                "`depth_multiplier` must leave at least 1 of 64 channels. "
                f"Received {depth_multiplier}."
            )
        self._adopt(frozen)
        self.input_spec = _image_spec(self.image_shape)

    def _build_network(self):
        import tf_keras
        from official.vision.modeling.backbones import resnet

        _one_of(self.model_id, tuple(resnet.RESNET_SPECS), "`model_id`")
        network = resnet.ResNet(
            model_id=self.model_id,
            input_specs=tf_keras.layers.InputSpec(shape=[None, *self.image_shape]),
            depth_multiplier=self.depth_multiplier,
            stem_type=self.stem_type,
            resnetd_shortcut=self.resnetd_shortcut,
            replace_stem_max_pool=self.replace_stem_max_pool,
            se_ratio=self.se_ratio,
            init_stochastic_depth_rate=self.stochastic_depth,
            activation=self.activation,
            use_sync_bn=self.synchronized,
            norm_momentum=self.norm_momentum,
            norm_epsilon=self.norm_epsilon,
            kernel_regularizer=_l2(self.l2),
        )
        output = network.output[str(self.last_stage)]
        if self.pooling == "avg":
            output = tf_keras.layers.GlobalAveragePooling2D(name="pooling")(output)
        return network, tf_keras.Model(network.inputs, output)

    def _stage_layers(self):
        names = {f"block_group_l{i}": f"stage{i}" for i in range(2, self.last_stage + 1)}
        stages, current = {"stem": []}, []
        for layer in self.network.layers:
            # The stem ends where the first block begins, a block group at its linear layer.
            if "stage2" not in stages and type(layer).__name__ in BLOCKS and not stages["stem"]:
                stages["stem"], current = current, []
            current.append(layer)
            if layer.name in names:
                stages[names[layer.name]], current = current, []
        return stages

    def compute_output_shape(self, input_shape):
        shape = self._hidden.forward.compute_output_shape(tuple(input_shape))
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "model_id": self.model_id,
            "depth_multiplier": self.depth_multiplier,
            "last_stage": self.last_stage,
            "pooling": self.pooling,
            "image_shape": list(self.image_shape),
        }


BLOCKS = ("ResidualBlock", "BottleneckBlock")


@dataclasses.dataclass(frozen=True)
class ViTOptions:
    """The options of `GardenViT`, which documents them."""

    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    pooler: str = "token"
    output_layers: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "output_layers", tuple(self.output_layers))
        for name in ("dropout", "attention_dropout", "stochastic_depth"):
            fraction(getattr(self, name), f"`{name}`")
        _one_of(self.pooler, ("token", "gap", "none"), "`pooler`")


@register
class GardenViT(GardenBackbone):
    """Model Garden's VisionTransformer as a Keras layer. The defaults are ViT-B/16 at 224 px.

    Stages: "stem" (patches, class token, positions), "block0", "block1", ..., and "norm", the last
    layer normalisation.

    Args:
        patch_size: int, pixels of a patch's side; it divides the image's sides. Default 16.
        hidden_size: int, the width d. Default 768.
        num_layers: int, transformer blocks. Default 12.
        num_heads: int, attention heads; it divides `hidden_size`. Default 12.
        mlp_dim: int, the width inside each block's perceptron. Default 3072.
        image_shape: (height, width, channels), ints. Default (224, 224, 3).
        frozen: names of stages that are not trained. Default ().
        **kwargs: the options below, and `name`, `dtype`, `trainable`.

    Options:
        dropout: float in [0, 1). Default 0.0.
        attention_dropout: float in [0, 1). Default 0.0.
        stochastic_depth: float in [0, 1), the rate at which the last block's residual branches
            are dropped in training. Default 0.0.
        pooler: "token" is the class token's output, "gap" the mean over the patches, "none"
            the outputs of all patches. Default "token".
        output_layers: numbers of blocks, from 1 to `num_layers`, ascending: what the network would
            give if it ended after each of those, see `NestedLayers`. Default (), its end alone.
        l2: float, the factor of the sum of squares of each kernel, as a regularisation loss.
            Default 0.0.

    Input shape:
        (batch, height, width, channels), normalised floats.

    Output shape:
        (batch, hidden_size); with pooler "none" (batch, patches, hidden_size). With
        `output_layers` a dict of "layerN" of that shape for each N.

    Raises:
        ImportError: tf-models-official is not installed.
        ValueError: an argument out of range, an unknown stage.

    Example:

    >>> import keras
    >>> from mrl_keras.models import GardenViT
    >>> vit = GardenViT(8, hidden_size=16, num_layers=2, num_heads=2, mlp_dim=32,
    ...                 image_shape=(32, 32, 3))
    >>> vit(keras.Input((32, 32, 3))).shape
    (None, 16)
    >>> vit.stages
    ('stem', 'block0', 'block1', 'norm')

    Source: arXiv 2010.11929.
    """

    def __init__(
        self,
        patch_size=16,
        hidden_size=768,
        num_layers=12,
        num_heads=12,
        mlp_dim=3072,
        image_shape=(224, 224, 3),
        frozen=(),
        **kwargs,
    ):
        options, kwargs = split_options(ViTOptions, kwargs)
        super().__init__(options, **kwargs)
        self.patch_size = whole_number(patch_size, "`patch_size`")
        self.hidden_size = whole_number(hidden_size, "`hidden_size`")
        self.num_layers = whole_number(num_layers, "`num_layers`")
        self.num_heads = whole_number(num_heads, "`num_heads`")
        self.mlp_dim = whole_number(mlp_dim, "`mlp_dim`")
        self.image_shape = checked_image_shape(image_shape)
        heads_divide_width(self.num_heads, self.hidden_size)
        check_layers(self.output_layers, self.num_layers)
        if any(n is None or n % self.patch_size for n in self.image_shape[:2]):
            raise ValueError(
                f"The height and width of `image_shape` must be multiples of `patch_size` "
                f"{self.patch_size}. Received {self.image_shape}."
            )
        self._adopt(frozen)
        self.input_spec = _image_spec(self.image_shape)

    def _build_network(self):
        import tf_keras
        from official.vision.modeling.backbones import vit

        network = vit.VisionTransformer(
            mlp_dim=self.mlp_dim,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            attention_dropout_rate=self.attention_dropout,
            dropout_rate=self.dropout,
            init_stochastic_depth_rate=self.stochastic_depth,
            input_specs=tf_keras.layers.InputSpec(shape=[None, *self.image_shape]),
            patch_size=self.patch_size,
            hidden_size=self.hidden_size,
            pooler=self.pooler,
            kernel_regularizer=_l2(self.l2),
        )
        if self.output_layers:
            return network, tf_keras.Model(network.inputs, self._layer_outputs(network))
        if self.pooler == "none":
            output = network.output["encoded_tokens"]
        else:
            output = network.output["pre_logits"]
            output = tf_keras.layers.Reshape((self.hidden_size,), name="embedding")(output)
        return network, tf_keras.Model(network.inputs, output)

    def _layer_outputs(self, network):
        """The encoder's own steps once more: Model Garden gives the last block's output alone."""
        import tensorflow as tf

        encoder, found = _encoder(network), {}
        x = encoder._dropout(encoder._pos_embed(encoder.input))
        for number, block in enumerate(encoder._encoder_layers, start=1):
            x = block(x)
            if number in self.output_layers:
                output = encoder._norm(x)
                if self.pooler == "token":
                    output = output[:, 0]
                elif self.pooler == "gap":
                    output = tf.reduce_mean(output, axis=1)
                found[layer_name(number)] = output
        return found

    def _stage_layers(self):
        layers, encoder = self.network.layers, _encoder(self.network)
        parts = [encoder._pos_embed]
        stem = [layer for layer in layers[: layers.index(encoder)] if layer.weights]
        blocks = {f"block{i}": [block] for i, block in enumerate(encoder._encoder_layers)}
        return {"stem": stem + parts, **blocks, "norm": [encoder._norm]}

    def compute_output_shape(self, input_shape):
        patches = (self.image_shape[0] // self.patch_size) * (
            self.image_shape[1] // self.patch_size
        )
        tokens = (patches,) if self.pooler == "none" else ()
        shape = (input_shape[0], *tokens, self.hidden_size)
        return dict.fromkeys(map(layer_name, self.output_layers), shape) or shape

    def get_config(self):
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "image_shape": list(self.image_shape),
        }


def _encoder(network):
    """The layer of a VisionTransformer that holds its blocks."""
    return next(layer for layer in network.layers if type(layer).__name__ == "Encoder")


def checked_image_shape(shape):
    """`shape` as a tuple (height, width, channels); height and width may be None."""
    shape = tuple(shape)
    if len(shape) != 3 or shape[2] is None:
        raise ValueError(f"`image_shape` must be (height, width, channels). Received {shape}.")
    return tuple(n if n is None else whole_number(n, "Each of `image_shape`") for n in shape)


def heads_divide_width(heads, width):
    """Refuse a number of attention heads that does not divide the width."""
    if width % heads:
        raise ValueError(f"`num_heads` must divide `hidden_size` {width}. Received {heads}.")


def _image_spec(shape):
    import keras

    return keras.layers.InputSpec(ndim=4, axes={3: shape[2]})


def _l2(factor):
    import tf_keras

    return tf_keras.regularizers.l2(factor) if factor else None


def _one_of(value, known, what):
    if value not in known:
        raise ValueError(
            f"{what} must be one of {', '.join(map(repr, known))}. Received {value!r}."
        )
    return value
