"""Contrastive scores: values and gradients of the logits' loss, chunks, shapes, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras import InBatchAccuracy, MatryoshkaLoss, MatryoshkaSimilarity, SymmetricContrastive
from mrl_keras.models import ContrastiveScores, contrastive_scores, dual_encoder
from tests.support import contracts

DIMS = [2, 3, 6]
RNG = np.random.default_rng(0)
QUERY = RNG.standard_normal((7, 6)).astype("float32")
DOCUMENT = (QUERY + RNG.standard_normal((7, 6))).astype("float32")
MORE = np.concatenate([DOCUMENT, RNG.standard_normal((4, 6))]).astype("float32")
IMPORTANCE = [2.0, 1.0, 0.5]
ARGUMENTS = {
    "nesting_dims": DIMS,
    "chunk_size": 3,
    "normalize": False,
    "temperature": [0.5, 1.0, 2.0],
    "learnable_temperature": True,
    "per_prefix_temperature": True,
    "name": "scores",
}


def step(layer, positives, query, document, weights=None):
    """(loss, gradients of queries, documents and the layer's weights)."""
    loss = MatryoshkaLoss(SymmetricContrastive(positives), IMPORTANCE)
    given = [tf.constant(query), tf.constant(document)]
    layer.build([tuple(one.shape) for one in given])
    variables = [v.value for v in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = loss(np.zeros(len(query)), layer(given), sample_weight=weights)
    return value, tape.gradient(value, [*given, *variables])


def assert_close(found, wanted, tolerance):
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(wanted), strict=True):
        scale = max(np.abs(other).max(), 1.0)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


def test_contract():
    contracts.check_every_argument_is_given(ContrastiveScores, ARGUMENTS)
    contracts.check_config_round_trip(ContrastiveScores, ARGUMENTS)
    pair = [QUERY[:4], DOCUMENT[:4]]
    contracts.check_fit_and_reload(ContrastiveScores, ARGUMENTS, pair, jit_compile=False)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 20])
@pytest.mark.parametrize("document", [DOCUMENT, MORE], ids=["square", "more documents"])
def test_loss_and_gradients_are_those_of_the_logits(chunk_size, document):
    options = {"temperature": 0.1, "learnable_temperature": True}
    weights = np.arange(7, dtype="float32")
    wanted = step(MatryoshkaSimilarity(DIMS, **options), "diagonal", QUERY, document, weights)
    layer = ContrastiveScores(DIMS, chunk_size, **options)
    found = step(layer, "scores", QUERY, document, weights)
    assert_close(found, wanted, 3e-6)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.01, (0.05, 0.02, 3.0)])
def test_any_temperature(normalize, temperature):
    """At 0.01 the exponentials of rows and columns do not share one shift."""
    options = {
        "normalize": normalize,
        "temperature": temperature,
        "per_prefix_temperature": isinstance(temperature, tuple),
        "learnable_temperature": True,
    }
    wanted = step(MatryoshkaSimilarity(DIMS, **options), "diagonal", QUERY, DOCUMENT)
    found = step(ContrastiveScores(DIMS, 3, **options), "scores", QUERY, DOCUMENT)
    assert_close(found, wanted, 3e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_graph_of_unknown_batch(jit_compile):
    """Only without XLA, whose loops want static shapes, the number of rows is not known."""
    layer = ContrastiveScores(DIMS, 3, temperature=0.1)
    layer.build([(None, 6)] * 2)
    rows = 7 if jit_compile else None

    @tf.function(input_signature=[tf.TensorSpec((rows, 6))] * 2, jit_compile=jit_compile)
    def gradients(query, document):
        with tf.GradientTape() as tape:
            tape.watch([query, document])
            loss = tf.reduce_sum(layer([query, document])[..., 0])
        return loss, tape.gradient(loss, [query, document])

    with tf.GradientTape() as tape:
        pair = [tf.constant(QUERY), tf.constant(DOCUMENT)]
        tape.watch(pair)
        logits = MatryoshkaSimilarity(DIMS, temperature=0.1)(pair)
        loss = SymmetricContrastive(reduction="sum")(None, logits)
    assert_close(gradients(QUERY, DOCUMENT), (loss, tape.gradient(loss, pair)), 3e-6)


def test_the_nearest_document_is_told():
    pair = [QUERY, DOCUMENT]
    scores = ContrastiveScores(DIMS, 2)(pair)
    logits = MatryoshkaSimilarity(DIMS)(pair)
    for place in range(3):
        of_scores, of_logits = InBatchAccuracy(scores=True), InBatchAccuracy()
        of_scores.update_state(np.zeros(7), scores[:, place])
        of_logits.update_state(np.zeros(7), logits[:, place])
        assert 0 < float(of_logits.result()) < 1
        assert float(of_scores.result()) == float(of_logits.result())


def test_a_zero_prefix_and_no_rows():
    layer = ContrastiveScores(DIMS, 3)
    zero = np.concatenate([np.zeros((7, 2), "float32"), QUERY[:, 2:]], axis=1)
    assert_close(
        step(layer, "scores", zero, DOCUMENT),
        step(MatryoshkaSimilarity(DIMS), "diagonal", zero, DOCUMENT),
        3e-6,
    )
    assert layer([QUERY[:0], DOCUMENT[:0]]).shape == (0, 3, 2)


def test_a_dual_encoder_trains_as_with_all_logits():
    histories = []
    for chunk_size, positives in ((None, "gathered"), (3, "scores")):
        keras.utils.set_random_seed(0)
        inputs = [keras.Input((6,), name=name) for name in ("pixels", "words")]
        towers = [keras.Model(x, keras.layers.Dense(6)(x)) for x in inputs]
        model = dual_encoder(*towers, DIMS, chunk_size=chunk_size)
        loss = MatryoshkaLoss(SymmetricContrastive(positives))
        model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        pairs = {"pixels": QUERY, "words": DOCUMENT}
        history = model.fit(pairs, epochs=2, batch_size=7, verbose=0).history["loss"]
        histories.append([*history, *model.get_layer("similarity").get_weights()])
    assert histories[0][1] < histories[0][0]
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-5)


def test_documents_of_all_replicas_are_needed(monkeypatch):
    layer = ContrastiveScores(DIMS)
    layer.build([(7, 6), (14, 6)])
    monkeypatch.setattr(contrastive_scores, "replica_position", lambda: (0, 2))
    with pytest.raises(ValueError, match="2 times as many .* 7 queries and 11 documents"):
        layer.call([QUERY, MORE])


def test_errors():
    with pytest.raises(ValueError, match="`chunk_size`"):
        ContrastiveScores(DIMS, 0)
    with pytest.raises(ValueError, match="m at least n"):
        ContrastiveScores(DIMS)([QUERY, DOCUMENT[:3]])
    with pytest.raises(ValueError, match=r"scores \(rows, 2\).*\(7, 7\)"):
        SymmetricContrastive("scores")(None, QUERY @ DOCUMENT.T)
    with pytest.raises(ValueError, match=r"scores \(rows, 2\).*\(7, 7\)"):
        InBatchAccuracy(scores=True).update_state(np.zeros(7), QUERY @ DOCUMENT.T)
