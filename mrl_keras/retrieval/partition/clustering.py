"""K-means over the clustering prefix, and the leaves of every row."""

from __future__ import annotations

import numpy as np

from mrl_keras.retrieval.arrays import squared_norms

_TILE_BYTES = 16 << 20


def kmeans_centres(rows: np.ndarray, num_leaves: int, iterations: int, seed: int = 0) -> np.ndarray:
    """Centres of the rows by Lloyd's k-means, started from random rows.

    scikit-learn's `KMeans`, which moves a centre that loses all of its rows to a far row.

    Args:
        rows: float32 (rows, dims), at least `num_leaves` of them.
        num_leaves, iterations: ints.
        seed: int. Defaults to 0.

    Returns:
        float32 (num_leaves, dims).

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise ImportError(
            "A partition by k-means needs scikit-learn, which is not installed. Install it with: "
            'pip install "mrl_keras[retrieval]", or give `centres`.'
        ) from error
    import warnings

    kmeans = KMeans(num_leaves, init="random", n_init=1, max_iter=iterations, random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct rows than leaves: some centres are equal, and all but one stay empty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans.fit(rows).cluster_centers_.astype(np.float32)


def nearest_leaves(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The leaf whose centre is nearest to each row by L2; of equal ones the first.

    Args:
        rows: float32 (rows, dims).
        centres: float32 (leaves, dims).

    Returns:
        int32 (rows,).

    >>> nearest_leaves(np.array([[0.9, 0.1]], "f4"), np.eye(2, dtype="f4")).tolist()
    [0]
    """
    return _tiled(lambda part: _distances(rows[part], centres), len(rows), len(centres))


def second_leaves(
    rows: np.ndarray, centres: np.ndarray, first: np.ndarray, weight: float
) -> np.ndarray:
    """A second leaf for each row, which does not fail for the same queries as the first one.

    With r = x - c the residual of the first leaf, it is another leaf c' with the smallest

        |x - c'|^2 + weight <r, x - c'>^2 / |r|^2.

    A query whose product with r is large ranks the first leaf too low; the second term keeps the
    second residual from pointing the same way. `weight=0` takes the second nearest centre.

    Args:
        rows, centres: as for `nearest_leaves`.
        first: int (rows,), the first leaves.
        weight: float, at least 0.

    Returns:
        int32 (rows,); -1 where there is one leaf only or the row is its leaf's centre, so that a
        second one does not help.

    >>> rows, centres = np.array([[1.0, 0.4]], "f4"), np.array([[1, 0], [1, 1], [0, 0.4]], "f4")
    >>> [second_leaves(rows, centres, np.array([0]), weight).tolist() for weight in (0.0, 9.0)]
    [[1], [2]]

    Source: SOAR, arXiv 2404.00774, Theorem 3.1 and Section 3.4.
    """
    if len(centres) == 1:
        return np.full(len(rows), -1, np.int32)
    residuals = rows - centres[first]
    squared = squared_norms(residuals)
    helped = squared > 0
    directions = residuals / np.sqrt(np.where(helped, squared, 1))[:, None]
    offsets = np.einsum("nd,nd->n", directions, rows)

    def losses(part):
        along = offsets[part, None] - directions[part] @ centres.T
        found = _distances(rows[part], centres) + np.float32(weight) * along**2
        found[np.arange(len(found)), first[part]] = np.inf
        return found

    return np.where(helped, _tiled(losses, len(rows), len(centres)), np.int32(-1))


def _distances(rows, centres):
    """Squared L2 distances (rows, leaves), but for each row's own squared norm."""
    return squared_norms(centres) - 2 * (rows @ centres.T)


def _tiled(losses, n_rows, n_leaves):
    """The leaf of least loss for each row, a few megabytes of losses at a time."""
    step = max(1, _TILE_BYTES // (4 * n_leaves))
    parts = [losses(slice(start, start + step)).argmin(axis=1) for start in range(0, n_rows, step)]
    return np.concatenate(parts).astype(np.int32)
