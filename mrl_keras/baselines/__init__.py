"""Baselines of MRL: reductions of an embedding that was trained without nesting, and networks.

A reduction has `fit`, on training data only, and `transform(embeddings, dim)`. The networks are
trained like MRL's: `slimmable_classifier`, and the fixed feature baseline FF-k, which is
`mrl_keras.models.image_classifier` with `nesting_dims=[k]`. `FixedFeatures` gives the networks of
all k the `fit` and `transform` of a reduction.
"""

from mrl_keras.baselines.fixed_features import FixedFeatures
from mrl_keras.baselines.reductions import (
    PCA,
    SVD,
    ClassifierSVD,
    ClassifierTruncation,
    RandomFeatures,
    RandomProjection,
    Truncation,
)
from mrl_keras.baselines.slimmable import (
    Slimmable,
    slimmable_classifier,
    slimmable_dims,
    subnetwork,
)

__all__ = [
    "ClassifierSVD",
    "ClassifierTruncation",
    "FixedFeatures",
    "PCA",
    "RandomFeatures",
    "RandomProjection",
    "SVD",
    "Slimmable",
    "Truncation",
    "slimmable_classifier",
    "slimmable_dims",
    "subnetwork",
]
