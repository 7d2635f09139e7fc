"""Checks of embeddings, labels and logits that the evaluators share."""

from __future__ import annotations

import numpy as np

from mrl_keras.nesting import NestingDims


def checked_embeddings(embeddings, dims, name="embeddings") -> np.ndarray:
    """Embeddings as finite float64 (examples, d) with at least one example and d >= dims."""
    array = np.asarray(embeddings, "float64")
    if array.ndim != 2 or not len(array) or array.shape[1] < dims.width:
        raise ValueError(
            f"`{name}` must be (examples, d) with an example and d at least {dims.width}. "
            f"Received shape {array.shape}."
        )
    if not np.isfinite(array).all():
        row = np.flatnonzero(~np.isfinite(array).all(axis=1))[0]
        raise ValueError(f"`{name}` must be finite. Received NaN or inf in row {row}; remove it.")
    return array


def check_labels(labels, embeddings, name="labels") -> np.ndarray:
    """`labels` as an int array with one entry for each row of `embeddings`."""
    array = np.asarray(labels)
    rows = len(np.asarray(embeddings))
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be {rows} ints, one for each embedding. "
            f"Received shape {array.shape} of dtype {array.dtype}."
        )
    return array


def check_classes_known(labels, train_labels):
    """Raises a ValueError that names the classes of `labels` which `train_labels` lacks."""
    absent = np.setdiff1d(labels, train_labels)
    if len(absent):
        raise ValueError(
            f"{len(absent)} classes of `labels` have no train example, the first of them "
            f"{absent[:5].tolist()}: they can't be found. Give train examples of every class, or "
            "leave these examples out."
        )


def checked_logits(nested_logits, labels, dims) -> tuple[np.ndarray, np.ndarray, NestingDims]:
    """(logits, labels, dims): (examples, prefixes, classes) without NaN, and ints among them."""
    logits, dims = np.asarray(nested_logits), NestingDims(dims)
    labels = check_labels(labels, logits, "labels")
    if logits.ndim != 3 or logits.shape[1] != len(dims):
        raise ValueError(
            f"`nested_logits` must be (examples, {len(dims)} prefixes, classes) for the dims "
            f"{list(dims)}. Received shape {logits.shape}."
        )
    if not len(logits) or np.isnan(logits).any():
        what = "NaN" if len(logits) else "no example"
        raise ValueError(f"`nested_logits` must hold numbers of at least one example, not {what}.")
    classes = logits.shape[-1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`labels` must lie from 0 to {classes - 1}. Received {labels.min()} to {labels.max()}."
        )
    return logits, labels, dims


def unit_rows(array) -> np.ndarray:
    """`array` with its last axis L2-normalised; zero vectors stay zero."""
    norms = np.linalg.norm(array, axis=-1, keepdims=True)
    return array / np.where(norms == 0.0, 1.0, norms)
