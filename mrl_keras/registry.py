"""Keras registration and deserialization, so that saved models load without custom objects."""

import keras

PACKAGE = "mrl_keras"

register = keras.saving.register_keras_serializable(package=PACKAGE)


def register_as(name):
    """A class decorator: `register` under the name that earlier saved files have for the class."""
    return keras.saving.register_keras_serializable(package=PACKAGE, name=name)


def deserialize_entry(config, name, deserialize):
    """`config` with the Keras object made again that is serialized under `name`."""
    value = config[name]
    return {**config, name: deserialize(value) if isinstance(value, dict) else value}
