import keras
import numpy as np
import pytest

from mrl_keras import CoSENT, InBatchAccuracy, MatryoshkaLoss, per_prefix
from mrl_keras.layers.matryoshka_similarity import MatryoshkaSimilarity
from mrl_keras.losses.symmetric_contrastive import (
    SymmetricContrastive,
    row_and_column_logsumexp,
    symmetric_contrastive,
)
from tests.support.backend import gradients, numerical_gradient
from tests.support.contracts import Offset, as_numpy, run_loss_contract, save_and_load

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((5, 5)).astype("float32")
LABELS = np.array([2, 0, 2, 4, 1])
NESTED = RNG.standard_normal((5, 3, 5)).astype("float32")


def logsumexp(x, axis):
    largest = x.max(axis=axis, keepdims=True)
    return (np.log(np.exp(x - largest).sum(axis=axis, keepdims=True)) + largest).squeeze(axis)


def oracle(labels, logits):
    """(n,): the two crossentropies taken separately, in float64."""
    logits = np.array(logits, "float64")
    values = []
    for i, label in enumerate(labels):
        row = logits[i] - logsumexp(logits[i], 0)
        column = logits[:, label] - logsumexp(logits[:, label], 0)
        values.append(-(row[label] + column[i]) / 2)
    return np.array(values)


def oracle_gradient(labels, logits, upstream):
    """The derivative of sum(upstream * loss): two softmaxes less the positives, in float64."""
    logits = np.array(logits, "float64")
    rows = np.exp(logits - logsumexp(logits, 1)[:, None])
    columns = np.exp(logits - logsumexp(logits, 0)[None, :])
    positive = np.eye(logits.shape[1])[labels]
    return (upstream[:, None] * rows + columns * (upstream @ positive)) / 2 - (
        upstream[:, None] * positive
    )


def cosines(n, temperature, spread=1.0):
    """Logits of pairs with cosines from -1 to 1: positives near 1 and hard negatives."""
    x = RNG.standard_normal((n, 3))
    y = x + spread * RNG.standard_normal((n, 3))
    y[1] = -x[1]  # a positive at the far end
    x[2], y[2] = x[3], y[3]  # a duplicate pair
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    return (x @ y.T / temperature).astype("float32")


def weighted(labels, upstream):
    upstream = keras.ops.convert_to_tensor(upstream.astype("float32"))
    return lambda logits: keras.ops.sum(symmetric_contrastive(labels, logits) * upstream)


def test_contract():
    arguments = {"positives": "labels", "reduction": "sum", "name": "c", "dtype": "float16"}
    run_loss_contract(SymmetricContrastive, arguments, LABELS, LOGITS)


def test_the_oracle_gradient_is_that_of_the_oracle():
    upstream = RNG.random(5)
    expected = numerical_gradient(lambda x: (upstream * oracle(LABELS, x)).sum(), [LOGITS], 0)
    np.testing.assert_allclose(oracle_gradient(LABELS, LOGITS, upstream), expected, atol=1e-8)


@pytest.mark.parametrize("labels", [None, LABELS, LABELS[:, None], LABELS.astype("float32")])
def test_values_and_gradients(labels):
    columns = np.arange(5) if labels is None else LABELS
    upstream = RNG.random(5)
    found = as_numpy(symmetric_contrastive(labels, LOGITS))
    np.testing.assert_allclose(found, oracle(columns, LOGITS), rtol=1e-5)
    _, (gradient,) = gradients(weighted(labels, upstream), LOGITS)
    np.testing.assert_allclose(gradient, oracle_gradient(columns, LOGITS, upstream), atol=1e-6)


def test_more_columns_than_rows():
    logits, upstream = RNG.standard_normal((3, 7)).astype("float32"), RNG.random(3)
    for labels, columns in ((None, [0, 1, 2]), ([6, 0, 6], [6, 0, 6])):
        found = as_numpy(symmetric_contrastive(labels, logits))
        np.testing.assert_allclose(found, oracle(columns, logits), rtol=1e-5)
        _, (gradient,) = gradients(weighted(labels, upstream), logits)
        expected = oracle_gradient(columns, logits, upstream)
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.02, 0.01, 0.001])
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_any_temperature(temperature, spread):
    logits, upstream = cosines(40, temperature, spread), RNG.random(40) / 40
    found = as_numpy(symmetric_contrastive(None, logits))
    np.testing.assert_allclose(found, oracle(np.arange(40), logits), rtol=1e-5, atol=1e-4)
    _, (gradient,) = gradients(weighted(None, upstream), logits)
    expected = oracle_gradient(np.arange(40), logits, upstream)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def logits_with_range(span):
    """Row 0 and column 0 lie `span` below the largest logit; nothing else is small."""
    logits = 60.0 + RNG.standard_normal((4, 4))
    logits[0] -= span
    logits[:, 0] -= span
    return logits.astype("float32")


@pytest.mark.parametrize("offset", [0.0, -400.0, 1000.0])
@pytest.mark.parametrize("span", [0.0, 50.0, 90.0, 100.0, 104.0, 110.0, 120.0, 150.0, 1000.0])
def test_the_shared_exponential_gives_way_before_it_underflows(span, offset):
    logits, upstream = logits_with_range(span) + np.float32(offset), np.ones(4)
    expected = np.concatenate([logsumexp(logits.astype("float64"), axis) for axis in (1, 0)])
    found = as_numpy(row_and_column_logsumexp(keras.ops.convert_to_tensor(logits)))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)
    _, (gradient,) = gradients(weighted(None, upstream), logits)
    expected = oracle_gradient(np.arange(4), logits, upstream)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_both_ways_to_the_sums_are_taken(monkeypatch):
    """The tests above reach the shared exponential and the separate ones, and tell them apart."""
    taken = []
    cond = keras.ops.cond

    def recording(condition, yes, no):
        taken.append(bool(condition))
        return cond(condition, yes, no)

    if keras.backend.backend() == "jax":
        pytest.skip("the condition is traced")
    monkeypatch.setattr(keras.ops, "cond", recording)
    for logits in (cosines(40, 0.05), cosines(40, 0.02), logits_with_range(1000.0)):
        row_and_column_logsumexp(keras.ops.convert_to_tensor(logits))
    assert taken == [True, True, False]


def test_masked_logits_have_no_weight():
    logits = LOGITS.copy()
    logits[0, 3] = -np.inf
    logits[2, 1] = -1e30
    found = as_numpy(symmetric_contrastive(None, logits))
    np.testing.assert_allclose(found, oracle(np.arange(5), logits), rtol=1e-5)
    _, (gradient,) = gradients(weighted(None, np.ones(5)), logits)
    expected = oracle_gradient(np.arange(5), logits, np.ones(5))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_what_is_not_a_number_is_not_hidden():
    logits = LOGITS.copy()
    logits[1, 2] = np.nan
    found = as_numpy(symmetric_contrastive(None, logits))
    assert np.isnan(found[[1, 2]]).all()


def test_labels_outside_the_columns_give_nan_alone():
    found = as_numpy(symmetric_contrastive([5, 0, -1, 4, 1], LOGITS))
    np.testing.assert_array_equal(np.isnan(found), [True, False, True, False, False])
    np.testing.assert_allclose(found[[1, 3, 4]], oracle(LABELS, LOGITS)[[1, 3, 4]], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_are_widened(dtype):
    logits = keras.ops.cast(cosines(40, 0.05), dtype)
    expected = oracle(np.arange(40), as_numpy(logits))
    found = symmetric_contrastive(None, logits)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(as_numpy(found), expected, rtol=1e-5, atol=1e-5)


def test_nested_logits():
    each = [oracle(LABELS, NESTED[:, i]) for i in range(3)]
    alone = SymmetricContrastive("labels", reduction=None)
    np.testing.assert_allclose(as_numpy(alone(LABELS, NESTED)), sum(each), rtol=1e-5)
    nested = MatryoshkaLoss(SymmetricContrastive("labels"), [2.0, 0.0, 0.5], reduction=None)
    expected = 2.0 * each[0] + 0.5 * each[2]
    np.testing.assert_allclose(as_numpy(nested(LABELS, NESTED)), expected, rtol=1e-5)
    revived = MatryoshkaLoss.from_config(nested.get_config())
    np.testing.assert_allclose(as_numpy(revived(LABELS, NESTED)), expected, rtol=1e-5)


def test_sample_weights():
    weights = RNG.random(5)
    found = float(SymmetricContrastive()(np.zeros(5), LOGITS, sample_weight=weights))
    expected = (weights * oracle(np.arange(5), LOGITS)).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("jit_compile", "dtype"),
    [
        (False, "float32"),
        pytest.param(False, "mixed_float16", marks=pytest.mark.slow),
        pytest.param(True, "mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_dual_encoder_is_trained(jit_compile, dtype):
    """Shuffled pairs, a partial last batch, a learnable temperature, and the saved model."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    latent = rng.standard_normal((44, 8)).astype("float32")
    query, document = (latent @ rng.standard_normal((8, 12)).astype("float32") for _ in "qd")
    given = [keras.Input((12,)), keras.Input((12,))]
    embedded = [keras.layers.Dense(8, dtype=dtype)(one) for one in given]
    similarity = MatryoshkaSimilarity(
        [2, 4, 8], temperature=0.1, learnable_temperature=True, dtype=dtype
    )
    model = keras.Model(given, similarity(embedded))
    loss = MatryoshkaLoss(SymmetricContrastive())
    # The torch compiler takes minutes; the smaller tests below compile there, too.
    jit_compile = jit_compile and keras.backend.backend() != "torch"
    model.compile(keras.optimizers.Adam(0.1), loss=loss, jit_compile=jit_compile)
    fit = {"batch_size": 16, "epochs": 8, "verbose": 0}
    losses = model.fit([query, document], np.arange(44), **fit).history["loss"]
    assert losses[0] > 15.0
    assert losses[-1] < 5.0
    pair = [query[:16], document[:16]]
    logits = as_numpy(model(pair))
    np.testing.assert_array_equal(as_numpy(save_and_load(model)(pair)), logits)
    assert (logits[:, 2].argmax(axis=1) == np.arange(16)).mean() > 0.7


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("span", [0.0, 1000.0])
def test_a_compiled_step_takes_the_oracle_gradient(span, jit_compile):
    logits = logits_with_range(span)
    model = keras.Sequential([keras.Input((4,)), Offset()])
    loss = SymmetricContrastive(reduction="sum")
    model.compile(keras.optimizers.SGD(1.0), loss=loss, jit_compile=jit_compile)
    history = model.fit(logits, np.zeros(4), batch_size=4, shuffle=False, verbose=0).history
    labels = np.arange(4)
    np.testing.assert_allclose(history["loss"][0], oracle(labels, logits).sum(), rtol=1e-5)
    expected = -oracle_gradient(labels, logits, np.ones(4)).sum(axis=0)
    np.testing.assert_allclose(as_numpy(model.layers[-1].offset), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: SymmetricContrastive("rows"),
            r"must be one of \('diagonal', 'gathered', 'labels', 'scores'\).*'rows'",
        ),
        (lambda: symmetric_contrastive(None, LOGITS[:, :3]), r"m at least n.*y_pred \(5, 3\)"),
        (lambda: symmetric_contrastive(None, LOGITS[0]), r"m at least n.*y_pred \(5,\)"),
        (
            lambda: symmetric_contrastive(LABELS[:4], LOGITS),
            r"n labels.*y_pred \(5, 5\) and y_true \(4,\)",
        ),
        (
            lambda: symmetric_contrastive(np.eye(5), LOGITS),
            r"the column of each row's positive\. Received.*y_true \(5, 5\)",
        ),
        (lambda: symmetric_contrastive(LABELS, NESTED), r"Received y_pred \(5, 3, 5\)"),
        (
            lambda: symmetric_contrastive(
                keras.ops.cast([0, 1], "bfloat16"), np.zeros((2, 300), "float32")
            ),
            r"bfloat16 labels are exact up to 256 only, and there are 300 columns",
        ),
        (
            lambda: symmetric_contrastive(
                keras.ops.cast([0, 1], "float16"), np.zeros((2, 2049), "float32")
            ),
            r'exact up to 2048 only.*`dtype="float32"` on the loss',
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class TestGathered:
    """`positives="gathered"` on one replica; tests/models/test_dual_encoder.py has two."""

    def test_one_replica_has_the_diagonal(self):
        logits = RNG.normal(0, 30, (6, 3, 6)).astype("float32")
        alone, gathered = (
            MatryoshkaLoss(SymmetricContrastive(positives), [1.0, 2.0, 3.0])
            for positives in ("diagonal", "gathered")
        )
        expected = as_numpy(alone(np.zeros(6), logits))
        np.testing.assert_allclose(as_numpy(gathered(np.zeros(6), logits)), expected, rtol=1e-6)

    def test_hand_worked(self):
        loss = SymmetricContrastive("gathered", reduction=None)
        found = as_numpy(loss(np.zeros(2), np.log([[3.0, 1.0], [5.0, 4.0]])))
        np.testing.assert_allclose(found, -np.log([3 / 4 * 3 / 8, 4 / 9 * 4 / 5]) / 2, rtol=1e-6)

    def test_logits_of_another_shape(self):
        with pytest.raises(ValueError, match=r"of all 1 replicas. Received \(2, 3\)"):
            SymmetricContrastive("gathered")(np.zeros(2), np.zeros((2, 3), "float32"))

    def test_gathered_columns_are_refused_on_the_diagonal(self, monkeypatch):
        module = "mrl_keras.losses.symmetric_contrastive.replica_position"
        monkeypatch.setattr(module, lambda: (1, 2))
        with pytest.raises(ValueError, match=r"\(3, 6\) on 2 replicas .* `positives=\"gathered\"`"):
            SymmetricContrastive()(np.zeros(3), np.zeros((3, 2, 6), "float32"))
        SymmetricContrastive()(np.zeros(3), np.zeros((3, 2, 3), "float32"))


@pytest.mark.parametrize(
    ("name", "config", "wanted"),
    [
        (
            "GlobalSymmetricContrastive",
            {"name": "g", "reduction": "sum", "dtype": None},
            SymmetricContrastive("gathered", reduction="sum", name="g"),
        ),
        (
            "PairRanking",
            {"name": "p", "reduction": "sum", "dtype": None, "temperature": 0.3},
            CoSENT(0.3, reduction="sum", name="p"),
        ),
    ],
)
def test_losses_of_earlier_files_load(name, config, wanted):
    saved = {
        "module": f"mrl_keras.losses.{name.lower()}",
        "class_name": name,
        "config": config,
        "registered_name": f"mrl_keras>{name}",
    }
    found = keras.losses.deserialize(saved)
    assert type(found) is type(wanted)
    assert found.get_config() == wanted.get_config()


@pytest.mark.slow
def test_pairs_are_trained_without_labels():
    inputs = [keras.Input((4,)) for _ in range(2)]
    model = keras.Model(inputs, MatryoshkaSimilarity([2, 4], learnable_temperature=True)(inputs))
    loss = MatryoshkaLoss(SymmetricContrastive())
    metrics = per_prefix([InBatchAccuracy(), loss], [2, 4])
    model.compile("sgd", loss=loss, metrics=metrics, jit_compile=False)
    rows = np.eye(4, dtype="float32")
    history = model.fit([rows, rows], verbose=0).history
    assert history["in_batch_top1_d4"] == [1.0]
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(model.evaluate([rows, rows], verbose=0)).all()
    with pytest.raises(ValueError, match="reads labels"):
        SymmetricContrastive("labels")(None, rows)
