"""Keras registration, so that saved models load without custom objects."""

import keras

register = keras.saving.register_keras_serializable(package="mrl_keras")


def deserialize_argument(config, name, deserialize):
    """A copy of `config` whose argument `name` is the Keras object that it describes.

    Args:
        config: dict, of `get_config`.
        name: str, an argument that is the dict of a serialized object, or the object itself.
        deserialize: function from that dict to the object, such as `keras.losses.deserialize`.
    """
    value = config[name]
    return {**config, name: deserialize(value) if isinstance(value, dict) else value}
