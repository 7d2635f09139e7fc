"""Models with heads over nested prefixes, and retrieval from raw inputs."""

from mrl_keras.models.garden_image import GardenResNet, GardenViT
from mrl_keras.models.garden_text import GardenBert
from mrl_keras.models.image_classifier import image_classifier, small_convnet
from mrl_keras.models.retrieval_model import RetrievalModel

__all__ = [
    "GardenBert",
    "GardenResNet",
    "GardenViT",
    "RetrievalModel",
    "image_classifier",
    "small_convnet",
]
