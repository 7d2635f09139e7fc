"""Keras registration and revival, so that saved models load without custom objects."""

import keras

register = keras.saving.register_keras_serializable(package="mrl_keras")


def revived(config, name, deserialize):
    """`config` with the Keras object that is serialized under `name` made again."""
    value = config[name]
    return {**config, name: deserialize(value) if isinstance(value, dict) else value}
