"""Baselines of MRL: reductions of an embedding that was trained without nesting.

Each has `fit` on training data only and `transform(embeddings, dim)`. The fixed feature baseline
FF-k needs nothing here: it is `mrl_keras.models.image_classifier` with `nesting_dims=[k]`.
"""

from mrl_keras.baselines.classifier_svd import ClassifierSVD
from mrl_keras.baselines.reductions import PCA, SVD, RandomFeatures, RandomProjection, Truncation

__all__ = [
    "ClassifierSVD",
    "PCA",
    "RandomFeatures",
    "RandomProjection",
    "SVD",
    "Truncation",
]
