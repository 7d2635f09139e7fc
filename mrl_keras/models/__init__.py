"""Models with heads over nested prefixes."""

from mrl_keras.models.image_classifier import image_classifier, small_convnet

__all__ = ["image_classifier", "small_convnet"]
