"""Backbones and preprocessors of KerasHub, by class name or preset."""

import inspect

import keras

from mrl_keras.models.backbones.resnet import IMAGENET_DEVIATION, IMAGENET_MEAN
from mrl_keras.models.pooling import pooled

TEXT_PREPROCESSORS = ("TextEmbedderPreprocessor", "TextClassifierPreprocessor")
IMAGE_PREPROCESSORS = ("ImageClassifierPreprocessor",)


def keras_hub_module():
    """The package `keras_hub`, with a clear error where it is not installed."""
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            'This needs KerasHub. Install it with: pip install "mrl_keras[hub]".'
        ) from error
    return keras_hub


def hub_backbone(name, freeze=False, lora_rank=None, **options):
    """A backbone of KerasHub.

    Args:
        name: the class, such as "BertBackbone", for random weights; or a preset: a name that
            KerasHub knows, the address of a model on Kaggle or Hugging Face, or a local folder
            that `save_to_preset` wrote.
        freeze: bool, train none of its weights. Default False.
        lora_rank: int, train LoRA matrices of this rank, and the biases beside them, in the
            queries and values of its attention layers, and nothing else of it. Default None.
        **options: arguments of the class, or of `from_preset`, such as `dtype="mixed_bfloat16"`.

    Returns:
        `keras_hub.models.Backbone`.

    Raises:
        ImportError: KerasHub is not installed.
        ValueError: an option that the class does not take, or no such preset.

    Example:

    >>> from mrl_keras.models.hub import hub_backbone
    >>> backbone = hub_backbone(
    ...     "DistilBertBackbone", vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=8,
    ...     intermediate_dim=16, max_sequence_length=16)
    >>> backbone.output_shape
    (None, None, 8)
    """
    models = keras_hub_module().models
    of = getattr(models, str(name), None)
    try:
        if inspect.isclass(of) and issubclass(of, models.Backbone):
            backbone = of(**options)
        else:
            backbone = models.Backbone.from_preset(str(name), **options)
    except TypeError as error:
        raise ValueError(f"The backbone {name!r} does not take {options}: {error}") from error
    if lora_rank is not None:
        backbone.enable_lora(lora_rank)
    if freeze:
        backbone.trainable = False
    return backbone


def hub_preprocessor(preset, kinds, **options):
    """The preprocessor that a preset has, else the first of `kinds` that fits its backbone.

    Args:
        preset: as of `hub_backbone`.
        kinds: names of preprocessor classes of KerasHub, such as `TEXT_PREPROCESSORS`.
        **options: further arguments, such as `sequence_length`.

    Raises:
        ValueError: none fits.
    """
    models, errors = keras_hub_module().models, []
    for kind in kinds:
        try:
            return getattr(models, kind).from_preset(str(preset), **options)
        except (ValueError, FileNotFoundError) as error:
            errors.append(f"{kind}: {str(error).splitlines()[0]}")
    raise ValueError(
        f"The preset {preset!r} has no preprocessor that is known here: {'; '.join(errors)}. Give "
        "one, `preprocessor=...`."
    )


def hub_text_encoder(
    name, width=None, pooling="mean", output=None, freeze=False, lora_rank=None, **options
):
    """A text backbone of KerasHub, pooled to one embedding.

    Args:
        name: as of `hub_backbone`, which also explains `freeze`, `lora_rank` and `options`.
        width: int, the embedding width d; a linear layer maps the network's to it where it
            differs. Default None, the network's own.
        pooling: "mean" of the tokens' vectors, "cls", the first one, or None for an output that is
            one embedding, such as "pooled_output". Default "mean".
        output: str, which of several outputs: "sequence_output" or "pooled_output". Default None,
            the only one, else "sequence_output".
        freeze: bool. Default False.
        lora_rank: int. Default None.
        **options: as of `hub_backbone`.

    Returns:
        `keras.Model`: a dict of the backbone's inputs, such as "token_ids" and "padding_mask",
        each int32 (batch, length) -> (batch, d).

    Raises:
        ImportError: KerasHub is not installed.
        ValueError: what `hub_backbone` refuses, an unknown pooling or output.

    Example:

    >>> from mrl_keras.models import hub_text_encoder
    >>> small = {"vocabulary_size": 50, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    >>> hub_text_encoder("BertBackbone", width=6, intermediate_dim=16, **small).output_shape
    (None, 6)
    """
    backbone = hub_backbone(name, freeze, lora_rank, **options)
    return projected(pooled(backbone, pooling, sequence_or(output, backbone)), width)


def sequence_or(output, network):
    """`output`, or "sequence_output" where none is named and the network has several."""
    several = isinstance(network.output, dict) and "sequence_output" in network.output
    return "sequence_output" if output is None and several else output


def projected(encoder, width):
    """`encoder`, with a linear layer "embedding" to `width` behind it where it is another."""
    if width in (None, encoder.output_shape[-1]):
        return encoder
    embedding = keras.layers.Dense(width, name="embedding")(encoder.output)
    return keras.Model(encoder.input, embedding, name=encoder.name)


def hub_image_encoder(
    name,
    image_shape,
    pooling=None,
    output=None,
    preprocessing="own",
    freeze=False,
    lora_rank=None,
    **options,
):
    """An image backbone of KerasHub from raw images; see `image_backbone`."""
    keras_hub = keras_hub_module()
    of = getattr(keras_hub.models, str(name), None)
    if inspect.isclass(of) and "image_shape" in inspect.signature(of).parameters:
        options = {"image_shape": image_shape, **options}
    backbone = hub_backbone(name, freeze, lora_rank, **options)
    encoder = pooled(backbone, pooling, output)
    images = keras.Input(image_shape, name="images")
    taken = encoder.inputs[0].shape[1:]
    if len(encoder.inputs) != 1 or any(
        a not in (None, b) for a, b in zip(taken, image_shape, strict=True)
    ):
        raise ValueError(
            f"The backbone {name!r} must take images of the shape {tuple(image_shape)} alone. It "
            f"takes {[tuple(x.shape) for x in encoder.inputs]}: change `image_shape`."
        )
    x = _scaled(keras_hub, name, preprocessing, inspect.isclass(of))(images)
    packed = {next(iter(encoder.input)): x} if isinstance(encoder.input, dict) else x
    return keras.Model(images, encoder(packed), name=backbone.name)


def _scaled(keras_hub, name, preprocessing, random):
    """The layer from raw pixels to what the backbone was trained with."""
    if preprocessing not in ("own", "channels"):
        raise ValueError(f"`preprocessing` must be own or channels. Received {preprocessing!r}.")
    if random or preprocessing == "channels":
        variance = [deviation**2 for deviation in IMAGENET_DEVIATION]
        return keras.layers.Normalization(mean=IMAGENET_MEAN, variance=variance)
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(str(name))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"The preset {name!r} does not say how its images were scaled: pass "
            "preprocessing='channels' for ImageNet's mean and deviation of the channels."
        ) from error
    scale = 1.0 if converter.scale is None else converter.scale
    return keras.layers.Rescaling(scale, 0.0 if converter.offset is None else converter.offset)
