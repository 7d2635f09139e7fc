"""Small networks with a nested output over frozen features, trained by each method."""

from __future__ import annotations

import keras
import numpy as np

from mrl_keras import (
    MatryoshkaDense,
    MatryoshkaLoss,
    MatryoshkaSimilarity,
    SymmetricContrastive,
)
from mrl_keras.losses import PrefixLosses, RecallAtK, SelfDistillation
from mrl_keras.models import MatryoshkaAdaptor
from recipes.common.prefixes import WEIGHTINGS

BOOSTS = {
    "1": (),
    "boost": (2.0,),
    "boost2": (2.0, 1.5),
    "x4": (4.0,),
    "less": (0.5,),
    "less2": (0.25, 0.5),
}
"""Constant weights of the smallest prefixes; the others have 1."""
LOSSES = {"recall": 1.0, "recall x3": 3.0, "distil": 1.0}
"""The weight of each loss that the two smallest prefixes have beside their own."""
METHODS = (*BOOSTS, *WEIGHTINGS, *LOSSES)


def is_constant(method):
    return method in BOOSTS


def is_loss(method):
    return method in LOSSES


def nested_loss(inner, method, dims):
    """The `MatryoshkaLoss` of a method around the loss `inner` of one prefix."""
    if method in WEIGHTINGS:
        return MatryoshkaLoss(inner, WEIGHTINGS[method](dims))
    if method.startswith("distil"):
        learning = {dim: SelfDistillation(inner, LOSSES[method]) for dim in dims[:2]}
        return MatryoshkaLoss(PrefixLosses(dims, learning, default=inner))
    boosts = dict(zip(dims, BOOSTS.get(method, ()), strict=False))
    return MatryoshkaLoss(inner, dims.relative_importance(boosts) if boosts else None)


def train_classifier(features, labels, dims, method, batches, k, seed):
    """A classifier with a nested head, trained on features.

    Args:
        features, labels: (rows, width) and (rows,), of classes from 0.
        dims: `NestingDims`.
        method: str, one of `METHODS`.
        batches: int array (steps, batch) of rows, with several of a class in each batch.
        k: int, of `RecallAtK` within a batch.
        seed: int.

    Returns:
        `keras.Model`: features -> {"embedding": (batch, d), "logits": (batch, prefixes, classes)}.
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(features.shape[1:])
    hidden = keras.layers.Dense(256, activation="relu")(inputs)
    embedding = keras.layers.Dense(dims.width, name="embedding")(hidden)
    logits = MatryoshkaDense(int(labels.max()) + 1, dims, name="head")(embedding)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    outputs = {"logits": logits}
    losses = {"logits": nested_loss(crossentropy, method, dims)}
    if method.startswith("recall"):
        narrow = embedding[:, : dims[1]]
        outputs["similarity"] = MatryoshkaSimilarity(dims[:2], name="similarity")([narrow, narrow])
        losses["similarity"] = MatryoshkaLoss(RecallAtK(k, "classes"))
    _fit(keras.Model(inputs, outputs), losses, method, features[batches.ravel()],
         dict.fromkeys(outputs, labels[batches.ravel()]), batches.shape)  # fmt: skip
    return keras.Model(inputs, {"embedding": embedding, "logits": logits})


def train_adaptor(queries, documents, dims, method, batches, k, seed):
    """An adaptor of embeddings, trained on pairs.

    Args:
        queries, documents: (pairs, d); query i is answered by document i.
        dims, method, k, seed: as of `train_classifier`.
        batches: int array (steps, batch) of pairs.

    Returns:
        `MatryoshkaAdaptor`.
    """
    keras.utils.set_random_seed(seed)
    adaptor = MatryoshkaAdaptor(dims, seed=seed)
    adaptor.adapt(np.concatenate([queries, documents]))
    sides = {name: keras.Input((dims.width,), name=name) for name in ("queries", "documents")}
    both, temperature = [adaptor(side) for side in sides.values()], 0.05
    outputs = {"ranked": MatryoshkaSimilarity(dims, temperature=temperature, name="ranked")(both)}
    losses = {"ranked": nested_loss(SymmetricContrastive(), method, dims)}
    if method.startswith("recall"):
        narrow = [one[:, : dims[1]] for one in both]
        outputs["found"] = MatryoshkaSimilarity(dims[:2], name="found")(narrow)
        losses["found"] = MatryoshkaLoss(RecallAtK(k))
    x = {"queries": queries[batches.ravel()], "documents": documents[batches.ravel()]}
    y = dict.fromkeys(outputs, np.zeros(batches.size))
    _fit(keras.Model(sides, outputs), losses, method, x, y, batches.shape)
    return adaptor


def _fit(model, losses, method, x, y, shape):
    first = next(iter(losses))
    weights = {name: 1.0 if name == first else LOSSES[method] for name in losses}
    adapting = method in WEIGHTINGS
    rate = keras.optimizers.schedules.CosineDecay(2e-3, shape[0])
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-2),
        loss=losses,
        loss_weights=weights,
        metrics={first: [losses[first].relative_importance]} if adapting else None,
        jit_compile=False,
    )
    model.fit(x, y, batch_size=shape[1], shuffle=False, verbose=0)


def random_batches(rows, shape, seed):
    """(steps, batch) row numbers, each step without repetition."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(rows)[: shape[1]] for _ in range(shape[0])])


def class_batches(labels, classes, of_each, steps, seed):
    """(steps, classes * of_each) row numbers: some rows each of some random classes."""
    rng, members = (
        np.random.default_rng(seed),
        [np.flatnonzero(labels == c) for c in np.unique(labels)],
    )
    return np.stack([
        np.concatenate([rng.choice(members[c], of_each, replace=False)
                        for c in rng.choice(len(members), classes, replace=False)])
        for _ in range(steps)
    ])  # fmt: skip
