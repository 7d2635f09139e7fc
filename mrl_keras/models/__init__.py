"""Models with heads over nested prefixes, and retrieval from raw inputs."""

from mrl_keras.models.backbones.by_name import image_backbone
from mrl_keras.models.backbones.resnet import resnet
from mrl_keras.models.backbones.small_resnet import small_resnet
from mrl_keras.models.dual_encoder import bert_tower, dual_encoder, towers
from mrl_keras.models.finetuning import load_backbone, part_names, train_only
from mrl_keras.models.garden.image import GardenResNet, GardenViT
from mrl_keras.models.garden.text import GardenBert
from mrl_keras.models.image_classifier import image_classifier, small_convnet
from mrl_keras.models.mask_filling import TokenPlaces, TopPieces
from mrl_keras.models.masked_lm import (
    mask_filler,
    masked_lm,
    masked_lm_at,
    masked_lm_embedder,
)
from mrl_keras.models.retrieval_model import RetrievalModel
from mrl_keras.models.text_embedder import MaskedMean, sentence_pairs, text_embedder
from mrl_keras.models.text_tokens import BertTokens

__all__ = [
    "BertTokens",
    "GardenBert",
    "GardenResNet",
    "GardenViT",
    "MaskedMean",
    "RetrievalModel",
    "TokenPlaces",
    "TopPieces",
    "bert_tower",
    "dual_encoder",
    "image_backbone",
    "image_classifier",
    "load_backbone",
    "mask_filler",
    "masked_lm",
    "masked_lm_at",
    "masked_lm_embedder",
    "part_names",
    "resnet",
    "sentence_pairs",
    "small_convnet",
    "small_resnet",
    "text_embedder",
    "towers",
    "train_only",
]
