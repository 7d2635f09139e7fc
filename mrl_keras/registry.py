"""Keras registration and deserialization, so that saved models load without custom objects."""

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
