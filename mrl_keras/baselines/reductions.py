"""Reductions of embeddings, and of a linear classifier, to fewer dims; fitted on training data."""

from __future__ import annotations

import numpy as np

from mrl_keras.checks import whole_number


class Reduction:
    """The interface of all reductions: `fit` once, `transform` at any dim.

    A subclass gives `_directions(centred_embeddings)`, a matrix (d, at most d) whose first `dim`
    columns are the reduction to `dim` dims.
    """

    _centre = False

    def fit(self, embeddings) -> Reduction:
        """Learns from training embeddings (examples, d); returns the reduction itself.

        Raises:
            ValueError: another shape than (examples, d), numbers that are not finite, no example.
        """
        embeddings = finite_matrix(embeddings, "embeddings")
        self.width = embeddings.shape[1]
        self.mean = embeddings.mean(axis=0) if self._centre else np.zeros(self.width)
        self.directions = self._directions(embeddings - self.mean)
        return self

    def transform(self, embeddings, dim: int) -> np.ndarray:
        """Reduces embeddings (examples, d) to (examples, dim), float32.

        Raises:
            ValueError: not fitted, another width, non-finite numbers, or more dims than there are.
        """
        self._check_fitted()
        embeddings = finite_matrix(embeddings, "embeddings", self.width)
        matrix = self._at(self._checked_dim(dim))
        return ((embeddings - self.mean) @ matrix).astype("float32")

    def _directions(self, embeddings):
        raise NotImplementedError

    def _at(self, dim):
        return self.directions[:, :dim]

    def _check_fitted(self):
        if not hasattr(self, "directions"):
            raise ValueError(f"{type(self).__name__} is not fitted. Call `fit` first.")

    def _checked_dim(self, dim):
        dim, most = whole_number(dim, "`dim`"), self.directions.shape[1]
        if dim > most:
            raise ValueError(f"`dim` must not exceed the {most} fitted dims. Received {dim}.")
        return dim


class Truncation(Reduction):
    """The first `dim` components as they are: the control for a model trained without MRL.

    >>> Truncation().fit([[1.0, 2.0, 3.0]]).transform([[4.0, 5.0, 6.0]], dim=2).tolist()
    [[4.0, 5.0]]
    """

    def _directions(self, embeddings):
        return np.eye(embeddings.shape[1])


class SVD(Reduction):
    """Projection on the leading right singular vectors of the training embeddings, not centred.

    The paper's "SVD" for 1-NN (Table 2). At most min(examples, d) dims.

    >>> found = SVD().fit([[2.0, 0.0], [0.0, 1.0]]).transform([[3.0, 4.0]], dim=1)
    >>> np.abs(found).tolist()
    [[3.0]]

    Source: arXiv 2205.13147, Section 4.1, Table 2.
    """

    def _directions(self, embeddings):
        vectors = np.linalg.svd(embeddings, full_matrices=False)[2]
        largest = np.abs(vectors).argmax(axis=1)
        signs = np.sign(vectors[np.arange(len(vectors)), largest])
        return (vectors * signs[:, None]).T  # one sign with every LAPACK


class PCA(SVD):
    """Principal components: `SVD` after subtracting the mean of the training embeddings.

    >>> PCA().fit([[1.0, 0.0], [3.0, 0.0]]).transform([[4.0, 7.0]], dim=1).tolist()
    [[2.0]]
    """

    _centre = True


class RandomFeatures(Reduction):
    """`dim` components chosen at random, nested: a smaller dim's are among a larger dim's.

    The paper's Rand. FS for 1-NN (Table 2); with `linear_probe_accuracy` on top, Rand. LP
    (Table 1). It looks at the training embeddings' width only.

    Args:
        seed: int. Default 0.

    >>> found = RandomFeatures(seed=0).fit(np.eye(4)).transform(np.eye(4), dim=2)
    >>> found.sum(axis=0).tolist()
    [1.0, 1.0]

    Source: arXiv 2205.13147, Section 4.1, Tables 1 and 2.
    """

    def __init__(self, seed: int = 0):
        self.seed = whole_number(seed, "`seed`", least=0)

    def _directions(self, embeddings):
        order = np.random.default_rng(self.seed).permutation(embeddings.shape[1])
        return np.eye(embeddings.shape[1])[:, order]


class RandomProjection(Reduction):
    """Johnson-Lindenstrauss: a Gaussian matrix with variance 1 / dim, which keeps E |x|^2.

    Args:
        seed: int. Default 0.

    >>> RandomProjection(seed=0).fit(np.eye(4)).transform(np.eye(4), dim=2).shape
    (4, 2)

    Source: Johnson and Lindenstrauss, 1984.
    """

    def __init__(self, seed: int = 0):
        self.seed = whole_number(seed, "`seed`", least=0)

    def _directions(self, embeddings):
        width = embeddings.shape[1]
        return np.random.default_rng(self.seed).standard_normal((width, width))

    def _at(self, dim):
        return self.directions[:, :dim] / np.sqrt(dim)


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
        """Learns from a classifier.

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
        self.directions, self._classes = self._factors(kernel)
        return self

    def _factors(self, kernel):
        left, singular, right = np.linalg.svd(kernel, full_matrices=False)
        return left, singular[:, None] * right

    def logits(self, embeddings, dim: int) -> np.ndarray:
        """Logits (examples, classes) of the classifier reduced to `dim` dims, float32."""
        self._check_fitted()
        embeddings = finite_matrix(embeddings, "embeddings", self.width)
        dim = self._checked_dim(dim)
        reduced = embeddings @ self.directions[:, :dim]
        return (reduced @ self._classes[:dim] + self.bias).astype("float32")


class ClassifierTruncation(ClassifierSVD):
    """The first `dim` rows of a trained linear classifier: the control beside `ClassifierSVD`.

        logits at dim m = x[:m] kernel[:m] + bias

    >>> cut = ClassifierTruncation().fit([[3.0, 0.0], [0.0, 1.0]], bias=[0.0, 0.5])
    >>> cut.logits([[2.0, 5.0]], dim=1).tolist()
    [[6.0, 0.5]]
    """

    def _factors(self, kernel):
        return np.eye(len(kernel)), kernel


def finite_matrix(array, name, width=None) -> np.ndarray:
    """`array` as float64 (examples, d), with at least one example and finite numbers only."""
    matrix = np.asarray(array, "float64")
    if matrix.ndim != 2 or 0 in matrix.shape or width not in (None, matrix.shape[1]):
        raise ValueError(
            f"`{name}` must be (examples, {width or 'd'}) with at least one example. "
            f"Received shape {matrix.shape}."
        )
    if not np.isfinite(matrix).all():
        rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        raise ValueError(
            f"`{name}` must be finite. Received NaN or inf in {len(rows)} rows, the first is row "
            f"{rows[0]}. Remove them."
        )
    return matrix
