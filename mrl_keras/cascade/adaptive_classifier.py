"""The cascade as a Keras layer: only rows that are not confident yet go on to wider prefixes.

TensorFlow is imported when the layer runs, so that other backends can import this package.
"""

from __future__ import annotations

import keras
import numpy as np

from mrl_keras.cascade.policy import CascadePolicy
from mrl_keras.registry import deserialize_argument, register
from mrl_keras.sharing import HoldsModelLayer


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

    How many rows go on is known at run time only: the layer needs TensorFlow, and XLA cannot
    compile it (Keras then leaves `jit_compile` off by itself).

    Args:
        classifier: `MatryoshkaDense`; its logits before the activation are used. It may be
            trained already, or still without weights.
        policy: `CascadePolicy`, or what its `to_dict` gives. Its dims must be prefixes that the
            classifier can evaluate: trained ones, or any for MRL-E.
        **kwargs: `name`, `dtype`.

    Input shape:
        (batch, w) embeddings with w at least the policy's largest dim.

    Output shape:
        A dict of `class` int64, `probability` float32 and `dim` int32, each (batch,). A row that
        has NaN or infinity among the dims it needs gets class -1, probability 0 and the largest
        dim; its neighbours are untouched.

    Raises:
        ValueError: another Keras backend than TensorFlow, a classifier other than
            `MatryoshkaDense`, dims that it cannot evaluate, or inputs that are too narrow.

    Example:

    >>> from mrl_keras import MatryoshkaDense
    >>> head = MatryoshkaDense(units=10, nesting_dims=[4, 8, 16])
    >>> adaptive = AdaptiveClassifier(head, CascadePolicy([4, 8, 16], thresholds=[0.4, 0.3]))
    >>> answer = adaptive(np.zeros((3, 16), "float32"))
    >>> answer["dim"].numpy().tolist()  # equally likely classes: no prefix is confident
    [16, 16, 16]

    Source: arXiv 2205.13147, Section 4.2.1.
    """

    _held = "classifier"

    def __init__(self, classifier, policy, **kwargs):
        if keras.config.backend() != "tensorflow":
            raise ValueError(
                "AdaptiveClassifier needs Keras on its TensorFlow backend, where the number of "
                f"rows that go on may be known at run time. It runs on {keras.config.backend()!r}."
            )
        super().__init__(**kwargs)
        self.classifier = classifier
        self.policy = policy if isinstance(policy, CascadePolicy) else CascadePolicy(**policy)
        self.supports_jit = False
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
        """How many rows each prefix of the policy scores: an int32 tensor (prefixes,).

        The first is the batch; the sum of these counts times the dims is the work that was done.
        """
        if isinstance(inputs, keras.KerasTensor):
            raise ValueError(
                "`rows_per_prefix` counts rows of data. Received the symbolic "
                f"{inputs!r}: call it on the embeddings that the model gives."
            )
        inputs = keras.ops.convert_to_tensor(inputs)
        if not self.built:
            self.build(inputs.shape)
        return self._answers(inputs)[1]

    def _answers(self, embedding):
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
        names = ("class", "probability", "dim")
        answer = {n: tf.gather(part, back) for n, part in zip(names, answers, strict=True)}
        return answer, tf.stack(counts)

    def _prefix_logits(self, x, logits, start, dim):
        """Logits at the prefix `dim`, from its columns after `start` and the logits at `start`."""
        if not self.classifier.efficient:
            return self.classifier.prefix_logits(x, dim)
        block = self.classifier.block_logits(x, start, dim)
        return block if logits is None else logits + block

    def compute_output_shape(self, input_shape):
        return dict.fromkeys(("class", "probability", "dim"), (input_shape[0],))

    def compute_output_spec(self, inputs):
        types = {"class": "int64", "probability": "float32", "dim": "int32"}
        shape = (inputs.shape[0],)
        return {name: keras.KerasTensor(shape, dtype) for name, dtype in types.items()}

    def get_config(self):
        return {
            **super().get_config(),
            "classifier": keras.saving.serialize_keras_object(self.classifier),
            "policy": self.policy.to_dict(),
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


def _confidence(logits, temperature):
    """(class int64, its probability float32), each (rows,); -1 and 0 where logits are no numbers.

    The largest of softmax(z / T) is 1 / sum(exp((z - max z) / T)).
    """
    import tensorflow as tf

    logits = tf.cast(logits, tf.float32)
    powers = tf.exp((logits - tf.reduce_max(logits, axis=-1, keepdims=True)) / temperature)
    probability = 1.0 / tf.reduce_sum(powers, axis=-1)
    best = tf.argmax(logits, axis=-1, output_type=tf.int64)
    known = tf.math.is_finite(probability)
    return tf.where(known, best, np.int64(-1)), tf.where(known, probability, 0.0)


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
