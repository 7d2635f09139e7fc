"""Keras registration and deserialization, so that saved models load without custom objects."""

import importlib

import keras

PACKAGE = "mrl_keras"

register = keras.saving.register_keras_serializable(package=PACKAGE)


def register_as(name):
    """A class decorator: `register` under the name that earlier saved files have for the class."""
    return keras.saving.register_keras_serializable(package=PACKAGE, name=name)


def deserialize_argument(config, name, deserialize):
    """A copy of `config` whose argument `name` is the Keras object that it describes.

    Args:
        config: dict, of `get_config`.
        name: str, an argument that is the dict of a serialized object, or the object itself.
        deserialize: function from that dict to the object, such as `keras.losses.deserialize`.
    """
    value = config[name]
    return {**config, name: deserialize(value) if isinstance(value, dict) else value}


# Classes that `import mrl_keras` does not import, with their modules.
_LATER = {
    "AdaptiveClassifier": "cascade.adaptive_classifier",
    "BertTokens": "models.text_tokens",
    "Blur": "models.backbones.resnet",
    "ChunkedEncoder": "models.chunked_encoder",
    "ContrastiveScores": "models.contrastive_scores",
    "GardenBert": "models.garden.text",
    "GardenResNet": "models.garden.image",
    "GardenViT": "models.garden.image",
    "MaskedMean": "models.pooling",
    "MatryoshkaAdaptor": "models.adaptor",
    "MatryoshkaImageEmbedder": "models.embedders",
    "MatryoshkaImageTextEmbedder": "models.image_text_embedder",
    "MatryoshkaTextEmbedder": "models.embedders",
    "NestedLayers": "models.nested_layers",
    "Slimmable": "baselines.slimmable",
    "TokenPlaces": "models.mask_filling",
    "TopPieces": "models.mask_filling",
}


def register_later():
    """Registers the names of classes whose modules are imported when a saved model needs them.

    A stand-in has the name until the module's own class takes it.
    """
    for name, module in _LATER.items():
        if keras.saving.get_registered_object(f"{PACKAGE}>{name}") is None:
            register_as(name)(_stand_in(name, f"{PACKAGE}.{module}"))


def _stand_in(name, module):
    def get_config(self):
        raise NotImplementedError

    def from_config(cls, config):
        # Keras says no module where the import fails, so the error does.
        try:
            found = getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise ImportError(f"A saved model needs {module}.{name}: {error}") from error
        return found.from_config(config)

    members = {"get_config": get_config, "from_config": classmethod(from_config)}
    return type(name, (), {**members, "__module__": module, "stands_in": True})
