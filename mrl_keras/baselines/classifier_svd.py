"""A trained linear classifier of low rank."""

from __future__ import annotations

import numpy as np

from mrl_keras.baselines.reductions import Reduction, finite_matrix


class ClassifierSVD(Reduction):
    """Rank-`dim` approximation of a trained linear classifier (the paper's SVD in Table 1).

        kernel = U S V^T,    logits at dim r = (x U_r) (S_r V_r^T) + bias

    `fit` reads the classifier, which training data made; `transform` gives x U_r.

    >>> svd = ClassifierSVD().fit([[3.0, 0.0], [0.0, 1.0]], bias=[0.0, 0.5])
    >>> svd.logits([[1.0, 1.0]], dim=1).tolist()
    [[3.0, 0.5]]

    Source: arXiv 2205.13147, Section 4.1, Table 1.
    """

    def fit(self, kernel, bias=None) -> ClassifierSVD:
        """Learn from a classifier.

        Args:
            kernel: (d, classes), as of `keras.layers.Dense`.
            bias: (classes,). Default zeros.

        Raises:
            ValueError: shapes that don't fit, or non-finite numbers.
        """
        kernel = finite_matrix(kernel, "kernel")
        self.width, classes = kernel.shape
        self.bias = np.zeros(classes) if bias is None else np.asarray(bias, "float64")
        if self.bias.shape != (classes,) or not np.isfinite(self.bias).all():
            raise ValueError(
                f"`bias` must be {classes} finite numbers, one for each class. Received {bias!r}."
            )
        self.mean = np.zeros(self.width)
        self.directions, singular, right = np.linalg.svd(kernel, full_matrices=False)
        self._classes = singular[:, None] * right
        return self

    def logits(self, embeddings, dim: int) -> np.ndarray:
        """Logits (examples, classes) of the classifier of rank `dim`, float32."""
        self._check_fitted()
        embeddings = finite_matrix(embeddings, "embeddings", self.width)
        dim = self._checked_dim(dim)
        reduced = embeddings @ self.directions[:, :dim]
        return (reduced @ self._classes[:dim] + self.bias).astype("float32")
