"""Baselines of MRL: reductions of an embedding that was trained without nesting, and networks.

A reduction has `fit` on training data only and `transform(embeddings, dim)`. Networks that are
trained like MRL's: `slimmable_classifier`, and the fixed feature baseline FF-k, which is
`mrl_keras.models.image_classifier` with `nesting_dims=[k]`; `FixedFeatures` gives the networks of
all k `fit` and `transform` too.
"""

from mrl_keras.baselines.classifier_svd import ClassifierSVD
from mrl_keras.baselines.fixed_features import FixedFeatures
from mrl_keras.baselines.reductions import PCA, SVD, RandomFeatures, RandomProjection, Truncation
from mrl_keras.baselines.slimmable import (
    Slimmable,
    slimmable_classifier,
    slimmable_dims,
    slimmed,
)

__all__ = [
    "ClassifierSVD",
    "FixedFeatures",
    "PCA",
    "RandomFeatures",
    "RandomProjection",
    "SVD",
    "Slimmable",
    "Truncation",
    "slimmable_classifier",
    "slimmable_dims",
    "slimmed",
]
