import math

import keras
import numpy as np
import pytest

from mrl_keras import (
    MaskedLMAccuracy,
    MaskedLMCrossentropy,
    MaskedLMHead,
    MatryoshkaLoss,
    per_prefix,
)
from mrl_keras.layers.masked_lm_head import gather_positions
from tests.support import contracts, oracles
from tests.support.contracts import as_numpy, save_and_load

DIMS = [2, 4, 8]
VOCABULARY, LENGTH, WIDTH = 13, 6, 5
RNG = np.random.default_rng(0)
HIDDEN = RNG.standard_normal((4, LENGTH, WIDTH)).astype("float32")
POSITIONS = np.array([[0, 3], [5, 1], [2, 2], [4, 0]], "int32")
LABELS = np.array([[12, 0], [7, 7], [3, 1], [5, 0]], "int32")
INPUTS = [HIDDEN, POSITIONS, LABELS]


def built_embedding(kind=keras.layers.Embedding, **arguments):
    embedding = kind(VOCABULARY, 8, name="tokens", **arguments)
    embedding.build((None, None))
    embedding.embeddings.assign(np.random.default_rng(1).standard_normal((VOCABULARY, 8)))
    return embedding


def built_head(**arguments):
    keras.utils.set_random_seed(0)
    head = MaskedLMHead(**{"embedding": built_embedding(), "nesting_dims": DIMS, **arguments})
    head.build([HIDDEN.shape, POSITIONS.shape])
    head.bias.assign(np.random.default_rng(2).standard_normal(VOCABULARY))
    return head


def oracle_logits(head):
    """(batch, positions, prefixes, vocabulary), BERT's head in float64."""
    weights = (head.transform.kernel, head.transform.bias, head.embedding.embeddings, head.bias)
    kernel, offset, table, bias = (as_numpy(x).astype("float64") for x in weights)
    x = np.stack([HIDDEN[i, POSITIONS[i]] for i in range(len(HIDDEN))]) @ kernel + offset
    x = 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return oracles.nested_logits(x, [table.T], [bias], DIMS, efficient=True)


def oracle_scores(logits):
    target = oracles.one_hot(LABELS, VOCABULARY)[..., None, :]
    correct = logits.argmax(axis=-1) == LABELS[..., None]
    return np.stack([oracles.softmax_crossentropy(target, logits), correct], axis=-1)


def language_model(given_labels=True, kind=keras.layers.Embedding, dtype=None, block_size=5):
    """Tokens, positions (and labels) -> the head's output; embedding and head share the table."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((LENGTH,), dtype="int32")
    more = [keras.Input((2,), dtype="int32") for _ in range(1 + given_labels)]
    embedding = kind(VOCABULARY, 8, name="tokens", dtype=dtype)
    hidden = keras.layers.Dense(WIDTH, name="encoder", dtype=dtype)(embedding(tokens))
    head = MaskedLMHead(embedding, DIMS, block_size=block_size, name="head", dtype=dtype)
    return keras.Model([tokens, *more], head([hidden, *more]))


def tokens_positions_labels(count=64):
    """Each token tells the next one, so a masked token (12) is known from its neighbours."""
    rng = np.random.default_rng(3)
    tokens = (rng.integers(0, 12, (count, 1)) + np.arange(LENGTH)) % 12
    positions = np.stack([rng.permutation(LENGTH)[:2] for _ in range(count)])
    return [
        x.astype("int32") for x in (tokens, positions, tokens[np.arange(count)[:, None], positions])
    ]


def compile_for_training(model, jit_compile=False, optimizer=None):
    model.compile(
        optimizer or keras.optimizers.SGD(0.5),
        loss=MatryoshkaLoss(
            MaskedLMCrossentropy(), [2.0, 1.0, 0.5], reduction="mean_with_sample_weight"
        ),
        weighted_metrics=per_prefix(MaskedLMAccuracy(), DIMS),
        jit_compile=on_jax(jit_compile),
    )


def on_jax(jit_compile):
    """Compiled, there: JAX would otherwise compile the loop over blocks anew at every step."""
    return jit_compile or keras.backend.backend() == "jax"


ARGUMENTS = {
    "embedding": keras.layers.Embedding(VOCABULARY, 8, name="tokens"),
    "nesting_dims": DIMS,
    "activation": "tanh",
    "kernel_initializer": "he_normal",
    "layer_norm_epsilon": 1e-3,
    "block_size": 5,
    "name": "head",
}


@pytest.mark.slow
def test_contract():
    contracts.check_every_argument_is_given(MaskedLMHead, ARGUMENTS)
    contracts.check_config_round_trip(MaskedLMHead, ARGUMENTS)
    for inputs in (INPUTS, INPUTS[:2]):
        contracts.check_shapes_agree(MaskedLMHead(**ARGUMENTS), inputs)
        contracts.check_fit_and_reload(MaskedLMHead, ARGUMENTS, inputs, on_jax(False))


def test_logits():
    head = built_head()
    np.testing.assert_allclose(as_numpy(head(INPUTS[:2])), oracle_logits(head), atol=2e-5)


@pytest.mark.parametrize("block_size", [1, 5, 13, 2048])
def test_scores_of_labels(block_size):
    head = built_head(block_size=block_size)
    expected = oracle_scores(oracle_logits(head))
    np.testing.assert_allclose(as_numpy(head(INPUTS)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_ends_in_float32(dtype):
    head = built_head(dtype=dtype)
    assert head.transform.compute_dtype == head.compute_dtype == dtype.removeprefix("mixed_")
    for inputs, expected in (
        (INPUTS[:2], oracle_logits(head)),
        (INPUTS, oracle_scores(oracle_logits(head))),
    ):
        found = head(inputs)
        symbolic = head([keras.Input(x.shape[1:]) for x in inputs])
        assert keras.backend.standardize_dtype(found.dtype) == symbolic.dtype == "float32"
        off = np.abs(as_numpy(found) - expected)[..., :1]
        assert off.max() < 0.1
        assert not np.array_equal(as_numpy(found), as_numpy(built_head()(inputs)))
    assert all(weight.dtype == "float32" for weight in head.weights)


def test_token_ids_keep_their_value_in_half_precision():
    embedding = keras.layers.Embedding(1000, 8)
    head = MaskedLMHead(embedding, DIMS, dtype="mixed_bfloat16")
    hidden = RNG.standard_normal((1, 600, WIDTH)).astype("float32")
    positions, labels = np.array([[513, 599]], "int32"), np.array([[999, 301]], "int32")
    expected = as_numpy(head([hidden, positions, labels]))
    found = as_numpy(head([hidden, positions.astype("float32"), labels.astype("float32")]))
    np.testing.assert_array_equal(found, expected)


def test_positions():
    found = as_numpy(gather_positions(HIDDEN, keras.ops.convert_to_tensor(POSITIONS)))
    np.testing.assert_array_equal(found, HIDDEN[np.arange(4)[:, None], POSITIONS])
    outside = keras.ops.convert_to_tensor(np.array([[0, 6], [-1, 1], [5, 0], [7, 2]], "int32"))
    found = np.isnan(as_numpy(gather_positions(HIDDEN, outside))).all(axis=-1)
    np.testing.assert_array_equal(found, [[0, 1], [1, 0], [0, 0], [1, 0]])


@pytest.mark.parametrize("jit_compile", contracts.JIT_COMPILE)
@pytest.mark.slow
def test_one_step_trains_as_with_all_logits_alive(jit_compile):
    """The tied table gets the same gradient, from its rows as inputs and as classifier."""
    *inputs, labels = tokens_positions_labels()
    weights = np.random.default_rng(4).integers(0, 2, labels.shape).astype("float32")
    fit = {"sample_weight": weights, "batch_size": len(labels), "verbose": 0}
    fused, plain = language_model(), language_model(given_labels=False)
    compile_for_training(fused, jit_compile)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(
        keras.optimizers.SGD(0.5),
        MatryoshkaLoss(crossentropy, [2.0, 1.0, 0.5], reduction="mean_with_sample_weight"),
        weighted_metrics=per_prefix("sparse_categorical_accuracy", DIMS),
        jit_compile=False,
    )
    found = fused.fit([*inputs, labels], labels, **fit).history
    expected = plain.fit(inputs, labels, **fit).history
    assert len(found) == len(expected) == 1 + len(DIMS)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
    for one, other in zip(fused.trainable_weights, plain.trainable_weights, strict=True):
        assert one.path.split("/")[-1] == other.path.split("/")[-1]
        np.testing.assert_allclose(as_numpy(one), as_numpy(other), rtol=1e-4, atol=1e-6)


def test_padded_positions_do_not_train():
    tokens, positions, labels = tokens_positions_labels()
    weights = np.tile([1.0, 0.0], (len(labels), 1)).astype("float32")
    histories, tables = [], []
    for padding in (0, 11):
        padded = labels.copy()
        padded[:, 1] = padding
        model = language_model()
        compile_for_training(model)
        fit = {"sample_weight": weights, "shuffle": False, "verbose": 0}
        histories.append(model.fit([tokens, positions, padded], padded, **fit).history)
        tables.append(as_numpy(model.get_layer("tokens").embeddings))
    assert histories[0] == histories[1]
    np.testing.assert_array_equal(*tables)


@pytest.mark.parametrize(
    ("kind", "dtype", "jit_compile"),
    [
        (keras.layers.Embedding, "float32", False),
        (keras.layers.ReversibleEmbedding, "mixed_bfloat16", True),
        (keras.layers.ReversibleEmbedding, "mixed_float16", False),
    ],
)
@pytest.mark.slow
def test_a_language_model_is_trained_and_keeps_its_tied_table(kind, dtype, jit_compile):
    # Without the compiler, the last batch is partial.
    inputs = tokens_positions_labels(48 if jit_compile else 40)
    model = language_model(kind=kind, dtype=dtype)
    jit_compile = jit_compile and keras.backend.backend() != "torch"
    compile_for_training(model, jit_compile, keras.optimizers.Adam(0.05))
    fit = {"batch_size": 16, "epochs": 20, "verbose": 0}
    history = model.fit(inputs, inputs[2], **fit).history
    assert history["loss"][-1] < 0.4 * history["loss"][0]
    assert history["masked_lm_accuracy_d8"][-1] > 0.8

    revived = save_and_load(model)
    assert revived.get_layer("head").embedding is revived.get_layer("tokens")
    assert len(revived.weights) == len(model.weights) == 8
    batch = [x[:16] for x in inputs]
    np.testing.assert_array_equal(as_numpy(revived(batch)), as_numpy(model(batch)))
    before = as_numpy(revived(batch))
    revived.get_layer("tokens").embeddings.assign(np.zeros((VOCABULARY, 8)))
    revived.get_layer("head").bias.assign(np.zeros(VOCABULARY))
    assert np.abs(as_numpy(revived(batch)) - before).max() > 0.1
    np.testing.assert_allclose(as_numpy(revived(batch))[..., 0], np.log(VOCABULARY), rtol=1e-5)


def test_the_same_head_predicts():
    """One layer in a model for training and in a model without labels."""
    tokens, positions, labels = (keras.Input((n,), dtype="int32") for n in (LENGTH, 2, 2))
    embedding = keras.layers.Embedding(VOCABULARY, 8)
    hidden = keras.layers.Dense(WIDTH)(embedding(tokens))
    head = MaskedLMHead(embedding, DIMS)
    training = keras.Model([tokens, positions, labels], head([hidden, positions, labels]))
    predicting = keras.Model([tokens, positions], head([hidden, positions]))
    given = tokens_positions_labels(8)
    logits = predicting.predict(given[:2], verbose=0)
    target = oracles.one_hot(given[2], VOCABULARY)[..., None, :]
    expected = oracles.softmax_crossentropy(target, logits.astype("float64"))
    found = training.predict(given, verbose=0)
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-5, atol=1e-6)


def test_the_mask_of_the_sequence_ends_here():
    tokens, positions, labels = tokens_positions_labels(8)
    embedding = keras.layers.Embedding(VOCABULARY, WIDTH, mask_zero=True)
    head = MaskedLMHead(embedding, [2, WIDTH])
    given = [keras.Input((n,), dtype="int32") for n in (LENGTH, 2, 2)]
    output = head([embedding(given[0]), *given[1:]])
    assert getattr(output, "_keras_mask", None) is None
    model = keras.Model(given, output)
    model.compile(loss=MatryoshkaLoss(MaskedLMCrossentropy()))
    assert np.isfinite(model.evaluate([tokens, positions, labels], labels, verbose=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedding": "tokens"}, r"must be a Keras layer with a weight `embeddings`.*'tokens'"),
        ({"embedding": keras.layers.Dense(8)}, r"a weight `embeddings` \(vocabulary, d\)"),
        (
            {
                "embedding": keras.layers.ReversibleEmbedding(
                    VOCABULARY, 8, tie_weights=False, name="own"
                )
            },
            r"'own' has `tie_weights=False`",
        ),
        (
            {"embedding": keras.layers.ReversibleEmbedding(VOCABULARY, 8, logit_soft_cap=9.0)},
            r"has a `logit_soft_cap` of 9\.0",
        ),
        ({"nesting_dims": [2, 4]}, r"end at the width 8 .* table \(13, 8\).*\[2, 4\]"),
        ({"block_size": 0}, r"`block_size` must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        built_head(**arguments)


@pytest.mark.parametrize(
    "inputs",
    [
        [HIDDEN],
        [HIDDEN[0], POSITIONS],
        [HIDDEN, POSITIONS[:3]],
        [HIDDEN, POSITIONS, LABELS[:, :1]],
        [HIDDEN, POSITIONS, LABELS[..., None]],
        [*INPUTS, LABELS],
    ],
)
def test_inputs_that_do_not_fit(inputs):
    shapes = ", ".join(r"\({}\)".format(r",\s".join(map(str, x.shape))) for x in inputs)
    with pytest.raises(ValueError, match=rf"takes a list of hidden states.*\[{shapes}\]"):
        built_head()(inputs)


def test_a_tensor_instead_of_a_list():
    with pytest.raises(ValueError, match=r"takes a list of hidden states"):
        built_head()(HIDDEN)


@pytest.mark.filterwarnings("ignore:Layer .* does not have:UserWarning")
@pytest.mark.parametrize("kind", [keras.layers.Embedding, keras.layers.ReversibleEmbedding])
def test_an_embedding_quantised_to_int8_is_read_by_its_scales(kind):
    keras.utils.set_random_seed(0)
    tokens, positions = keras.Input((6,), dtype="int32"), keras.Input((2,), dtype="int32")
    labels = keras.Input((2,), dtype="int32")
    embedding = kind(30, 8, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))
    head = MaskedLMHead(embedding, [4, 8])
    hidden = keras.layers.Dense(8)(embedding(tokens))
    logits = keras.Model([tokens, positions], head([hidden, positions]))
    scores = keras.Model([tokens, positions, labels], head([hidden, positions, labels]))
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, size, (4, n)) for size, n in ((30, 6), (6, 2), (30, 2))]
    before = as_numpy(logits(inputs[:2])), as_numpy(scores(inputs))[..., 0]
    scores.quantize("int8")
    assert embedding.dtype_policy.quantization_mode == "int8"
    after = as_numpy(logits(inputs[:2])), as_numpy(scores(inputs))[..., 0]
    for old, new in zip(before, after, strict=True):
        assert 0 < np.abs(new - old).max() < 0.05 * np.abs(old).max()
