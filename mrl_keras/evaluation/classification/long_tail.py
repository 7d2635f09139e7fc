"""Accuracy over a long-tailed stream: each example is tested, then learned (FLUID's protocol)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.evaluation.checks import check_labels, checked_embeddings, unit_rows
from mrl_keras.nesting import NestingDims

_BLOCK = 256


@dataclass(frozen=True)
class LongTailAccuracy:
    """Accuracy over a stream; a group that no example of the stream belongs to is NaN.

    Attributes:
        pretrain_head, pretrain_tail: over the examples of classes that were known before the
            stream, with more, or not more, than `head_above` examples in the stream.
        novel_head, novel_tail: the same of classes that the stream alone teaches.
        mean_per_class: the mean of the accuracies of the stream's classes.
        overall: over all examples.
    """

    pretrain_head: float
    pretrain_tail: float
    novel_head: float
    novel_tail: float
    mean_per_class: float
    overall: float


def long_tail_accuracy(
    embeddings,
    labels,
    dims,
    pretrain_embeddings,
    pretrain_labels,
    head_above: int = 50,
) -> dict[int, LongTailAccuracy]:
    """Test-then-train accuracy of the nearest class mean over a stream, at every prefix.

    A class is the mean of its L2-normalised prefixes so far. The examples come in the order of
    the rows: each goes to the class of highest cosine among those seen, the answer is noted, and
    only then the example joins the mean of its true class. So the first example of a novel class
    is always wrong. What is answered for an example never depends on later ones.

    Args:
        embeddings: (examples, d), the stream.
        labels: ints (examples,).
        dims: ints, ascending, the prefixes.
        pretrain_embeddings: (pretrain examples, d), what the class means start with.
        pretrain_labels: ints (pretrain examples,). The classes of the stream that are not among
            them are novel.
        head_above: int, a class with more examples in the stream is of the head, the others are of
            the tail. Default 50, the paper's.

    Returns:
        dict from dim to `LongTailAccuracy`.

    Raises:
        ValueError: non-finite embeddings, empty sets, shapes, labels or dims that don't fit.

    Example:

    >>> from mrl_keras.evaluation import long_tail_accuracy
    >>> stream = np.array([[1.0, 0.1], [0.1, 1.0], [0.2, 1.0]])
    >>> found = long_tail_accuracy(stream, [0, 1, 1], [2], [[1.0, 0.0]], [0], head_above=1)[2]
    >>> found.pretrain_tail, found.novel_head
    (1.0, 0.5)

    Source: arXiv 2205.13147, Section 5.1, Table 16; the protocol is arXiv 2007.02519.
    """
    dims = NestingDims(dims)
    stream = checked_embeddings(embeddings, dims)
    known = checked_embeddings(pretrain_embeddings, dims, "pretrain_embeddings")
    labels = check_labels(labels, stream, "labels")
    pretrain_labels = check_labels(pretrain_labels, known, "pretrain_labels")
    head_above = whole_number(head_above, "`head_above`")
    classes = np.unique(np.concatenate([labels, pretrain_labels]))
    places = np.searchsorted(classes, labels)
    first = np.searchsorted(classes, pretrain_labels)
    groups = _groups(labels, pretrain_labels, head_above)
    found = {}
    for dim in dims:
        sums = np.zeros((len(classes), dim))
        np.add.at(sums, first, unit_rows(known[:, :dim]))
        right = _stream(unit_rows(stream[:, :dim]), places, sums, np.isin(classes, pretrain_labels))
        found[dim] = _accuracy(right, labels, groups)
    return found


def long_tailed_rows(labels, most: int = 1000, least: int = 10, seed: int = 0) -> np.ndarray:
    """Rows of a long-tailed stream in a random order, drawn from labelled examples.

    The classes' counts fall geometrically from `most` for the first class to `least` for the last,
    at most what there is.

    Args:
        labels: ints (examples,).
        most, least: ints, the most and the fewest examples of a class. Default 1000 and 10.
        seed: int. Default 0.

    Returns:
        ints (rows,).

    Raises:
        ValueError: numbers below 1, or `least` above `most`.

    >>> labels = np.repeat([0, 1, 2], 4)
    >>> np.bincount(labels[long_tailed_rows(labels, most=4, least=1)]).tolist()
    [4, 2, 1]
    """
    most, least = whole_number(most, "`most`"), whole_number(least, "`least`")
    if least > most:
        raise ValueError(f"`least` must not exceed `most`={most}. Received {least}.")
    generator = np.random.default_rng(whole_number(seed, "`seed`", least=0))
    classes, rows = np.unique(labels), []
    for label, step in zip(classes, np.linspace(0.0, 1.0, len(classes)), strict=True):
        here = generator.permutation(np.flatnonzero(labels == label))
        rows.append(here[: round(most * (least / most) ** step)])
    return generator.permutation(np.concatenate(rows))


def _stream(stream, places, sums, seen):
    """Whether each example is answered rightly before it is learned; bools (examples,).

    Scores of a block are one product with the sums at its start; what the block itself has added
    since comes from the products of its examples with each other.
    """
    seen, right = seen.copy(), np.empty(len(stream), bool)
    squares = (sums**2).sum(axis=1)
    for start in range(0, len(stream), _BLOCK):
        block, place = stream[start : start + _BLOCK], places[start : start + _BLOCK]
        base, among = block @ sums.T, block @ block.T
        for i, label in enumerate(place):
            products = base[i]
            np.add.at(products, place[:i], among[i, :i])
            norms = np.sqrt(np.maximum(squares, 0.0))
            cosines = np.where(norms > 1e-12, products / np.maximum(norms, 1e-12), 0.0)
            right[start + i] = np.where(seen, cosines, -np.inf).argmax() == label and seen[label]
            squares[label] += 2.0 * products[label] + among[i, i]
            seen[label] = True
        np.add.at(sums, place, block)
    return right


def _groups(labels, pretrain_labels, head_above):
    """The examples of each group, bools (examples,), by the names of `LongTailAccuracy`."""
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    head, known = counts[places] > head_above, np.isin(labels, pretrain_labels)
    return {
        "pretrain_head": known & head,
        "pretrain_tail": known & ~head,
        "novel_head": ~known & head,
        "novel_tail": ~known & ~head,
    }


def _accuracy(right, labels, groups):
    by_group = {
        name: float(right[here].mean()) if here.any() else float("nan")
        for name, here in groups.items()
    }
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    per_class = np.bincount(places, right) / counts
    return LongTailAccuracy(
        **by_group, mean_per_class=float(per_class.mean()), overall=float(right.mean())
    )
