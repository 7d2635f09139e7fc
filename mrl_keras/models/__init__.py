"""Backbones, models with heads over nested prefixes, and retrieval from raw inputs."""

from mrl_keras.models.adaptor import AdaptorOptions, MatryoshkaAdaptor, fit_adaptor
from mrl_keras.models.backbones.image_backbone import image_backbone
from mrl_keras.models.backbones.resnet import resnet
from mrl_keras.models.backbones.small_convnet import small_convnet
from mrl_keras.models.backbones.small_resnet import small_resnet
from mrl_keras.models.chunked_encoder import ChunkedEncoder
from mrl_keras.models.contrastive_scores import ContrastiveScores
from mrl_keras.models.cutting import cut
from mrl_keras.models.dual_encoder import dual_encoder, towers
from mrl_keras.models.embedders import MatryoshkaImageEmbedder, MatryoshkaTextEmbedder
from mrl_keras.models.finetuning import load_backbone, part_names, train_only
from mrl_keras.models.garden.image import GardenResNet, GardenViT
from mrl_keras.models.garden.text import GardenBert
from mrl_keras.models.hub import hub_backbone, hub_text_encoder
from mrl_keras.models.image_classifier import image_classifier
from mrl_keras.models.image_text_embedder import MatryoshkaImageTextEmbedder
from mrl_keras.models.masked_lm import (
    mask_filler,
    masked_lm,
    masked_lm_at,
    masked_lm_embedder,
)
from mrl_keras.models.nested_layers import NestedLayers
from mrl_keras.models.pooling import pooled
from mrl_keras.models.retrieval_model import RetrievalModel
from mrl_keras.models.text_embedder import sentence_pairs, text_embedder
from mrl_keras.models.text_tokens import BertTokens

__all__ = [
    "AdaptorOptions",
    "BertTokens",
    "ChunkedEncoder",
    "ContrastiveScores",
    "GardenBert",
    "GardenResNet",
    "GardenViT",
    "MatryoshkaAdaptor",
    "MatryoshkaImageEmbedder",
    "MatryoshkaImageTextEmbedder",
    "MatryoshkaTextEmbedder",
    "NestedLayers",
    "RetrievalModel",
    "cut",
    "dual_encoder",
    "fit_adaptor",
    "hub_backbone",
    "hub_text_encoder",
    "image_backbone",
    "image_classifier",
    "load_backbone",
    "mask_filler",
    "masked_lm",
    "masked_lm_at",
    "masked_lm_embedder",
    "part_names",
    "pooled",
    "resnet",
    "sentence_pairs",
    "small_convnet",
    "small_resnet",
    "text_embedder",
    "towers",
    "train_only",
]
