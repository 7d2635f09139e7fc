"""Chunked encoders: gradients of the whole batch, seeds, state, files, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras import MatryoshkaLoss, SymmetricContrastive
from mrl_keras.models import (
    ChunkedEncoder,
    MatryoshkaImageEmbedder,
    dual_encoder,
    sentence_pairs,
    towers,
)
from mrl_keras.models.chunked_encoder import encode_in_chunks

DIMS, ROWS = [2, 4], 10
RNG = np.random.default_rng(0)
PIXELS = RNG.standard_normal((ROWS, 4, 4, 2)).astype("float32")
WORDS = RNG.integers(0, 30, (ROWS, 3)).astype("int32")


def image_tower(*between):
    pixels = keras.Input((4, 4, 2), name="pixels")
    x = keras.layers.Conv2D(3, 3, activation="gelu", name="conv")(pixels)
    for layer in between:
        x = layer(x)
    return keras.Model(pixels, keras.layers.Dense(4, name="out")(keras.layers.Flatten()(x)))


def text_tower():
    words, mask = (keras.Input((3,), dtype="int32", name=name) for name in ("words", "mask"))
    x = keras.layers.Embedding(30, 5, name="table")(words)
    x = x * keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    x = keras.layers.Dense(4, activation="tanh", name="out")(keras.ops.sum(x, axis=1))
    return keras.Model({"words": words, "mask": mask}, x)


def pairs(rows=ROWS):
    return {"pixels": PIXELS[:rows], "words": WORDS[:rows], "mask": WORDS[:rows] % 2}


def trained(chunk_size, **options):
    """A dual encoder after batches of 10 and 7 pairs, and its losses."""
    keras.utils.set_random_seed(1)
    both = image_tower(), text_tower()
    if chunk_size:
        both = [ChunkedEncoder(one, chunk_size) for one in both]
    model = dual_encoder(*both, DIMS)
    assert [isinstance(one, ChunkedEncoder) for one in towers(model)] == [bool(chunk_size)] * 2
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        MatryoshkaLoss(SymmetricContrastive("gathered")),
        **{"jit_compile": False, **options},
    )
    data = tf.data.Dataset.from_tensors(pairs())
    data = data.concatenate(tf.data.Dataset.from_tensors(pairs(7)))
    return model, model.fit(data, epochs=2, verbose=0).history["loss"]


@pytest.fixture(scope="module")
def whole():
    return trained(None)


@pytest.mark.parametrize(
    ("chunk_size", "options"),
    [
        pytest.param(4, {}, marks=pytest.mark.slow),
        (1, {"run_eagerly": True}),
        pytest.param(4, {"jit_compile": True}, marks=pytest.mark.slow),
    ],
)
def test_fit_trains_as_with_the_whole_batch(whole, chunk_size, options):
    """The last chunks of both batches overlap, and the gradient of the table is sparse."""
    model, losses = trained(chunk_size, **options)
    np.testing.assert_allclose(losses, whole[1], rtol=1e-5)
    assert losses[1] < 0.99 * losses[0]
    for one, other in zip(model.weights, whole[0].weights, strict=True):
        # Processors without AVX-512 sum chunks of one image in another order.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=4e-5, err_msg=one.path)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_pairs_of_sentences_are_encoded_in_chunks(chunk_size):
    inputs = {"words": keras.Input((3,), dtype="int32", name="words")}
    x = keras.layers.Flatten()(keras.layers.Embedding(30, 4)(inputs["words"]))
    embedder = keras.Model(inputs, keras.layers.Dense(4)(x))
    if chunk_size:
        embedder = ChunkedEncoder(embedder, chunk_size)
    model = sentence_pairs(embedder, DIMS)
    assert isinstance(model.get_layer("embedder"), ChunkedEncoder) == bool(chunk_size)
    x = {"first_words": WORDS, "second_words": WORDS[::-1]}
    for name, value in model(x, training=True).items():
        np.testing.assert_allclose(value, model(x)[name], rtol=1e-5, atol=1e-6)


def test_similarities_of_sentences_as_scores():
    words = {"words": keras.Input((4,), name="words")}
    embedder = keras.Model(words, keras.layers.Dense(4)(words["words"]))
    x = np.random.default_rng(0).standard_normal((2, 7, 4)).astype("float32")
    x = dict(zip(("first_words", "second_words"), x, strict=True))
    losses = []
    for chunk_size, positives in ((None, "gathered"), (3, "scores")):
        outputs = sentence_pairs(embedder, DIMS, chunk_size=chunk_size)(x)
        loss = MatryoshkaLoss(SymmetricContrastive(positives))
        losses.append(loss(np.zeros(7), outputs["similarity"]))
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", ["auto", False])
def test_an_embedder_trains_in_chunks(jit_compile):
    """Both the images and the cosines of all pairs; the losses without and with chunks."""
    model = MatryoshkaImageEmbedder(image_tower(), nesting_dims=DIMS)
    gathered, scores = map(SymmetricContrastive, ("gathered", "scores"))
    losses = ["contrastive", "contrastive", MatryoshkaLoss(scores), MatryoshkaLoss(gathered)]
    found = []
    for loss, chunk_size in zip(losses, (None, 4, None, 4), strict=True):
        optimizer = keras.optimizers.SGD(0.0)
        model.compile(optimizer, loss, chunk_size=chunk_size, jit_compile=jit_compile)
        pairs = model._parts.trained
        assert getattr(pairs.get_layer("embedder"), "chunk_size", None) == chunk_size
        similarity = pairs.get_layer("similarity")
        alive = 256 if chunk_size is None else chunk_size
        wanted = alive if len(found) in (1, 2) else None
        assert getattr(similarity, "chunk_size", None) == wanted
        history = model.fit((PIXELS, PIXELS + 0.1), batch_size=ROWS, verbose=0).history
        found.append([value[0] for value in history.values()])
    assert len(found[0]) == 1 + len(DIMS)  # with the accuracy of each prefix
    for one in found[1:]:
        np.testing.assert_allclose(one, found[0], rtol=1e-5)


def test_gradients_are_those_of_the_whole_batch():
    encoder = image_tower()
    chunked = ChunkedEncoder(encoder, 3)
    upstream = RNG.standard_normal((ROWS, 4)).astype("float32")
    found = []
    for model in (encoder, chunked):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.tanh(model(PIXELS, training=True)) * upstream)
        found.append(tape.gradient(loss, model.trainable_weights))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_dropout_is_that_of_the_forward_pass():
    """Against a tape over the same chunks, with the seeds in the same order."""
    encoder = image_tower(keras.layers.Dropout(0.5, seed=3))
    chunked = ChunkedEncoder(encoder, 5)
    seeds = encoder.non_trainable_variables[0]
    start = seeds.numpy()
    found = []
    for call in (
        lambda: tf.concat(
            [encoder(PIXELS[:5], training=True), encoder(PIXELS[5:], training=True)], 0
        ),
        tf.function(lambda: chunked(PIXELS, training=True)),
    ):
        seeds.assign(start)
        with tf.GradientTape() as tape:
            output = call()
            loss = tf.reduce_sum(output**2)
        found.append([output, *tape.gradient(loss, encoder.trainable_weights), seeds.numpy()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(start, found[0][-1])


def test_batch_normalization_sees_each_chunk_once():
    encoder = image_tower(keras.layers.BatchNormalization(momentum=0.5))
    moving = encoder.non_trainable_variables
    found, begin = [], [v.numpy() for v in moving]
    for chunked in (False, True):
        for variable, value in zip(moving, begin, strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            if chunked:
                output = ChunkedEncoder(encoder, 5)(PIXELS, training=True)
            else:
                output = [encoder(PIXELS[:5], training=True), encoder(PIXELS[5:], training=True)]
                output = tf.concat(output, 0)
            loss = tf.reduce_sum(output**2)
        gradients = tape.gradient(loss, encoder.trainable_weights)
        found.append([output, *gradients, *(v.numpy() for v in moving)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_mixed_precision_sums_the_chunks_in_float32():
    """In bfloat16 a sum of 300 ones would stay at 256."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((2,))
        encoder = keras.Model(inputs, keras.layers.Dense(3)(inputs))
        chunked = ChunkedEncoder(encoder, 1)

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                output = chunked(tf.ones((300, 2)), training=True)
                loss = tf.reduce_sum(tf.cast(output, "float32"))
            return output, tape.gradient(loss, encoder.trainable_weights)

        output, (_, bias) = step()
    finally:
        keras.config.set_dtype_policy("float32")
    assert (output.dtype, bias.dtype) == ("bfloat16", "float32")
    np.testing.assert_array_equal(bias, np.full(3, 300, "float32"))


def test_outside_of_training_and_in_files_it_is_the_encoder(tmp_path):
    encoder = image_tower()
    model = dual_encoder(ChunkedEncoder(encoder, 4), text_tower(), DIMS)
    image, _ = towers(model)
    np.testing.assert_array_equal(image(PIXELS), encoder(PIXELS))
    chunked = ChunkedEncoder(encoder, 4, name="chunked")
    assert [v.path for v in chunked.weights] == [v.path for v in encoder.weights]
    path = tmp_path / "chunked.keras"
    chunked.save(path)
    loaded = keras.saving.load_model(path)
    assert (loaded.chunk_size, loaded.name) == (4, "chunked")
    np.testing.assert_array_equal(loaded(PIXELS), encoder(PIXELS))


def test_zero_rows():
    chunked = ChunkedEncoder(image_tower(), 4)
    call = tf.function(
        lambda x: chunked(x, training=True),
        input_signature=[tf.TensorSpec((None, 4, 4, 2))],
    )
    assert call(PIXELS[:0]).shape == (0, 4)
    assert call(PIXELS).shape == (ROWS, 4)


def test_frozen_weights_stay():
    encoder = image_tower()
    encoder.get_layer("conv").trainable = False
    chunked = ChunkedEncoder(encoder, 4)
    before = [w.numpy() for w in encoder.get_layer("conv").weights]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(chunked(PIXELS, training=True) ** 2)
    gradients = tape.gradient(loss, chunked.trainable_weights)
    assert [np.abs(g).sum() > 0 for g in gradients] == [True, True]
    for weight, kept in zip(encoder.get_layer("conv").weights, before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_errors():
    with pytest.raises(ValueError, match="`encoder` must be a functional keras.Model with one"):
        ChunkedEncoder(keras.layers.Dense(3), 2)
    with pytest.raises(ValueError, match="`chunk_size`"):
        ChunkedEncoder(image_tower(), 0)
    noisy = image_tower(keras.layers.Dense(3, activity_regularizer="l2"))
    with pytest.raises(ValueError, match="add losses of their activations.*1 such losses"):
        ChunkedEncoder(noisy, 4)(PIXELS, training=True)
    before, chunked = keras.layers.Dense(2), ChunkedEncoder(image_tower(), 4)
    with pytest.raises(ValueError, match="a layer before it needs one"), tf.GradientTape() as tape:
        loss = tf.reduce_sum(chunked(before(PIXELS), training=True))
        tape.gradient(loss, before.trainable_weights)


def test_the_encoder_is_called_with_chunks_alone():
    seen = []

    def encode(inputs, weights, state):
        seen.append(inputs.shape)
        return tf.matmul(inputs, weights[0]), state

    weights = [tf.ones((2, 3))]
    for rows in (6, 600):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            found, _ = encode_in_chunks(
                encode, tf.ones((rows, 2)), weights, [], ((3,), "float32"), 4
            )
        (gradient,) = tape.gradient(found, weights)
        np.testing.assert_array_equal(gradient, np.full((2, 3), rows))
    assert set(seen) == {(4, 2)}


def test_rows_of_two_chunks_keep_the_value_that_has_the_gradient():
    """A state that grows from chunk to chunk, as seeds do: the last chunk begins at row 6."""
    weight = [tf.constant(1.0)]

    def encode(x, weights, state):
        return x * weights[0] * state[0], [state[0] + 1]

    with tf.GradientTape() as tape:
        tape.watch(weight)
        found, _ = encode_in_chunks(
            encode, tf.ones((ROWS, 1)), weight, [tf.constant(1.0)], ((1,), "float32"), 4
        )
    np.testing.assert_array_equal(found[:, 0], [1, 1, 1, 1, 2, 2, 2, 2, 3, 3])
    assert float(tape.gradient(found, weight)[0]) == float(tf.reduce_sum(found))
