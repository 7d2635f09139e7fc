"""Nearest-neighbour accuracy at every prefix, trained and interpolated."""

from __future__ import annotations

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.retrieval import exact_search


def knn_accuracy(
    train_embeddings,
    train_labels,
    embeddings,
    labels,
    dims,
    k: int = 1,
    metric: str = "cosine",
    progress: bool = False,
) -> dict[int, float]:
    """Accuracy of the k-nearest-neighbour vote at every prefix, all from one exact search.

    With k = 1 this is the paper's 1-NN accuracy, computed like there on the L2-normalised
    prefixes (Section 4.1, Table 2).

    Args:
        train_embeddings: (train examples, d), the labelled database.
        train_labels: ints (train examples,).
        embeddings: (examples, d), the held-out queries.
        labels: ints (examples,).
        dims: ints, ascending, the prefixes to evaluate: trained, interpolated or both
            (`NestingDims.with_interpolated`).
        k: how many neighbours vote. Default 1. A tie goes to the class whose nearest
            member is nearest.
        metric: "cosine" (each prefix normalised by itself) or "dot". Default "cosine".
        progress: bool, show a progress bar. Default False.

    Returns:
        dict from dim to the fraction of queries classified right.

    Raises:
        ValueError: labels that don't fit the embeddings, k above the number of train
            examples, or dims outside the width.

    Example:

    >>> import numpy as np
    >>> from mrl_keras.evaluation import knn_accuracy
    >>> train = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> knn_accuracy(train, [0, 1], np.array([[0.9, 0.1]]), [0], dims=[2])
    {2: 1.0}
    """
    train_labels = check_labels(train_labels, train_embeddings, "train_labels")
    labels = check_labels(labels, embeddings, "labels")
    if whole_number(k, "`k`") > len(train_labels):
        raise ValueError(
            f"`k` must not exceed the {len(train_labels)} train examples. Received {k}."
        )
    found = exact_search(embeddings, train_embeddings, dims, k=k, metric=metric, progress=progress)
    return {
        dim: float(np.mean(majority_vote(train_labels[indices]) == labels))
        for dim, indices in zip(found.dims, found.indices, strict=True)
    }


def majority_vote(neighbour_labels) -> np.ndarray:
    """The most frequent label of each row; ties go to the label that appears first.

    Args:
        neighbour_labels: ints (queries, k), nearest first.

    Returns:
        ints (queries,).
    """
    neighbour_labels = np.asarray(neighbour_labels)
    votes = (neighbour_labels[:, :, None] == neighbour_labels[:, None, :]).sum(axis=2)
    winner = votes.argmax(axis=1)  # the first of the most frequent
    return neighbour_labels[np.arange(len(winner)), winner]


def check_labels(labels, embeddings, name) -> np.ndarray:
    """`labels` as an int array with one entry for each row of `embeddings`."""
    array = np.asarray(labels)
    rows = len(np.asarray(embeddings))
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be {rows} ints, one for each embedding. "
            f"Received shape {array.shape} of dtype {array.dtype}."
        )
    return array
