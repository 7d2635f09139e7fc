"""TensorFlow, imported when something of it is first read, so that other backends do without.

from mrl_keras import lazy_tensorflow as tf
"""

import importlib

import keras


def __getattr__(name):
    if name.startswith("__"):  # what inspect and doctest ask every module for
        raise AttributeError(name)
    try:
        tensorflow = importlib.import_module("tensorflow")
    except ImportError as error:
        raise ImportError(
            "This needs TensorFlow, which is not installed: pip install tensorflow"
        ) from error
    return getattr(tensorflow, name)


_ADVICE = "Set KERAS_BACKEND=tensorflow; a model trained elsewhere goes there as a .keras file."


def require_backend(what, advice=_ADVICE):
    """Refuse Keras's other backends.

    Args:
        what: str that begins the error, such as "BertTokens".
        advice: str that ends it. Default: to load the model there.

    Raises:
        ValueError: Keras runs on another backend than TensorFlow.
    """
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"{what} needs Keras on its TensorFlow backend, and it runs on {backend!r}. {advice}"
        )
