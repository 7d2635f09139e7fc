"""Softmax crossentropy of every prefix against a vocabulary, a block of the vocabulary at a time.

With h of n positions, the embedding table E (vocabulary, d) and one bias b for all prefixes,
prefix m's logits are z_m = h[:, :m] @ E[:, :m]^T + b (MRL-E). Kept, they take n * prefixes *
vocabulary numbers. Here only those of one block of the vocabulary are alive: the sums of the
softmax run over the blocks, and the gradient computes each block's logits a second time.
"""

import numpy as np
from keras import backend, ops

from mrl_keras.layers.matryoshka_dense import efficient_prefix_logits, split_blocks

LOWEST = -1e30  # where a running maximum starts: finite, so that no difference is inf - inf


def nested_label_scores(hidden, table, bias, labels, dims, block_size):
    """Crossentropy of the label, and whether it has the largest logit, for every prefix.

    crossentropy_m = logsumexp(z_m) - z_m[label], with z_m = h[:, :m] @ E[:, :m]^T + b. In
    value and in gradient each dimension's product is computed once for all prefixes.

    Args:
        hidden: float tensor h (n, d). Half precision is widened, so that logits are summed
            in float32.
        table: float tensor E (vocabulary, d).
        bias: float tensor b (vocabulary,).
        labels: int tensor (n,). A label outside [0, vocabulary) gives NaN.
        dims: NestingDims that end at d.
        block_size: int, vocabulary entries whose logits are computed together. They take
            n * prefixes * block_size numbers.

    Returns:
        Tensor (n, prefixes, 2), float32 (float64 for float64 `hidden`): the crossentropy,
        then 1 where no logit exceeds the label's and 0 elsewhere. The gradient is that of
        the crossentropy; the second column has none.

    Example:

    >>> from mrl_keras.nesting import NestingDims
    >>> h, table, bias = ops.zeros((1, 2)), ops.zeros((4, 2)), ops.zeros(4)
    >>> scores = nested_label_scores(h, table, bias, ops.array([3]), NestingDims([1, 2]), 3)
    >>> [round(float(loss), 4) for loss in scores[0, :, 0]]  # log(4)
    [1.3863, 1.3863]

    Source: arXiv 2205.13147, Section 3 (weight-tying, MRL-E for masked language models).
    """
    dtype = backend.result_type(backend.standardize_dtype(hidden.dtype), "float32")

    @ops.custom_gradient
    def scores(hidden, table, bias):
        columns = ops.transpose(ops.cast(hidden, dtype))
        blocks = _Blocks(columns, table, bias, labels, dims, block_size)
        largest, logsum, picked = _softmax_sums(blocks)
        inside = ops.logical_and(labels >= 0, labels < table.shape[0])
        crossentropy = ops.where(inside, ops.subtract(logsum, picked), float("nan"))
        correct = ops.cast(ops.logical_and(inside, picked >= largest), dtype)
        result = ops.transpose(ops.stack([crossentropy, correct]), (2, 1, 0))

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            weights = ops.transpose(upstream[..., 0])
            found = _gradients(blocks, logsum, weights)
            originals = zip(found, (hidden, table, bias), strict=True)
            return tuple(ops.cast(one, x.dtype) for one, x in originals)

        return result, gradient

    # Reshaping reads a variable, whose own reads TensorFlow's custom gradients would not allow.
    return scores(*(ops.reshape(x, ops.shape(x)) for x in (hidden, table, bias)))


class _Blocks:
    """The vocabulary cut into blocks, and each block's logits.

    Entries are on the first axis, so that sums over them run along vectors of positions and
    so that the table's rows are read and their gradients written in one piece. All blocks
    have one size: the last begins early, and there what came before has no weight.
    """

    def __init__(self, columns, table, bias, labels, dims, size):
        self.columns, self.table, self.bias = columns, table, bias
        self.labels, self.dims = labels, dims
        self.vocabulary = table.shape[0]
        self.size = min(size, self.vocabulary)
        self.count = -(-self.vocabulary // self.size)

    def start(self, number):
        return ops.minimum(ops.multiply(number, self.size), self.vocabulary - self.size)

    def rows(self, number):
        """The block's part of the table (size, d)."""
        rows = ops.slice(self.table, (self.start(number), 0), (self.size, self.dims.width))
        return ops.cast(rows, self.columns.dtype)

    def logits(self, number, rows):
        """One tensor of logits (size, n) for each prefix."""
        entries = ops.add(self.start(number), ops.arange(self.size, dtype="int32"))
        is_new = ops.greater_equal(entries, ops.multiply(number, self.size))
        bias = ops.slice(self.bias, (self.start(number),), (self.size,))
        bias = ops.where(is_new, ops.cast(bias, self.columns.dtype), LOWEST)
        return efficient_prefix_logits(rows, self.columns, ops.expand_dims(bias, 1), self.dims)

    def of_labels(self, number, logits):
        """The labels' logits (prefixes, n), 0 where a label is not among the block's new entries.

        Taken out of `logits`, and not multiplied anew, they are equal to the last bit, so that
        the label is the largest where it should be.
        """
        place = ops.subtract(self.labels, self.start(number))
        is_new = ops.greater_equal(self.labels, ops.multiply(number, self.size))
        here = ops.logical_and(is_new, ops.less(place, self.size))
        count = ops.size(place)
        flat = ops.add(ops.multiply(ops.where(here, place, 0), count), ops.arange(count))
        found = ops.stack([ops.take(ops.ravel(z), flat) for z in logits])
        return ops.where(here, found, 0.0)

    def run(self, step, state):
        """`step(number, *state) -> state` for one block after the other."""

        def body(number, *state):
            state = step(number, *state)
            # Blocks must not overlap in time either, which TensorFlow's graphs would let
            # them: the next number is known only when this state is. It adds 0.
            known = sum(ops.sum(ops.ravel(one)[:1]) for one in state)
            later = ops.minimum(ops.cast(ops.isnan(known), "int32"), 0)
            return (ops.add(ops.add(number, 1), later), *state)

        begin = (ops.zeros((), "int32"), *state)
        return ops.while_loop(lambda number, *_: ops.less(number, self.count), body, begin)[1:]


def _softmax_sums(blocks):
    """Of every prefix and position: largest logit, logsumexp, the label's logit (prefixes, n)."""

    def step(number, largest, total, picked):
        logits = blocks.logits(number, blocks.rows(number))
        found = [ops.max(z, axis=0, initial=LOWEST) for z in logits]
        highest = ops.stack([ops.maximum(largest[i], one) for i, one in enumerate(found)])
        total = ops.multiply(total, ops.exp(ops.subtract(largest, highest)))
        shifted = [ops.exp(ops.subtract(z, highest[i])) for i, z in enumerate(logits)]
        total = ops.add(total, ops.stack([ops.sum(one, axis=0) for one in shifted]))
        return highest, total, ops.add(picked, blocks.of_labels(number, logits))

    zeros = ops.zeros((len(blocks.dims), ops.shape(blocks.columns)[1]), blocks.columns.dtype)
    largest, total, picked = blocks.run(step, (ops.add(zeros, LOWEST), zeros, zeros))
    return largest, ops.add(ops.log(total), largest), picked


def _gradients(blocks, logsum, weights):
    """Of sum(weights * crossentropy) with respect to hidden, table and bias.

    d/d z_m = weights_m * (softmax(z_m) - [label]). The product of block j of the dims enters
    the logits of every prefix from j on, so what reaches it is the sum of their gradients.
    """
    column_blocks = split_blocks(blocks.columns, blocks.dims, axis=0)

    def step(number, to_columns, to_table, to_bias):
        rows = blocks.rows(number)
        logits, reaching = blocks.logits(number, rows), []
        for i in reversed(range(len(logits))):
            softmax = ops.exp(ops.subtract(logits[i], logsum[i]))
            own = ops.multiply(softmax, weights[i])
            reaching.append(ops.add(reaching[-1], own) if reaching else own)
        reaching.reverse()
        row_blocks = split_blocks(rows, blocks.dims)
        pairs = list(zip(reaching, row_blocks, column_blocks, strict=True))
        columns_part = [ops.matmul(ops.transpose(row), reach) for reach, row, _ in pairs]
        rows_part = [ops.matmul(reach, ops.transpose(column)) for reach, _, column in pairs]
        start = blocks.start(number)
        return (
            ops.add(to_columns, ops.concatenate(columns_part, axis=0)),
            _add_at(to_table, (start, 0), ops.concatenate(rows_part, axis=1)),
            _add_at(to_bias, (start,), ops.sum(reaching[0], axis=1)),
        )

    to_columns, to_table, to_bias = blocks.run(step, _label_gradients(blocks, weights))
    return ops.transpose(to_columns), to_table, to_bias


def _label_gradients(blocks, weights):
    """Of sum(-weights * the label's logit) with respect to columns, table and bias."""
    inside = ops.logical_and(blocks.labels >= 0, blocks.labels < blocks.vocabulary)
    labels = ops.where(inside, blocks.labels, 0)
    # What reaches a block of the dims is the sum over the prefixes that have it.
    reaching = ops.flip(ops.cumsum(ops.flip(ops.where(inside, -weights, 0.0), 0), axis=0), 0)
    sizes = np.diff([0, *blocks.dims])
    by_dim = ops.take(reaching, np.repeat(np.arange(len(sizes)), sizes), axis=0)
    rows = ops.cast(ops.take(blocks.table, labels, axis=0), blocks.columns.dtype)

    def at_labels(values):
        return ops.segment_sum(values, labels, num_segments=blocks.vocabulary)

    to_table = at_labels(ops.transpose(ops.multiply(by_dim, blocks.columns)))
    return ops.multiply(by_dim, ops.transpose(rows)), to_table, at_labels(reaching[0])


def _add_at(x, start, update):
    """`x` with `update` added where it begins at `start`."""
    return ops.slice_update(x, start, ops.add(ops.slice(x, start, update.shape), update))
