"""A differentiable stand-in for recall@k: what a prefix that makes shortlists needs."""

from keras import ops

from mrl_keras.checks import checked_number, whole_number
from mrl_keras.losses.labelled import LabelledLoss
from mrl_keras.losses.symmetric_contrastive import check_own_columns
from mrl_keras.masks import with_mask
from mrl_keras.registry import register
from mrl_keras.replicas import first_row, replica_position

POSITIVES = ("diagonal", "gathered", "labels", "classes")


def soft_recall(ranks, k, temperature):
    """sigmoid((k - rank) / T): about 1 for ranks within k, about 0 beyond."""
    return ops.sigmoid((k - ranks) / temperature)


def paired_recall(similarities, columns, k, similarity_temperature=0.01, rank_temperature=1.0):
    """Smooth recall@k of rows with one positive each.

    rank_i = 1 + sum over j other than y_i of sigmoid((s_ij - s_i,y_i) / T2), and
    recall_i = sigmoid((k - rank_i) / T1)

    Args:
        similarities: float tensor s (n, m).
        columns: int tensor y (n,), the column of each row's positive.
        k: int, the shortlist's size.
        similarity_temperature: float T2. Default 0.01.
        rank_temperature: float T1. Default 1.0.

    Returns:
        Tensor (n,), between 0 and 1; NaN for a column outside [0, m).

    Source: arXiv 2108.11179, Section 3 (T1 = 1, T2 = 0.01 for cosines).
    """
    similarities = ops.convert_to_tensor(similarities)
    places = ops.arange(ops.shape(similarities)[1], dtype="int32")
    positive = ops.equal(ops.expand_dims(places, 0), ops.expand_dims(columns, 1))
    own = ops.sum(ops.where(positive, similarities, 0.0), axis=1, keepdims=True)
    before = ops.sigmoid((similarities - own) / similarity_temperature)
    ranks = 1.0 + ops.sum(ops.where(positive, 0.0, before), axis=1)
    inside = ops.logical_and(columns >= 0, columns < ops.shape(similarities)[1])
    return ops.where(inside, soft_recall(ranks, k, rank_temperature), float("nan"))


def labelled_recall(similarities, labels, k, similarity_temperature=0.01, rank_temperature=1.0):
    """Smooth recall@k of each row among the others, where all of its class are its positives.

    recall_i = min(k, sum over positives p of sigmoid((k - rank_ip) / T1)) / min(k, positives), and
    rank_ip = 1 + sum over j other than i and p of sigmoid((s_ij - s_ip) / T2)

    Args:
        similarities: float tensor s (n, n), of the rows with each other.
        labels: int tensor (n,), the classes.
        k: int, the shortlist's size.
        similarity_temperature: float T2. Default 0.01.
        rank_temperature: float T1. Default 1.0.

    Returns:
        (tensor (n,), between 0 and 1, 1 for a row without positives; int tensor (n,), how many
        positives each has). Memory is that of n^3 floats.

    Source: arXiv 2108.11179, Section 3; the divisor is that of the authors' code.
    """
    similarities = ops.convert_to_tensor(similarities)
    places = ops.arange(ops.shape(similarities)[0], dtype="int32")
    same = ops.equal(ops.expand_dims(places, 0), ops.expand_dims(places, 1))
    alike = ops.equal(ops.expand_dims(labels, 0), ops.expand_dims(labels, 1))
    positive = ops.logical_and(alike, ops.logical_not(same))
    # [i, p, j]: by how much j comes before p for row i.
    above = ops.expand_dims(similarities, 1) - ops.expand_dims(similarities, 2)
    left_out = ops.logical_or(ops.expand_dims(same, 0), ops.expand_dims(same, 1))
    before = ops.sigmoid(above / similarity_temperature)
    ranks = 1.0 + ops.sum(ops.where(left_out, 0.0, before), axis=2)
    found = ops.where(positive, soft_recall(ranks, k, rank_temperature), 0.0)
    counts = ops.sum(ops.cast(positive, "int32"), axis=1)
    most = ops.cast(ops.maximum(ops.minimum(counts, k), 1), found.dtype)
    recall = ops.minimum(ops.sum(found, axis=1), float(k)) / most
    return ops.where(counts > 0, recall, 1.0), counts


@register
class RecallAtK(LabelledLoss):
    """1 - a smooth recall@k of a batch: a positive within the first k is as good as at rank 1.

    rank = 1 + sum over the others j of sigmoid((s_j - s_positive) / T2)
    loss = 1 - mean over the positives of sigmoid((k - rank) / T1)

    That is what a prefix needs that makes a shortlist which wider prefixes rerank. For the narrow
    prefixes inside `PrefixLosses`, or for all. k is relative to the batch: for a shortlist of 200
    of 10,000 rows and batches of 512 documents it is 512 * 200 / 10,000, about 10. The gradient
    vanishes where ranks are far from k, so begin with a contrastive loss, or take k above 1.

    Args:
        k: int of at least 1, the size of the shortlist within the batch.
        positives: where each row's positives are.

            - "diagonal": row i's is column i.
            - "gathered": row i's is its own among the documents of all replicas, as for
              `SymmetricContrastive`.
            - "labels": `y_true` holds the positive's column.
            - "classes": `y_true` holds classes, the outputs are the similarities of the rows with
              each other, and all others of a row's class are its positives. A row without any
              does not count. Takes the memory of n^3 floats for a batch of n.

            Default "diagonal".
        similarity_temperature: float above 0, T2, in units of the outputs: 0.01 for cosines, for
            cosines divided by a temperature T it is 0.01 / T. Default 0.01.
        rank_temperature: float above 0, T1, in ranks. Default 1.0.
        reduction: over the batch, as in every Keras loss. Default "sum_over_batch_size".
        name: default "recall_at_k".
        dtype: dtype of the computation. Default None, `keras.config.floatx()`.

    Call arguments:
        y_true: with "labels" or "classes" integers (n,) or (n, 1). Otherwise not read.
        y_pred: similarities (n, m), larger is nearer; square for "classes".

    Raises:
        ValueError: numbers out of range, an unknown `positives`, or shapes that don't fit.

    Example:

    >>> from mrl_keras.losses import RecallAtK
    >>> loss = RecallAtK(k=1)
    >>> first, second = np.array([[0.9, 0.1]], "float32"), np.array([[0.1, 0.9]], "float32")
    >>> round(float(loss(None, first)), 3), round(float(loss(None, second)), 3)
    (0.5, 0.731)

    Source: arXiv 2108.11179 (CVPR 2022), Section 3.
    """

    def __init__(
        self,
        k,
        positives="diagonal",
        similarity_temperature=0.01,
        rank_temperature=1.0,
        reduction="sum_over_batch_size",
        name="recall_at_k",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.k = whole_number(k, "`k`")
        if positives not in POSITIVES:
            raise ValueError(f"`positives` must be one of {POSITIVES}. Received {positives!r}.")
        self.positives = positives
        self.similarity_temperature = checked_number(
            similarity_temperature, "`similarity_temperature`", above=0.0
        )
        self.rank_temperature = checked_number(rank_temperature, "`rank_temperature`", above=0.0)

    def call(self, y_true, y_pred):
        similarities = ops.cast(ops.convert_to_tensor(y_pred), "float32")
        labels = None
        if self._reads_labels:
            y_true = ops.convert_to_tensor(y_true)
            self._check(similarities.shape, y_true.shape)
            labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        else:
            self._check(similarities.shape)
        numbers = self.k, self.similarity_temperature, self.rank_temperature
        if self.positives == "classes":
            recall, counts = labelled_recall(similarities, labels, *numbers)
            return with_mask(1.0 - recall, counts > 0)
        if self.positives == "diagonal":
            check_own_columns(similarities.shape)
        if labels is None:
            rows = ops.shape(similarities)[0]
            labels = ops.arange(rows, dtype="int32")
            labels = labels + (first_row(rows) if self.positives == "gathered" else 0)
        return 1.0 - paired_recall(similarities, labels, *numbers)

    def _check(self, shape, labels=None):
        fits = len(shape) == 2
        if fits and None not in shape:
            enough = {
                "diagonal": shape[0] <= shape[1],
                "gathered": shape[0] * replica_position()[1] <= shape[1],
                "classes": shape[0] == shape[1],
            }
            fits = enough.get(self.positives, True)
        if fits and labels is not None:
            one_each = len(labels) == 1 or (len(labels) == 2 and labels[1] == 1)
            fits = one_each and (None in (labels[0], shape[0]) or labels[0] == shape[0])
        if not fits:
            wanted = "square similarities (n, n)" if self.positives == "classes" else "(n, m)"
            given = "" if labels is None else f" and y_true {tuple(labels)}"
            raise ValueError(
                f"RecallAtK with positives {self.positives!r} takes {wanted}, for 'diagonal' with "
                "m at least n and for 'gathered' n times the replicas, and where it reads labels n "
                "of them. Received y_pred "
                f"{tuple(shape)}{given}."
            )

    @property
    def _reads_labels(self):
        return self.positives in ("labels", "classes")

    def get_config(self):
        return {
            **super().get_config(),
            "k": self.k,
            "positives": self.positives,
            "similarity_temperature": self.similarity_temperature,
            "rank_temperature": self.rank_temperature,
            "dtype": self.dtype,
        }
