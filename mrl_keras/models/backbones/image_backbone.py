"""Image backbones by name: this package's, `keras.applications` and Model Garden's."""

from __future__ import annotations

import keras

from mrl_keras.models.backbones.resnet import IMAGENET_DEVIATION, IMAGENET_MEAN, resnet
from mrl_keras.models.backbones.small_convnet import small_convnet
from mrl_keras.models.backbones.small_resnet import small_resnet
from mrl_keras.models.garden.image import GardenResNet, GardenViT
from mrl_keras.models.hub import hub_image_encoder

NATIVE = {"small_convnet": small_convnet, "small_resnet": small_resnet, "resnet": resnet}
GARDEN = {"garden:resnet": GardenResNet, "garden:vit": GardenViT}


def image_backbone(name, image_shape, **options):
    """A network from raw images, 0 to 255, to an embedding.

    Args:
        name: "small_resnet", "small_convnet", "resnet" (the paper's ResNet50), "garden:resnet",
            "garden:vit", "applications:NAME" for a network of `keras.applications`, or "hub:NAME"
            for one of KerasHub: a class such as "hub:ViTBackbone", or a preset.
        image_shape: (height, width, channels); height and width may be None where the network
            takes any.
        **options: what that network takes, such as `width`. For "applications:NAME" also
            `preprocessing`: "own" is what Keras trained that network with, "channels" subtracts
            ImageNet's mean of each channel and divides by its deviation. Default "own" with
            pretrained `weights`, "channels" without. For "hub:NAME" also `preprocessing` ("own" is
            what the preset's image converter says), `pooling` ("mean" or "cls"), `output` (which
            of several), `freeze` and `lora_rank`.

    Returns:
        `keras.Model`: (batch, height, width, channels) -> (batch, d).

    Raises:
        ValueError: an unknown name, or an option that the network does not take.
        ImportError: a "garden:" network without tf-models-official, a "hub:" one without KerasHub.

    Any other Keras layer or model plugs in without a name: `image_classifier` takes every
    `keras.Model` from images to (batch, d), and by `pooling` those to patches.

    Example:

    >>> from mrl_keras.models import image_backbone
    >>> image_backbone("small_resnet", (32, 32, 3), width=64).output_shape
    (None, 64)
    >>> image_backbone("applications:MobileNetV2", (32, 32, 3), alpha=0.35).output_shape
    (None, 1280)
    """
    try:
        if name in NATIVE:
            return NATIVE[name](image_shape, **options)
        if name in GARDEN:
            return _normalized(GARDEN[name](image_shape=image_shape, **options), image_shape)
        kind, _, of = name.partition(":")
        if kind == "hub":
            return hub_image_encoder(of, image_shape, **options)
        if kind == "applications" and hasattr(keras.applications, of):
            made = getattr(keras.applications, of)
            options = {"weights": None, **options}
            kind = options.pop("preprocessing", "own" if options["weights"] else "channels")
            if kind not in ("own", "channels"):
                raise ValueError(f"`preprocessing` must be own or channels. Received {kind!r}.")
            network = made(include_top=False, pooling="avg", input_shape=image_shape, **options)
            if kind == "own":
                return _preprocessed(network, image_shape, made)
            return _normalized(network, image_shape)
    except TypeError as error:
        raise ValueError(f"The backbone {name!r} does not take {options}: {error}") from error
    known = [*NATIVE, *GARDEN, "applications:ResNet50", "hub:ViTBackbone"]
    raise ValueError(f"The backbone's name must be one of {known}. Received {name!r}.")


def _normalized(network, image_shape):
    """`network` behind ImageNet's mean and deviation of the channels."""
    images = keras.Input(image_shape, name="images")
    variance = [deviation**2 for deviation in IMAGENET_DEVIATION]
    x = keras.layers.Normalization(mean=IMAGENET_MEAN, variance=variance)(images)
    return keras.Model(images, network(x), name=network.name)


def _preprocessed(network, image_shape, made):
    """`network` behind the `preprocess_input` that `keras.applications` has beside `made`."""
    images = x = keras.Input(image_shape, name="images")
    for module in vars(keras.applications).values():
        if getattr(module, made.__name__, None) is made:
            x = module.preprocess_input(images)
            break  # MobileNetV3 has none: the network scales itself
    return keras.Model(images, network(x), name=network.name)
