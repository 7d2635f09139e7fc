"""The symmetric contrastive loss of a batch of pairs, from one exponential."""

import keras
from keras import ops

from mrl_keras.losses.labelled import LabelledLoss
from mrl_keras.registry import register, register_as
from mrl_keras.replicas import first_row, gather_rows, replica_position

# Exponentials are taken of logits - shift <= 50, and used where every sum lies within
# e^-57 and e^57 (about 1e-25 and 1e25): far from where float32 exponentials overflow
# (e^88) or are flushed (e^-87), so that neither sums nor 1 / sums lose accuracy.
LARGEST_EXPONENT = 50.0
SMALLEST_SUM, LARGEST_SUM = 1e-25, 1e25

POSITIVES = ("diagonal", "gathered", "labels", "scores")
LARGEST_EXACT_INTEGER = {"float16": 2048, "bfloat16": 256}


def row_and_column_logsumexp(logits):
    """log sum_j exp(logits[i, j]) for each row i, then the same over rows for each column j.

    Row and column softmax share one exponential, E = exp(logits - shift), in value and in
    gradient: with row sums r and column sums c of E, and upstream gradients u and v,
    d/d logits[i, j] = E[i, j] * (u[i] / r[i] + v[j] / c[j]).
    One shift serves all rows and columns while their maxima lie within 107 of the largest
    logit, which for cosines holds at every temperature from 0.0187 up. Where it does not
    hold the sums show it, and rows and columns are shifted by their own maxima.

    Args:
        logits: float32 or float64 tensor (n, m).

    Returns:
        Tensor (n + m,), finite for finite logits.
    """

    @ops.custom_gradient
    def logsumexp(logits):
        rows = ops.shape(logits)[0]
        shift = ops.maximum(ops.max(logits) - LARGEST_EXPONENT, 0.0)
        shared = ops.exp(ops.subtract(logits, shift))
        sums = ops.concatenate([ops.sum(shared, axis=1), ops.sum(shared, axis=0)])
        in_range = ops.logical_and(ops.min(sums) > SMALLEST_SUM, ops.max(sums) < LARGEST_SUM)
        result = ops.cond(
            in_range,
            lambda: ops.add(ops.log(sums), shift),
            lambda: ops.concatenate([ops.logsumexp(logits, axis=1), ops.logsumexp(logits, axis=0)]),
        )

        def as_column_and_row(values):
            return ops.expand_dims(values[:rows], 1), ops.expand_dims(values[rows:], 0)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream

            def from_shared():
                column, row = as_column_and_row(ops.divide(upstream, sums))
                return ops.multiply(shared, ops.add(column, row))

            def from_separate():
                pairs = zip(as_column_and_row(upstream), as_column_and_row(result), strict=True)
                return sum(ops.multiply(ops.exp(logits - own), weight) for weight, own in pairs)

            return ops.cond(in_range, from_shared, from_separate)

        return result, gradient

    return logsumexp(logits)


def symmetric_contrastive(y_true, y_pred):
    """Mean of two softmax crossentropies: over the columns of row i, and the rows of column y_i.

    loss[i] = (logsumexp_j S[i, j] + logsumexp_k S[k, y_i]) / 2 - S[i, y_i]

    Args:
        y_true: None, where the positives are on the diagonal (y_i = i), or integer labels
            (n,) or (n, 1), the column of each row's positive. A label outside [0, m) gives
            NaN.
        y_pred: logits S (n, m), computed in float32 at least; with m >= n for a diagonal.

    Returns:
        Tensor (n,), float32 or float64.

    Raises:
        ValueError: shapes that don't fit, or labels in a half precision dtype which does
            not hold all integers below m.

    Example:

    >>> logits = np.log(np.array([[3.0, 1.0], [2.0, 4.0]], "float32"))
    >>> values = keras.ops.convert_to_numpy(symmetric_contrastive(None, logits))
    >>> np.allclose(np.exp(-2 * values), [3 / 4 * 3 / 5, 4 / 6 * 4 / 5])
    True

    Source: arXiv 2205.13147, Section 3 (contrastive learning); the loss is that of ALIGN
    (arXiv 2102.05918, Section 4.1).
    """
    logits = _wide(y_pred)
    if y_true is None:
        _check_diagonal(logits.shape)
        labels = ops.arange(ops.shape(logits)[0])
    else:
        y_true = ops.convert_to_tensor(y_true)
        _check_labels(y_true, logits.shape)
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
    if 0 in tuple(logits.shape):  # no row, or no column for a label to name
        return ops.sum(logits, axis=1) + (0.0 if logits.shape[0] == 0 else float("nan"))
    rows, columns = ops.shape(logits)
    inside = ops.logical_and(labels >= 0, labels < columns)
    labels = ops.where(inside, labels, 0)
    sums = row_and_column_logsumexp(logits)
    value = _crossentropies(logits, labels, sums[:rows], sums[rows:])
    return ops.where(inside, value, float("nan"))


def gathered_symmetric_contrastive(y_pred):
    """`symmetric_contrastive` of this replica's pairs within the batch of all replicas.

    A replica's rows are whole, and of each column it knows a part. The parts are added up over
    the replicas, which moves one number for each column, and spares every replica the n x n
    logits of the others.

    Args:
        y_pred: logits (rows, rows of all replicas), this replica's queries against the documents
            of all, in the order of the replicas. Computed in float32 at least.

    Returns:
        Tensor (rows,), float32 or float64.

    Raises:
        ValueError: another number of columns.

    Example:

    >>> logits = np.log(np.array([[3.0, 1.0], [2.0, 4.0]], "float32"))
    >>> values = keras.ops.convert_to_numpy(gathered_symmetric_contrastive(logits))
    >>> np.allclose(np.exp(-2 * values), [3 / 4 * 3 / 5, 4 / 6 * 4 / 5])
    True

    Source: arXiv 2102.05918, Section 4.1: ALIGN's negatives come from the batches of all cores.
    """
    logits = _wide(y_pred)
    replicas = replica_position()[1]
    _check_gathered(logits.shape, replicas)
    if replicas == 1 and logits.shape[0] == 0:
        return ops.sum(logits, axis=1)
    rows = ops.shape(logits)[0]
    sums = row_and_column_logsumexp(logits)
    own = ops.arange(rows) + first_row(rows)
    return _crossentropies(logits, own, sums[:rows], logsumexp_of_replicas(sums[rows:]))


def logsumexp_of_replicas(columns):
    """The logsumexp of columns (m, ...) over the rows of all replicas, from each one's own."""
    return ops.logsumexp(gather_rows(ops.expand_dims(columns, 0)), axis=0)


def _wide(logits):
    logits = ops.convert_to_tensor(logits)
    float64 = keras.backend.standardize_dtype(logits.dtype) == "float64"
    return logits if float64 else ops.cast(logits, "float32")


def _crossentropies(logits, labels, rows, columns):
    """The mean of both crossentropies, from the logsumexp of all rows and of all columns."""

    def of_rows():
        return ops.squeeze(ops.take_along_axis(logits, ops.expand_dims(labels, 1), axis=1), 1)

    if logits.shape[0] is None:  # TensorFlow cannot take from a matrix without rows and columns
        positive = ops.cond(ops.shape(logits)[0] > 0, of_rows, lambda: ops.sum(logits, axis=1))
    else:
        positive = of_rows()
    return 0.5 * (rows + ops.take(columns, labels)) - positive


def _scored(scores):
    if len(scores.shape) != 2 or scores.shape[1] != 2:
        raise ValueError(
            'With `positives="scores"` the contrastive loss takes the scores (rows, 2) of one '
            f"prefix, which ContrastiveScores gives. Received {tuple(scores.shape)}; logits need "
            '`positives="gathered"`, "diagonal" or "labels".'
        )
    return scores[:, 0]


def _check_gathered(shape, replicas):
    known = len(shape) == 2 and None not in shape
    if len(shape) != 2 or (known and shape[1] != replicas * shape[0]):
        raise ValueError(
            'With `positives="gathered"` the contrastive loss needs logits (rows, replicas * rows) '
            f"of this replica's queries against the documents of all {replicas} replicas. Received "
            f"{tuple(shape)}; `GatheredBatch` gathers the documents, and further negatives need "
            '`positives="diagonal"` or "labels".'
        )


def check_own_columns(shape):
    """Refuse logits that `GatheredBatch` has made where the diagonal is asked for."""
    replicas = replica_position()[1]
    if replicas > 1 and len(shape) == 2 and None not in shape and shape[1] == replicas * shape[0]:
        raise ValueError(
            f"Logits {tuple(shape)} on {replicas} replicas are those of the gathered batch, whose "
            'positives are not on the diagonal: set `positives="gathered"`. Where the further '
            'columns are this replica\'s own negatives, set `positives="labels"` and give each '
            "row's column as y_true."
        )


def _check_diagonal(shape):
    if len(shape) != 2 or (None not in shape and shape[0] > shape[1]):
        raise ValueError(
            "With positives on the diagonal the contrastive loss needs logits (n, m) with m at "
            f"least n. Received y_pred {tuple(shape)}; for other positives pass their columns as "
            'y_true and set `positives="labels"`.'
        )


def _check_labels(y_true, shape):
    given = tuple(y_true.shape)
    one_each = len(given) == 1 or (len(given) == 2 and given[1] == 1)
    fits = one_each and len(shape) == 2 and (None in (given[0], shape[0]) or given[0] == shape[0])
    if not fits:
        raise ValueError(
            "The contrastive loss needs logits (n, m) and n labels, the column of each row's "
            f"positive. Received y_pred {tuple(shape)} and y_true {given}."
        )
    dtype = keras.backend.standardize_dtype(y_true.dtype)
    limit = LARGEST_EXACT_INTEGER.get(dtype)
    if limit and (shape[1] is None or shape[1] > limit):
        raise ValueError(
            f"{dtype} labels are exact up to {limit} only, and there are {shape[1]} columns. Set "
            '`dtype="float32"` on the loss (on MatryoshkaLoss, where it wraps this one).'
        )


@register
class SymmetricContrastive(LabelledLoss):
    """Contrastive loss of a batch of pairs: softmax crossentropy over rows and over columns.

    loss[i] = (logsumexp_j S[i, j] + logsumexp_k S[k, y_i]) / 2 - S[i, y_i]

    where S[i, j] is the similarity of query i and document j, divided by the temperature,
    and y_i is the column of query i's document. The other rows and columns of the batch
    are the negatives. Both softmaxes share one exponential, and no temperature overflows
    or underflows.

    Wrapped in `MatryoshkaLoss` it gives Eq. 1 for contrastive training, with a relative
    importance for each prefix. Alone on a nested output it sums over the prefixes.

    Negatives come from the batch that the loss sees: with `tf.distribute` that is one
    replica's part of the batch, or with `positives="gathered"` the batch of all replicas.
    Sample weights scale a pair's loss; the pair stays a negative for the others.

    Args:
        positives: where each row's positive is.

            - "diagonal": row i's is column i.
            - "gathered": row i's is its own among the documents of all replicas, which
              `GatheredBatch` puts on the columns, as `dual_encoder` and `sentence_pairs`
              do. Values and gradients, averaged over the replicas, are those of one replica
              that holds all pairs; on one replica this is "diagonal".
            - "labels": `y_true` holds the positive's column within the batch: it must be
              made after shuffling and batching.
            - "scores": `y_pred` holds this loss already, as `models.ContrastiveScores` gives it
              where logits of the whole batch would take too much memory.

            Only "labels" reads `y_true`: with the others `fit(x)` needs no labels. Default
            "diagonal".
        reduction: over the batch, as in every Keras loss. Default "sum_over_batch_size".
        name: default "symmetric_contrastive".
        dtype: dtype of the computation. Default None, `keras.config.floatx()`.

    Call arguments:
        y_true: with `positives="labels"` integers (n,) or (n, 1); a label outside [0, m)
            gives NaN. Otherwise not read: None, or anything that has n rows.
        y_pred: logits (n, m), or nested (n, prefixes, m) as `MatryoshkaSimilarity` gives.
            With "scores" (n, 2) or (n, prefixes, 2).
            With "diagonal" columns beyond the first n are further negatives; with "gathered"
            m is n times the number of replicas.

    Raises:
        ValueError: an unknown `positives`, shapes that don't fit, or "diagonal" on several
            replicas with the columns of a gathered batch.

    Example:

    >>> from mrl_keras.losses import MatryoshkaLoss
    >>> loss = MatryoshkaLoss(SymmetricContrastive())
    >>> logits = np.zeros((4, 3, 4), "float32")  # three prefixes of four pairs
    >>> round(float(loss(np.arange(4), logits)) / 3, 4)  # log(4) for each prefix
    1.3863

    Source: arXiv 2205.13147, Section 3 (contrastive learning, as in ALIGN); the negatives of
    all cores are ALIGN's (arXiv 2102.05918, Section 4.1).
    """

    def __init__(
        self,
        positives="diagonal",
        reduction="sum_over_batch_size",
        name="symmetric_contrastive",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if positives not in POSITIVES:
            raise ValueError(f"`positives` must be one of {POSITIVES}. Received {positives!r}.")
        self.positives = positives

    def call(self, y_true, y_pred):
        y_pred = ops.convert_to_tensor(y_pred)
        prefixes = ops.unstack(y_pred, axis=1) if len(y_pred.shape) == 3 else [y_pred]
        if self.positives == "scores":
            return sum(_scored(scores) for scores in prefixes)
        if self.positives == "gathered":
            return sum(gathered_symmetric_contrastive(logits) for logits in prefixes)
        if self.positives == "diagonal":
            check_own_columns(prefixes[0].shape)
        labels = y_true if self.positives == "labels" else None
        return sum(symmetric_contrastive(labels, logits) for logits in prefixes)

    @property
    def _reads_labels(self):
        return self.positives == "labels"

    def get_config(self):
        return {**super().get_config(), "positives": self.positives, "dtype": self.dtype}


@register_as("GlobalSymmetricContrastive")
class _GlobalSymmetricContrastive(SymmetricContrastive):
    """What earlier saved files call `SymmetricContrastive("gathered")`."""

    @classmethod
    def from_config(cls, config):
        return SymmetricContrastive("gathered", **config)
