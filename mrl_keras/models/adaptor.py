"""Embeddings that exist already, made nested: a rotation and a small residual network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

from mrl_keras.checks import positive_number, whole_number
from mrl_keras.layers import MatryoshkaSimilarity
from mrl_keras.losses import KeptSimilarities, MatryoshkaLoss, SymmetricContrastive
from mrl_keras.nesting import NestingDims
from mrl_keras.registry import register
from mrl_keras.retrieval.arrays import as_float32

_CHUNK_ROWS = 8192


@register
class MatryoshkaAdaptor(keras.Model):
    """Makes embeddings of any model nested: their components are rotated, then corrected.

        y = R x + W_2 gelu(W_1 x + b_1) + b_2,        x of length 1

    `adapt` sets R to the principal directions of given embeddings, by falling energy, and W_2
    starts at zero. An adaptor is then `mrl_keras.baselines.SVD`, whose full width has the cosines
    of the embeddings themselves. `fit_adaptor` trains the network so that every prefix keeps the
    neighbours of the full embedding; R stays.

    Args:
        nesting_dims: `NestingDims` or list of ints that ends at the embeddings' width d.
        hidden: optional int, units of the network's hidden layer; 0 for the rotation alone.
            Default None, d.
        seed: optional int, of W_1's first values. Default None, Keras's global seed.
        dtype: dtype or policy of its layers. Default None, Keras's global policy.
        **kwargs: `name`, `trainable`.

    Input shape:
        (batch, d) embeddings as their model gave them; each is L2-normalised first, and a zero
        row gives the output of a zero vector.

    Output shape:
        (batch, d), not normalised: each prefix is normalised by itself, as everywhere.

    Raises:
        ValueError: invalid `nesting_dims` or `hidden`, or an input of another width.

    Example:

    >>> from mrl_keras.models import MatryoshkaAdaptor
    >>> rows = np.random.default_rng(0).standard_normal((100, 8)).astype("float32")
    >>> adaptor = MatryoshkaAdaptor([2, 4, 8])
    >>> adaptor.adapt(rows)
    >>> adaptor(rows[:3]).shape
    TensorShape([3, 8])

    Source: arXiv 2407.20243 (Matryoshka-Adaptor), which starts from the components as they are.
    """

    def __init__(self, nesting_dims, hidden=None, seed=None, dtype=None, **kwargs):
        dims, policy = NestingDims(nesting_dims), keras.dtype_policies.get(dtype)
        hidden = dims.width if hidden is None else whole_number(hidden, "`hidden`", least=0)
        rotation = keras.layers.Dense(
            dims.width,
            use_bias=False,
            kernel_initializer="identity",
            trainable=False,
            dtype=policy,
            name="rotation",
        )
        inputs = keras.Input((dims.width,), name="original")
        unit = keras.layers.UnitNormalization(dtype=policy, name="unit")(inputs)
        outputs = rotation(unit)
        if hidden:
            kernel = keras.initializers.GlorotUniform(seed)
            inner = keras.layers.Dense(
                hidden, activation="gelu", kernel_initializer=kernel, dtype=policy, name="inner"
            )(unit)
            outer = keras.layers.Dense(
                dims.width, kernel_initializer="zeros", dtype=policy, name="outer"
            )(inner)
            outputs = keras.layers.Add(dtype=policy, name="adapted")([outputs, outer])
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.nesting_dims, self.hidden, self.seed = dims, hidden, seed
        self.rotation, self._policy = rotation, policy

    def adapt(self, embeddings: np.ndarray) -> None:
        """Sets the rotation to the principal directions of `embeddings`, not centred.

        Args:
            embeddings: (rows, d) array or memory map, read a few thousand rows at a time.

        Raises:
            ValueError: another shape, no rows, or a row with NaN or inf (named by number).
        """
        width = self.nesting_dims.width
        second_moment = np.zeros((width, width))
        for chunk in _chunks(embeddings, self.nesting_dims, "`embeddings`"):
            unit = _unit_rows(chunk)
            second_moment += unit.T.astype("float64") @ unit
        directions = np.linalg.eigh(second_moment)[1][:, ::-1]
        largest = np.abs(directions).argmax(axis=0)
        directions = directions * np.sign(directions[largest, np.arange(width)])
        self.rotation.set_weights([directions.astype("float32")])

    def chunks(self, embeddings: np.ndarray) -> Iterator[np.ndarray]:
        """Adapted rows, a few thousand at a time, for `NestedIndex.build` or a file.

        Args:
            embeddings: (rows, d) array or memory map.

        Yields:
            float32 (rows of the chunk, d).
        """
        for chunk in _chunks(embeddings, self.nesting_dims, "`embeddings`"):
            yield ops.convert_to_numpy(self.predict_on_batch(chunk))

    def get_config(self):
        return {
            **super().get_config(),
            "nesting_dims": list(self.nesting_dims),
            "hidden": self.hidden,
            "seed": self.seed,
            "dtype": keras.dtype_policies.serialize(self._policy),
        }


@dataclasses.dataclass(frozen=True)
class AdaptorOptions:
    """How `fit_adaptor` trains.

    Args:
        steps: int, training steps; 0 leaves the rotation alone. Default 150.
        batch_size: int, rows that are compared with each other in a step; at most all. Default
            512.
        learning_rate: float above 0, AdamW's, which falls to 0 by a cosine. Default 1e-3.
        temperature: float above 0, of `KeptSimilarities`. Default 0.05.
        relative_importance: the weights c_m of the prefixes, as for `MatryoshkaLoss`. Default
            None, all ones.
        pair_weight: float above 0, of the loss of relevance pairs. Default 0.1.
        seed: int, of the order of the rows and of the network's weights. Default 0.

    >>> AdaptorOptions(steps=100).batch_size
    512
    """

    steps: int = 150
    batch_size: int = 512
    learning_rate: float = 1e-3
    temperature: float = 0.05
    relative_importance: Sequence[float] | None = None
    pair_weight: float = 0.1
    seed: int = 0

    def __post_init__(self):
        for name, least in (("steps", 0), ("batch_size", 2), ("seed", 0)):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"`{name}`", least))
        for name in ("learning_rate", "temperature", "pair_weight"):
            object.__setattr__(self, name, positive_number(getattr(self, name), f"`{name}`"))


def fit_adaptor(
    embeddings: np.ndarray,
    nesting_dims: Sequence[int],
    hidden: int | None = None,
    pairs: tuple[np.ndarray, np.ndarray] | None = None,
    options: AdaptorOptions | None = None,
    verbose: int | str = 0,
) -> MatryoshkaAdaptor:
    """An adaptor of embeddings that exist, trained without labels.

    The rotation is taken from all rows. Then each step compares some random rows with each
    other: `MatryoshkaLoss(KeptSimilarities())` asks every prefix for the neighbours that the
    embeddings themselves have. Rows of queries among `embeddings` help queries.

    Args:
        embeddings: (rows, d) array or memory map, of any real dtype; a step reads its own rows.
        nesting_dims, hidden: as for `MatryoshkaAdaptor`.
        pairs: optional (queries, documents), both (pairs, d): query i is answered by document i.
            `SymmetricContrastive` then ranks a step's pairs at every prefix, beside the loss above.
        options: `AdaptorOptions`; `None` takes its defaults.
        verbose: as for Keras's `fit`. Default 0.

    Returns:
        A `MatryoshkaAdaptor`.

    Raises:
        ValueError: wrong shapes, fewer than 2 rows, rows with NaN or inf (named by number), or
            options out of range.

    Example:

    >>> from mrl_keras.models import AdaptorOptions, fit_adaptor
    >>> rows = np.random.default_rng(0).standard_normal((200, 8)).astype("float32")
    >>> adaptor = fit_adaptor(rows, [2, 4, 8], options=AdaptorOptions(steps=5))
    >>> next(adaptor.chunks(rows)).shape
    (200, 8)

    Source: arXiv 2407.20243 (Matryoshka-Adaptor); the loss is `KeptSimilarities`'s.
    """
    options = options or AdaptorOptions()
    adaptor = MatryoshkaAdaptor(nesting_dims, hidden, options.seed)
    adaptor.adapt(embeddings)
    if options.steps and adaptor.hidden:
        batches = _Batches(embeddings, pairs, adaptor.nesting_dims, options)
        _trainer(adaptor, pairs is not None, options).fit(batches, shuffle=False, verbose=verbose)
    return adaptor


def _trainer(adaptor, with_pairs, options):
    """The compiled model that trains `adaptor`."""
    dims = adaptor.nesting_dims

    def similarity(name, temperature=1.0):
        return MatryoshkaSimilarity(dims, temperature=temperature, dtype="float32", name=name)

    def nested(inner):
        return MatryoshkaLoss(inner, options.relative_importance)

    inputs = {"rows": keras.Input((dims.width,), name="rows")}
    adapted = adaptor(inputs["rows"])
    outputs = {"kept": similarity("kept")([adapted, adapted])}
    losses, weights = {"kept": nested(KeptSimilarities(options.temperature))}, {"kept": 1.0}
    if with_pairs:
        sides = [keras.Input((dims.width,), name=name) for name in ("queries", "documents")]
        inputs |= {side.name: side for side in sides}
        outputs["ranked"] = similarity("ranked", options.temperature)([adaptor(s) for s in sides])
        losses["ranked"], weights["ranked"] = nested(SymmetricContrastive()), options.pair_weight
    model = keras.Model(inputs, outputs)
    rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
    # A few hundred steps don't repay a compilation; JAX without one is far slower.
    compiled = "auto" if keras.backend.backend() == "jax" else False
    optimizer = keras.optimizers.AdamW(rate)
    model.compile(optimizer, loss=losses, loss_weights=weights, jit_compile=compiled)
    return model


class _Batches(keras.utils.PyDataset):
    """The steps of a training: rows of a step, their cosines, and pairs.

    Every step of an epoch over the rows takes rows that no other step has; then they are mixed
    anew. A step's rows are read in ascending order, which suits a memory map.
    """

    def __init__(self, embeddings, pairs, dims, options):
        super().__init__()
        self._rows = _checked_rows(embeddings, dims, "`embeddings`", least=2)
        self._options, self._pairs = options, pairs
        if pairs is not None:
            for side in pairs:
                for _ in _chunks(side, dims, "Each of `pairs`"):
                    pass  # checked
            if len(pairs) != 2 or len(pairs[0]) != len(pairs[1]):
                raise ValueError(
                    "`pairs` must be (queries, documents) of one length. Received the shapes "
                    f"{[np.shape(side) for side in pairs]}."
                )

    def __len__(self):
        return self._options.steps

    def __getitem__(self, step):
        rows = _unit_rows(np.asarray(self._taken(self._rows, step), "float32"))
        inputs, targets = {"rows": rows}, {"kept": rows @ rows.T}
        if self._pairs is not None:
            queries, documents = (self._taken(side, step) for side in self._pairs)
            inputs |= {"queries": np.asarray(queries), "documents": np.asarray(documents)}
            targets["ranked"] = np.arange(len(queries))
        return inputs, targets

    def _taken(self, table, step):
        size = min(self._options.batch_size, len(table))
        each = len(table) // size
        order = _order(self._options.seed, step // each, len(table))
        first = step % each * size
        return table[np.sort(order[first : first + size])]


@functools.lru_cache(maxsize=2)
def _order(seed, epoch, count):
    return np.random.default_rng([seed, epoch]).permutation(count)


def _checked_rows(rows, dims, what, least=1):
    shape = np.shape(rows)
    if len(shape) != 2 or shape[1] != dims.width or shape[0] < least:
        raise ValueError(
            f"{what} must have the shape (rows, {dims.width}) with at least {least} rows: the "
            f"width at which `nesting_dims` {list(dims)} end. Received {shape}; change the dims, "
            "or check what made the embeddings."
        )
    return rows


def _chunks(rows, dims, what):
    """Chunks of checked rows, float32."""
    rows = _checked_rows(rows, dims, what)
    for first in range(0, len(rows), _CHUNK_ROWS):
        chunk = as_float32(rows[first : first + _CHUNK_ROWS])
        bad = ~np.isfinite(chunk).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{what} must be finite, also as float32. Received NaN, inf or overflow in row "
                f"{first + int(np.flatnonzero(bad)[0])}. Remove such rows."
            )
        yield chunk


def _unit_rows(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
