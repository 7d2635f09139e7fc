"""Encoders that train on large batches in the memory of small ones."""

import dataclasses

import keras

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import whole_number
from mrl_keras.lazy_tensorflow import require_backend
from mrl_keras.models.chunks import Chunks
from mrl_keras.registry import deserialize_argument, register


@dataclasses.dataclass
class _Given:
    """The encoder as it was given: Keras tracks nothing in here, and the layers have one owner."""

    encoder: keras.Model


def encode_in_chunks(encode, inputs, weights, state, output, chunk_size):
    """An encoder's output for a batch, a chunk at a time in value and in gradient.

    Args:
        encode: function (inputs, weights, state) -> (output tensor, state after it).
        inputs: nested structure of tensors (batch, ...).
        weights: list of the tensors to which gradients flow.
        state: list of tensors that pass from chunk to chunk: seeds, moving averages.
        output: (shape of one example's output, dtype).
        chunk_size: int.

    Returns:
        The output (batch, ...), and {place in `state`: tensor after the last chunk} of what has
        changed.
    """
    flat, chunks, changed = tf.nest.flatten(inputs), Chunks(inputs, chunk_size), {}
    floats = [_without_gradient(x) for x in flat if x.dtype.is_floating]

    @tf.custom_gradient
    def encoded(*_):
        def step(number, found, *state):
            part, after = encode(chunks.inputs(number), weights, list(state))
            changed.update({i: None for i, x in enumerate(after) if x is not state[i]})
            return chunks.with_new_part(found, part, number), *after

        def gradient(upstream):
            return *chunk_gradients(upstream), *map(tf.zeros_like, floats)

        found, *after = chunks.run(step, tf.zeros((chunks.rows, *output[0]), output[1]), *state)
        changed.update({i: after[i] for i in changed})
        return found, gradient

    def chunk_gradients(upstream):
        def step(number, state, sums):
            own = [tf.identity(weight) for weight in weights]
            with tf.GradientTape() as tape:
                tape.watch(own)
                part, state = encode(chunks.inputs(number), own, state)
            reaching = chunks.new_part(upstream, number)
            found = tape.gradient(part, own, reaching, unconnected_gradients="zero")
            return state, [_added(*pair) for pair in zip(sums, found, strict=True)]

        return chunks.run(step, state, [tf.zeros_like(weight) for weight in weights])[1]

    return encoded(*weights, *floats), changed


def _without_gradient(inputs):
    def gradient(_):
        raise ValueError(
            "No gradient flows to the inputs of a ChunkedEncoder, and a layer before it needs one. "
            "Put that layer into the encoder."
        )

    return tf.custom_gradient(lambda values: (tf.identity(values), gradient))(inputs)


def _added(total, part):
    """`total` and a gradient, without making rows of a table where it has none."""
    if isinstance(part, tf.IndexedSlices):
        return tf.tensor_scatter_nd_add(total, part.indices[:, None], part.values)
    return total + part


@register
class ChunkedEncoder(keras.Model):
    """An encoder that is trained a chunk of the batch at a time, with the gradients of the whole.

    A contrastive loss compares all pairs of a batch, so its batch cannot be cut; but it reads the
    embeddings alone. With a loss L(z) of the embeddings z = f(x; w) of the whole batch,

    dL/dw = sum over chunks c of (dL/dz_c) dz_c/dw,

    the chunks are encoded one after the other and their activations forgotten, and in the backward
    pass each is encoded once more for its own part. So activations of one chunk are alive at a
    time, for one more forward pass. The same seeds are used both times, so dropout is that of the
    forward pass. Outside of training the encoder is called as it is.

    It shares the layers of `encoder` and names its variables alike, and takes its place in
    `dual_encoder` and `sentence_pairs` or before any loss; plain `fit` trains it. Batch
    normalization takes its statistics of each chunk.

    Args:
        encoder: functional `keras.Model`, raw inputs -> one tensor (batch, ...).
        chunk_size: int, examples that are encoded together. Where it does not divide the batch,
            the last chunk begins early and what came before counts once.
        **kwargs: `name`, `trainable`.

    Input shape:
        Those of `encoder`. No gradient can flow to the inputs.

    Output shape:
        That of `encoder`.

    Raises:
        ValueError: an `encoder` that is not functional or has several outputs, or another backend
            than TensorFlow; in training, a layer of the encoder that adds a loss of its
            activations, or layers before the encoder that need a gradient.

    Example:

    >>> import keras
    >>> from mrl_keras import MatryoshkaLoss, SymmetricContrastive
    >>> from mrl_keras.models import ChunkedEncoder, dual_encoder
    >>> pixels, words = (keras.Input((4,), name=name) for name in ("pixels", "words"))
    >>> image = keras.Model(pixels, keras.layers.Dense(8)(pixels))
    >>> text = keras.Model(words, keras.layers.Dense(8)(words))
    >>> model = dual_encoder(ChunkedEncoder(image, 2), ChunkedEncoder(text, 2), [2, 4, 8])
    >>> model.compile("adam", loss=MatryoshkaLoss(SymmetricContrastive("gathered")))
    >>> pairs = {"pixels": np.eye(4, dtype="float32"), "words": np.eye(4, dtype="float32")}
    >>> history = model.fit(pairs, verbose=0)

    Source: the gradient cache of arXiv 2101.06983, Section 3.2.
    """

    def __init__(self, encoder, chunk_size, **kwargs):
        _check(encoder)
        self.chunk_size = whole_number(chunk_size, "`chunk_size`")
        super().__init__(inputs=encoder.input, outputs=encoder.output, **kwargs)
        self._given = _Given(encoder)
        self.autocast = False

    @property
    def encoder(self):
        """The encoder as it was given, which shares all weights."""
        return self._given.encoder

    def call(self, inputs, training=None, mask=None):
        inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
        rows = keras.tree.flatten(inputs)[0].shape[0]
        if not training or (rows is not None and rows <= self.chunk_size):
            return super().call(inputs, training=training, mask=mask)
        # In their own dtype: under a mixed policy `v.value` is in half precision.
        weights = [tf.convert_to_tensor(v._value) for v in self.trainable_variables]
        state = [tf.convert_to_tensor(v._value) for v in self.non_trainable_variables]
        output = self.output.shape[1:], self.output.dtype
        found, changed = encode_in_chunks(
            self._encode, inputs, weights, state, output, self.chunk_size
        )
        for place, value in changed.items():
            self.non_trainable_variables[place].assign(value)
        return found

    def _encode(self, inputs, weights, state):
        """(output, state after it) of the encoder with the given values of its variables."""
        own = self.non_trainable_variables
        values = zip([*self.trainable_variables, *own], [*weights, *state], strict=True)
        with keras.StatelessScope(state_mapping=list(values), collect_losses=True) as scope:
            output = super().call(inputs, training=True)
        if scope.losses:
            raise ValueError(
                "ChunkedEncoder cannot train an encoder whose layers add losses of their "
                f"activations, which the chunks would count apart. Received {self.encoder.name!r} "
                f"with {len(scope.losses)} such losses; leave out `activity_regularizer` and "
                "`add_loss`."
            )
        return output, [scope.get_current_value(v) for v in own]

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "chunk_size": self.chunk_size,
        }

    @classmethod
    def from_config(cls, config):
        revive = keras.saving.deserialize_keras_object
        return cls(**deserialize_argument(config, "encoder", revive))


def named_model(model, name):
    """A model of its own with another name, which shares the layers and keeps the chunks."""
    if isinstance(model, ChunkedEncoder):
        return ChunkedEncoder(model.encoder, model.chunk_size, name=name)
    return keras.Model(model.input, model.output, name=name)


def _check(encoder):
    require_backend("ChunkedEncoder", "There, train with a smaller batch.")
    if not isinstance(encoder, keras.Model) or not isinstance(
        getattr(encoder, "output", None), keras.KerasTensor
    ):
        raise ValueError(
            "`encoder` must be a functional keras.Model with one output. Received "
            f"{encoder!r}; make one, `keras.Model(encoder.inputs, encoder.output[NAME])`."
        )
