"""Nearest-neighbour accuracy at every prefix, trained and interpolated."""

from __future__ import annotations

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.evaluation.checks import check_classes_known, check_labels
from mrl_keras.retrieval import exact_search


def knn_accuracy(
    train_embeddings, train_labels, embeddings, labels, dims, k: int = 1, top: int = 1
) -> dict[int, float]:
    """Accuracy of the k-nearest-neighbour vote at every prefix, all from one exact search.

    Neighbours are those of highest cosine, each prefix normalised by itself. With k = 1 this is
    the paper's 1-NN accuracy (Section 4.1, Tables 2 and 5). With k = top = 5 a query is right when
    one of its five nearest neighbours is of its class.

    Args:
        train_embeddings: (train examples, d), the labelled database.
        train_labels: ints (train examples,).
        embeddings: (examples, d), the held-out queries.
        labels: ints (examples,).
        dims: ints, ascending, the prefixes to evaluate: trained, interpolated or both
            (`NestingDims.with_interpolated`).
        k: how many neighbours vote. Default 1. A tie goes to the class whose nearest
            member is nearest.
        top: a query is right when its class is among so many with the most votes, at most k.
            Default 1.

    Returns:
        dict from dim to the fraction of queries classified right.

    Raises:
        ValueError: no query, a class that no train example has, labels that don't fit the
            embeddings, k above the number of train examples, `top` above k, or dims outside the
            width.

    Example:

    >>> import numpy as np
    >>> from mrl_keras.evaluation import knn_accuracy
    >>> train = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> knn_accuracy(train, [0, 1], np.array([[0.9, 0.1]]), [0], dims=[2])
    {2: 1.0}
    """
    if whole_number(top, "`top`") > whole_number(k, "`k`"):
        raise ValueError(f"`top` must not exceed the k={k} neighbours. Received {top}.")
    found = neighbour_labels(train_embeddings, train_labels, embeddings, labels, dims, k)
    labels = np.asarray(labels)
    return {
        dim: float(np.mean(among_votes(neighbours, labels, top)))
        for dim, neighbours in found.items()
    }


def neighbour_labels(
    train_embeddings, train_labels, embeddings, labels, dims, k: int
) -> dict[int, np.ndarray]:
    """Labels (queries, k) of the nearest train examples at every prefix, nearest first.

    The arguments and the errors are those of `knn_accuracy`.
    """
    train_labels = check_labels(train_labels, train_embeddings, "train_labels")
    labels = check_labels(labels, embeddings, "labels")
    if whole_number(k, "`k`") > len(train_labels):
        raise ValueError(
            f"`k` must not exceed the {len(train_labels)} train examples. Received {k}."
        )
    if not len(labels):
        raise ValueError("`embeddings` must hold at least one query. Received none.")
    check_classes_known(labels, train_labels)
    found = exact_search(embeddings, train_embeddings, dims, k=k)
    without = np.flatnonzero((found.indices < 0).any(axis=(0, 2)))
    if len(without):
        raise ValueError(
            "`embeddings` must be finite, and their squares too. Received NaN, inf or overflow in "
            f"{len(without)} rows, such as row {without[0]}; remove them."
        )
    pairs = zip(found.dims, found.indices, strict=True)
    return {dim: train_labels[indices] for dim, indices in pairs}


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


def among_votes(neighbour_labels, labels, top: int = 1) -> np.ndarray:
    """Whether the label is among the `top` with the most votes of the neighbours.

    Ties go to the label that appears first, as in `majority_vote`.

    Args:
        neighbour_labels: ints (queries, k), nearest first.
        labels: ints (queries,).
        top: int. Default 1.

    Returns:
        bools (queries,).
    """
    neighbours, labels = np.asarray(neighbour_labels), np.asarray(labels)
    if top == 1:
        return majority_vote(neighbours) == labels
    same = neighbours[:, :, None] == neighbours[:, None, :]
    votes, first = same.sum(axis=2), same.argmax(axis=2) == np.arange(neighbours.shape[1])
    mine = neighbours == labels[:, None]
    place, own = mine.argmax(axis=1)[:, None], mine.sum(axis=1)[:, None]
    earlier = np.arange(neighbours.shape[1]) < place
    ahead = first & ((votes > own) | ((votes == own) & earlier))
    return mine.any(axis=1) & (ahead.sum(axis=1) < top)
