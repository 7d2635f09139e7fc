"""A partition of the rows of an index that is learned with the encoder, on a small prefix."""

import warnings

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope

from mrl_keras.checks import checked_number, positive_number, whole_number
from mrl_keras.layers.prefix_normalization import normalize_prefix
from mrl_keras.registry import register
from mrl_keras.replicas import gather_rows, replica_position

# A leaf with less than this part of its equal share of the rows is dead.
DEAD = 0.1
# A partition that works like less than this part of its leaves has collapsed.
COLLAPSED = 0.1


def nearest_other(embeddings):
    """The row of the batch with the highest cosine to each row, itself left out: int (rows,).

    Args:
        embeddings: float32 tensor (rows, d). A batch of one row has only itself.
    """
    unit = normalize_prefix(embeddings, embeddings.shape[-1])
    cosines = ops.matmul(unit, ops.transpose(unit))
    places = ops.arange(ops.shape(unit)[0])
    itself = ops.equal(places[:, None], places[None, :])
    return ops.argmax(ops.where(itself, -2.0, cosines), axis=-1)


def same_leaf_loss(log_shares, positives):
    """-log P(a query and its positive fall into one leaf), the mean over the rows.

    P = sum over the leaves of p(leaf | query) p(leaf | positive).

    Args:
        log_shares: float32 tensor (rows, leaves), log p(leaf | query).
        positives: float32 tensor (rows, leaves), log p(leaf | positive of the row's query).
    """
    return _mean(-ops.logsumexp(ops.add(log_shares, positives), axis=-1))


def balance_loss(log_shares, usage):
    """leaves * sum over leaves of usage * mean p(leaf), less 1: 0 where all leaves have as many.

    Args:
        log_shares: float32 tensor (rows, leaves), log p(leaf | row).
        usage: float32 tensor (leaves,), the share of rows in each leaf, without gradient.
    """
    load = ops.sum(ops.multiply(ops.exp(log_shares), usage), axis=-1)
    return _mean(ops.subtract(ops.multiply(float(log_shares.shape[-1]), load), 1.0))


def moved_leaves(state, rows, decay):
    """The state of the leaves after a batch: running means of their rows, dead leaves revived.

    usage = decay * usage + (1 - decay) * share of the batch's rows, sums likewise of the rows
    themselves, and a centre is the direction of its sum. A dead leaf, one with less than a tenth
    of its equal share, gets a row of the most crowded leaves, and counts as one on the edge of
    being dead until rows come to it.

    Args:
        state: {"centres": (leaves, dims), unit or zero, "sums": (leaves, dims), "usage":
            (leaves,)}, float32 tensors, zeros at first.
        rows: float32 tensor (rows, dims), L2-normalised, without gradient; those that are not
            finite do not count.
        decay: float in [0, 1).

    Returns:
        The state after the batch.
    """
    leaves, count = state["usage"].shape[0], ops.shape(rows)[0]
    finite = ops.all(ops.isfinite(rows), axis=-1, keepdims=True)
    rows = ops.where(finite, rows, 0.0)  # such rows would stay in the means for ever
    own = ops.argmax(ops.matmul(rows, ops.transpose(state["centres"])), axis=-1)
    chosen = ops.where(finite, ops.one_hot(own, leaves, dtype="float32"), 0.0)
    total = ops.cast(count, "float32")
    usage = decay * state["usage"] + (1.0 - decay) * ops.sum(chosen, axis=0) / total
    sums = decay * state["sums"] + (1.0 - decay) * ops.matmul(ops.transpose(chosen), rows) / total
    edge = DEAD / leaves
    dead = ops.less(usage, edge)
    # The rows by how crowded their leaf is; each dead leaf takes the next one.
    order = ops.argsort(-ops.take(usage, own, axis=0))
    turn = ops.cumsum(ops.cast(dead, "int32")) - 1
    turn = ops.mod(ops.maximum(turn, 0), count)
    new = ops.take(rows, ops.take(order, turn, axis=0), axis=0)
    dead_column = ops.expand_dims(dead, -1)
    sums = ops.where(dead_column, edge * new, sums)
    return {
        "centres": normalize_prefix(sums, sums.shape[-1]),
        "sums": sums,
        "usage": ops.where(dead, edge, usage),
    }


def perplexity(usage):
    """exp(entropy of the leaves' shares): how many equal leaves would spread the rows as evenly.

    Args:
        usage: float32 tensor (leaves,), none negative; zeros alone give 1.
    """
    shares = ops.divide_no_nan(usage, ops.sum(usage))
    logs = ops.log(ops.where(ops.greater(shares, 0.0), shares, 1.0))
    return ops.exp(-ops.sum(ops.multiply(shares, logs)))


def dead_leaves(usage):
    """Which leaves are dead, bool (leaves,): those with at most a tenth of their equal share."""
    return ops.less_equal(usage, DEAD / usage.shape[0] * (1.0 + 1e-6))


def _mean(values):
    return ops.divide(ops.sum(values), ops.cast(ops.shape(values)[0], values.dtype))


class _LeafUse(keras.metrics.Metric):
    """How evenly a codebook's leaves are used, read from the layer: it has no variables."""

    def __init__(self, layer_name, usage):
        super().__init__(name=f"{layer_name}_use")
        self._layer_name, self._usage = layer_name, usage

    def update_state(self, *args, **kwargs):
        """Nothing: the layer counts."""

    def result(self):
        usage = self._usage()
        dead = ops.mean(ops.cast(dead_leaves(usage), "float32"))
        return {
            f"{self._layer_name}_perplexity": perplexity(usage),
            f"{self._layer_name}_dead": dead,
        }


@register
class PrefixCodebook(keras.layers.Layer):
    """Learns the leaves of a partition, by a small prefix, together with the encoder.

    The layer gives its inputs back as they are. While a model trains it moves the centres of the
    leaves, and adds to the model's loss

        same_leaf * -mean log sum over leaves of p(leaf | x) p(leaf | positive of x)
        + balance * (leaves * sum over leaves of usage * mean p(leaf | x) - 1)

    with p(leaf | x) = softmax(cos(x[:dim], centre) / temperature): a query's positive falls into
    the query's leaf, and no leaf gets more than its share of the rows. The positive is the row of
    the batch with the highest cosine at the full width, or the query's own document. Centres are
    running means of the L2-normalised prefixes that they are nearest to, not weights that an
    optimizer trains; `usage` is a running mean too. Each new batch moves dead leaves, those with
    less than a tenth of their equal share, to rows of the most crowded ones.

    `fit` logs "NAME_perplexity", how many equal leaves would spread the rows as evenly (1 to
    `num_leaves`), and "NAME_dead", the share of dead leaves; NAME is the layer's. On JAX both are 1
    until an epoch ends. Replicas of `tf.distribute` share one batch.

    Leaves are learned from rows as training embeds them. Where an index embeds them otherwise, as
    without augmentation and with the moving means of batch normalisation, they are less even than
    `fit` says. Large weights cost accuracy; recipes/results/beyond/codebook.md has what a report
    found, in which k-means on the same prefix is ahead.

    Args:
        num_leaves: int of at least 2; some square root of the rows of the index is common.
        dim: int, the prefix that is clustered.
        temperature: float above 0, of the cosines. Default 0.1.
        same_leaf: float of at least 0, the first weight. Default 1.0.
        balance: float of at least 0, the second weight. Default 1.0.
        decay: float in [0, 1), of the running means at each batch. Default 0.99.
        **kwargs: `name`, `dtype`, `trainable`. A layer that is not trainable learns no leaves.

    Input shape:
        (rows, d) with d at least `dim`, whose rows are queries and documents; or a list [queries,
        documents] of this shape, of which row i belongs to row i. Leaves hold documents.

    Output shape:
        That of the input.

    Raises:
        ValueError: an argument out of range, or inputs of another shape.

    Example:

    >>> from mrl_keras import MatryoshkaDense, MatryoshkaLoss, PrefixCodebook
    >>> inputs = keras.Input((16,))
    >>> codebook = PrefixCodebook(num_leaves=4, dim=2, name="leaves")
    >>> embedding = codebook(keras.layers.Dense(8)(inputs))
    >>> model = keras.Model(inputs, MatryoshkaDense(3, [2, 8])(embedding))
    >>> crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("sgd", MatryoshkaLoss(crossentropy))
    >>> images, labels = np.random.default_rng(0).random((64, 16)), np.arange(64) % 3
    >>> history = model.fit(images, labels, batch_size=16, verbose=0).history
    >>> sorted(history)
    ['leaves_dead', 'leaves_perplexity', 'loss']
    >>> codebook.leaf_centres().shape  # for PartitionParameters(2, 4, centres=...)
    (4, 2)

    Source: arXiv 2205.13147, Section 6, the fourth direction of future work. The running means and
    the balance follow Streaming VQ (arXiv 2501.08695) and VQ-VAE (1711.00937, Appendix A.1); a
    loss that keeps a query and its positive in one leaf is that of EHI (2310.08891), here the
    probability of it. The balance's formula is that of Switch Transformers (2101.03961, Eq. 4).
    """

    def __init__(
        self,
        num_leaves,
        dim,
        temperature=0.1,
        same_leaf=1.0,
        balance=1.0,
        decay=0.99,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_leaves = whole_number(num_leaves, "`num_leaves`", least=2)
        self.dim = whole_number(dim, "`dim`")
        self.temperature = positive_number(temperature, "`temperature`")
        self.same_leaf = checked_number(same_leaf, "`same_leaf`", least=0.0)
        self.balance = checked_number(balance, "`balance`", least=0.0)
        self.decay = checked_number(decay, "`decay`", least=0.0, most=1.0 - 1e-9)
        self.autocast = False  # cosines in float32
        self._use = _LeafUse(self.name, self._usage)

    def build(self, input_shape):
        self._check_shape(input_shape)
        shapes = {
            "centres": (self.num_leaves, self.dim),
            "sums": (self.num_leaves, self.dim),
            "usage": (self.num_leaves,),
        }
        # Written alike by all replicas.
        options = {"trainable": False, "autocast": False, "dtype": "float32"}
        self._state = {
            name: self.add_weight(
                name=name, shape=shape, initializer="zeros", aggregation="mean", **options
            )
            for name, shape in shapes.items()
        }

    def call(self, inputs, training=None):
        if training and self.trainable:
            self._learn(*inputs) if isinstance(inputs, (list, tuple)) else self._learn(inputs)
        return keras.tree.map_structure(lambda x: ops.cast(x, self.compute_dtype), inputs)

    def _learn(self, queries, documents=None):
        """Moves the leaves by a batch, and adds its loss."""
        # Each replica computes the batch of all, so that it has the same loss and state.
        queries = gather_rows(ops.cast(queries, "float32"))
        unit_queries = normalize_prefix(queries, self.dim)
        unit_documents = unit_queries
        if documents is not None:
            documents = gather_rows(ops.cast(documents, "float32"))
            unit_documents = normalize_prefix(documents, self.dim)
        now = {name: ops.convert_to_tensor(one) for name, one in self._state.items()}
        after = moved_leaves(now, ops.stop_gradient(unit_documents), self.decay)
        for name, value in after.items():
            self._state[name].assign(value)
        log_shares = self._log_shares(unit_queries, after["centres"])
        held = log_shares
        if documents is None:
            nearest = nearest_other(ops.stop_gradient(queries))
            positives = ops.take(log_shares, nearest, axis=0)
        else:
            held = positives = self._log_shares(unit_documents, after["centres"])
        loss = self.same_leaf * same_leaf_loss(log_shares, positives)
        if replica_position()[1] > 1:
            # The replicas of one process take turns in here, and share the list of losses.
            self._losses.clear()
        self.add_loss(loss + self.balance * balance_loss(held, after["usage"]))

    def _log_shares(self, rows, centres):
        cosines = ops.matmul(rows, ops.transpose(centres))
        return ops.log_softmax(ops.divide(cosines, self.temperature), axis=-1)

    def leaf_centres(self):
        """The centres for `PartitionParameters(centres=...)`, float32 array (leaves, dim).

        Each has length 1. Warns of dead leaves, by number.

        Raises:
            ValueError: the layer was not trained, it has values that are not finite, or its leaves
                collapsed: a tenth of them would spread the rows as evenly.
        """
        centres, usage = (self._array(name) for name in ("centres", "usage"))
        if not usage.any():
            raise ValueError(
                f"The codebook {self.name!r} has no leaves yet: train its model with `fit` first."
            )
        if not (np.isfinite(centres).all() and np.isfinite(usage).all()):
            raise ValueError(
                f"The codebook {self.name!r} has centres that are not finite. Its embeddings were "
                "NaN or infinite in training: use a smaller learning rate, or clip gradients."
            )
        effective = float(perplexity(ops.convert_to_tensor(usage)))
        dead = np.flatnonzero(ops.convert_to_numpy(dead_leaves(usage)))
        if effective < max(COLLAPSED * self.num_leaves, 1.5):
            raise ValueError(
                f"The codebook {self.name!r} has collapsed: its {self.num_leaves} leaves spread "
                f"the rows as {effective:.1f} equal ones would. Use a larger `balance` than "
                f"{self.balance:g}, or fewer leaves."
            )
        if dead.size:
            warnings.warn(
                f"Dead leaves of the codebook {self.name!r}: {dead.tolist()}. They hold next to no "
                "rows; train for longer, or use fewer leaves.",
                stacklevel=2,
            )
        return centres

    def _usage(self):
        """The usage, or zeros within a step on JAX, where metrics see their own variables alone."""
        usage = self._state["usage"]
        if in_stateless_scope() and get_stateless_scope().get_current_value(usage) is None:
            return ops.zeros((self.num_leaves,))
        return ops.convert_to_tensor(usage)

    def _array(self, name):
        """A part of the state as a NumPy array; 0 before the layer is built."""
        return ops.convert_to_numpy(self._state[name]) if self.built else np.zeros(())

    def compute_output_shape(self, input_shape):
        self._check_shape(input_shape)
        return input_shape

    def _check_shape(self, shape):
        pair = isinstance(shape, list) and len(shape) == 2 and isinstance(shape[0], (list, tuple))
        shapes = shape if pair else [shape]
        if not all(len(one) == 2 and one[-1] and one[-1] >= self.dim for one in shapes):
            raise ValueError(
                f"PrefixCodebook needs embeddings (rows, d) with d at least `dim` = {self.dim}, or "
                f"a list of two, queries and documents. Received the shape {shape}."
            )

    def get_config(self):
        return {
            **super().get_config(),
            "num_leaves": self.num_leaves,
            "dim": self.dim,
            "temperature": self.temperature,
            "same_leaf": self.same_leaf,
            "balance": self.balance,
            "decay": self.decay,
        }
