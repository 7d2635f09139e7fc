"""The cascade as a Keras layer: only rows that are not confident yet go on to wider prefixes."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from mrl_keras.cascade.policy import CascadePolicy
from mrl_keras.registry import deserialize_argument, register
from mrl_keras.sharing import HoldsModelLayer

ANSWERS = ("class", "probability", "dim")


@register
class AdaptiveClassifier(HoldsModelLayer, keras.layers.Layer):
    """Classifies each embedding with the smallest prefix that is confident enough.

    The first prefix of the policy scores the whole batch. Rows whose largest probability is
    above the threshold are done; only the others are gathered and scored by the next prefix, and
    so on. With MRL each step multiplies a prefix with its own kernel; with MRL-E it multiplies
    the new dims alone and adds them to the logits so far, so that a row costs at most one
    full-width product.

    The answers are those of `policy.decide` on all logits. Probabilities are float32 here, so a
    confidence that equals a threshold up to rounding may fall on either side of it.

    How many rows go on is known at run time only, which TensorFlow's graphs allow and XLA does not
    (Keras then leaves `jit_compile` off by itself). For XLA there is `dense`, which scores all rows
    at all prefixes and selects: the same answers, without the saving. JAX and torch always do so.

    Args:
        classifier: `MatryoshkaDense`; its logits before the activation are used. It may be
            trained already, or still without weights.
        policy: `CascadePolicy`, or what its `to_dict` gives. Its dims must be prefixes that the
            classifier can evaluate: trained ones, or any for MRL-E.
        dense: bool, score all rows at all prefixes also on TensorFlow. Default False.
        **kwargs: `name`, `dtype`.

    Input shape:
        (batch, w) embeddings with w at least the policy's largest dim.

    Output shape:
        A dict of `class` int64 (int32 on JAX), `probability` float32 and `dim` int32, each
        (batch,). A row that has NaN or infinity among the dims it needs gets class -1, probability
        0 and the largest dim; its neighbours are untouched.

    Raises:
        ValueError: a classifier other than `MatryoshkaDense`, dims that it cannot evaluate, or
            inputs that are too narrow.

    Example:

    >>> from mrl_keras import MatryoshkaDense
    >>> head = MatryoshkaDense(units=10, nesting_dims=[4, 8, 16])
    >>> adaptive = AdaptiveClassifier(head, CascadePolicy([4, 8, 16], thresholds=[0.4, 0.3]))
    >>> answer = adaptive(np.zeros((3, 16), "float32"))
    >>> np.asarray(answer["dim"]).tolist()  # equally likely classes: no prefix is confident
    [16, 16, 16]

    Source: arXiv 2205.13147, Section 4.2.1.
    """

    _held = "classifier"

    def __init__(self, classifier, policy, dense=False, **kwargs):
        super().__init__(**kwargs)
        self.classifier = classifier
        self.policy = (
            policy if isinstance(policy, CascadePolicy) else CascadePolicy.from_dict(policy)
        )
        self.dense = bool(dense)
        self._selects = self.dense or keras.config.backend() != "tensorflow"
        self.supports_jit = self._selects
        _check_dims(classifier, self.policy.dims)

    def build(self, input_shape):
        if not self.classifier.built:
            self.classifier.build((None, self.classifier.nesting_dims.width))
        if len(input_shape) != 2 or input_shape[-1] < self.policy.dims.width:
            raise ValueError(
                f"AdaptiveClassifier needs inputs (batch, {self.policy.dims.width}), the policy's "
                f"largest dim, or wider. Received shape {tuple(input_shape)}."
            )
        self.built = True

    def call(self, inputs):
        return self._answers(inputs)[0]

    def rows_per_prefix(self, inputs):
        """How many rows get as far as each prefix of the policy: an int32 tensor (prefixes,).

        The first is the batch; the sum of these counts times the dims is the work that was done,
        unless `dense`.
        """
        if isinstance(inputs, keras.KerasTensor):
            raise ValueError(
                "`rows_per_prefix` counts rows of data. Received the symbolic "
                f"{inputs!r}: call it on the embeddings that the model gives."
            )
        inputs = ops.convert_to_tensor(inputs)
        if not self.built:
            self.build(inputs.shape)
        return self._answers(inputs)[1]

    def _answers(self, embedding):
        return (self._select if self._selects else self._gather)(embedding)

    def _select(self, embedding):
        """Answers and counts from the confidences of all rows at all prefixes."""
        logits, answer, start, counts = None, None, 0, []
        undecided = ops.ones_like(embedding[:, 0], "bool")
        thresholds = [*self.policy.thresholds, 0.0]
        for dim, threshold, temperature in zip(
            self.policy.dims, thresholds, self.policy.temperatures, strict=True
        ):
            counts.append(ops.sum(ops.cast(undecided, "int32")))
            logits = self._prefix_logits(embedding[:, start:dim], logits, start, dim)
            best, probability = _confidence(logits, temperature)
            row = best, probability, ops.full_like(best, dim, "int32")
            answer = row if answer is None else _where(undecided, row, answer)
            unsure = probability <= _as_float32(threshold)
            undecided = ops.logical_and(undecided, unsure)
            start = dim if self.classifier.efficient else 0
        return dict(zip(ANSWERS, answer, strict=True)), ops.stack(counts)

    def _gather(self, embedding):
        """Answers and counts, where only the rows that go on are scored."""
        import tensorflow as tf

        rows, logits = tf.range(tf.shape(embedding)[0]), None
        done, counts, last = [], [], len(self.policy.dims) - 1
        for place, dim in enumerate(self.policy.dims):
            counts.append(tf.size(rows))
            start = self.policy.dims[place - 1] if place and self.classifier.efficient else 0
            # Columns first: all steps together copy the embedding about once (MRL-E) or twice.
            x = embedding[:, start:dim]
            logits = self._prefix_logits(tf.gather(x, rows) if place else x, logits, start, dim)
            best, probability = _confidence(logits, self.policy.temperatures[place])
            if place == last:
                done.append((rows, best, probability, tf.fill(tf.shape(rows), dim)))
                break
            sure = probability > _as_float32(self.policy.thresholds[place])
            leaving = [tf.boolean_mask(part, sure) for part in (rows, best, probability)]
            done.append((*leaving, tf.fill(tf.shape(leaving[0]), dim)))
            going_on = tf.where(~sure)[:, 0]
            rows = tf.gather(rows, going_on)
            logits = tf.gather(logits, going_on) if self.classifier.efficient else None
        order, *answers = (tf.concat(parts, axis=0) for parts in zip(*done, strict=True))
        # The inverse permutation, by an op that LiteRT has.
        back = tf.scatter_nd(order[:, None], tf.range(tf.size(order)), tf.shape(order))
        answer = {n: tf.gather(part, back) for n, part in zip(ANSWERS, answers, strict=True)}
        return answer, tf.stack(counts)

    def _prefix_logits(self, x, logits, start, dim):
        """Logits at the prefix `dim`, from its columns after `start` and the logits at `start`."""
        if not self.classifier.efficient:
            return self.classifier.prefix_logits(x, dim)
        block = self.classifier.block_logits(x, start, dim)
        return block if logits is None else logits + block

    def compute_output_shape(self, input_shape):
        return dict.fromkeys(ANSWERS, (input_shape[0],))

    def compute_output_spec(self, inputs):
        types, shape = (_class_dtype(), "float32", "int32"), (inputs.shape[0],)
        tensors = [keras.KerasTensor(shape, dtype) for dtype in types]
        return dict(zip(ANSWERS, tensors, strict=True))

    def get_config(self):
        return {
            **super().get_config(),
            "classifier": keras.saving.serialize_keras_object(self.classifier),
            "policy": self.policy.to_dict(),
            "dense": self.dense,
        }

    @classmethod
    def from_config(cls, config):
        return cls._revive(
            deserialize_argument(config, "classifier", keras.saving.deserialize_keras_object)
        )


def _as_float32(threshold):
    """The largest float32 up to `threshold`: float32 values are above both or above neither.

    LiteRT compares no float64.
    """
    rounded = np.float32(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-1))


def _where(condition, *rows):
    return [ops.where(condition, *both) for both in zip(*rows, strict=True)]


def _confidence(logits, temperature):
    """(class, its probability float32), each (rows,); -1 and 0 where logits are no numbers.

    The largest of softmax(z / T) is 1 / sum(exp((z - max z) / T)).
    """
    logits = ops.cast(logits, "float32")
    # `initial` lets zero rows through.
    largest = ops.max(logits, axis=-1, keepdims=True, initial=-np.inf)
    probability = 1.0 / ops.sum(ops.exp((logits - largest) / temperature), axis=-1)
    # Of ints: Keras's argmax of floats needs ops that LiteRT does not have.
    best = ops.argmax(ops.cast(logits >= largest, "int32"), axis=-1)
    best = ops.cast(best, _class_dtype())
    known = ops.isfinite(probability)
    return ops.where(known, best, -ops.ones_like(best)), ops.where(known, probability, 0.0)


def _class_dtype():
    """JAX has no int64 unless it is told so."""
    return "int32" if keras.config.backend() == "jax" else "int64"


def _check_dims(classifier, dims):
    wanted = ("prefix_logits", "block_logits", "nesting_dims", "efficient")
    if not all(hasattr(classifier, name) for name in wanted):
        raise ValueError(f"`classifier` must be a MatryoshkaDense. Received {classifier!r}.")
    trained = classifier.nesting_dims
    unknown = [dim for dim in dims if dim not in trained]
    if dims.width > trained.width or (unknown and not classifier.efficient):
        raise ValueError(
            f"The policy's dims must be prefixes of the classifier, {list(trained)}"
            f"{', or between them' if classifier.efficient else ''}. Received {list(dims)}."
        )
