import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaLoss, SmoothedSparseCategoricalCrossentropy
from tests.support import oracles
from tests.support.backend import gradients, numerical_gradient
from tests.support.contracts import as_numpy, run_loss_contract

RNG = np.random.default_rng(0)
BATCH, PREFIXES, UNITS = 6, 3, 4
LOGITS = RNG.standard_normal((BATCH, PREFIXES, UNITS)).astype("float32")
LABELS = RNG.integers(0, UNITS, BATCH)
WEIGHTS = [2.0, 0.0, 0.5]
ONES = [1.0, 1.0, 1.0]


def sparse():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def expected(weights=ONES, smoothing=0.0, labels=LABELS, logits=LOGITS):
    targets = oracles.one_hot(labels, UNITS, smoothing)
    return oracles.matryoshka_loss(targets, logits.astype("float64"), weights)


def test_contract():
    arguments = {
        "loss": keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        "relative_importance": [2.0, 0.5, 1.0],
        "prefix_reduction": "mean",
        "reduction": "sum",
        "name": "nested",
        "dtype": "float16",
    }
    run_loss_contract(MatryoshkaLoss, arguments, oracles.one_hot(LABELS, UNITS), LOGITS)


def test_contract_of_the_smoothed_crossentropy():
    arguments = {"label_smoothing": 0.3, "reduction": "sum", "name": "ce", "dtype": "float16"}
    cls = SmoothedSparseCategoricalCrossentropy
    run_loss_contract(cls, arguments, LABELS, LOGITS[:, 0])


@pytest.mark.parametrize("weights", [None, ONES, WEIGHTS, tuple(WEIGHTS)])
def test_values_are_equation_1(weights):
    loss = MatryoshkaLoss(sparse(), relative_importance=weights, reduction=None)
    found = as_numpy(loss(LABELS, LOGITS))
    np.testing.assert_allclose(found, expected(weights or ONES), rtol=1e-5)


def test_the_mean_divides_by_the_sum_of_the_weights():
    loss = MatryoshkaLoss(sparse(), WEIGHTS, prefix_reduction="mean", reduction=None)
    np.testing.assert_allclose(as_numpy(loss(LABELS, LOGITS)), expected(WEIGHTS) / 2.5, rtol=1e-5)


@pytest.mark.parametrize(
    "inner",
    [
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
        SmoothedSparseCategoricalCrossentropy(0.2),
    ],
)
def test_label_smoothing_with_dense_and_sparse_labels(inner):
    dense = isinstance(inner, keras.losses.CategoricalCrossentropy)
    labels = oracles.one_hot(LABELS, UNITS) if dense else LABELS
    found = as_numpy(MatryoshkaLoss(inner, reduction=None)(labels, LOGITS))
    np.testing.assert_allclose(found, expected(smoothing=0.2), rtol=1e-5)


def test_labels_may_have_a_last_axis_of_one():
    loss = MatryoshkaLoss(sparse(), reduction=None)
    np.testing.assert_allclose(as_numpy(loss(LABELS[:, None], LOGITS)), expected(), rtol=1e-5)


def test_more_leading_axes():
    logits = np.stack([LOGITS, LOGITS[::-1]], axis=1)
    labels = np.stack([LABELS, LABELS[::-1]], axis=1)
    found = as_numpy(MatryoshkaLoss(sparse(), reduction=None)(labels, logits))
    np.testing.assert_allclose(found, np.stack([expected(), expected()[::-1]], axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("reduction", "combine"),
    [
        ("sum", lambda values, weights: (values * weights).sum()),
        ("sum_over_batch_size", lambda values, weights: (values * weights).mean()),
        (
            "mean_with_sample_weight",
            lambda values, weights: (values * weights).sum() / weights.sum(),
        ),
        (None, lambda values, weights: values * weights),
    ],
)
def test_sample_weights_and_reductions(reduction, combine):
    sample_weight = np.array([0.0, 1.0, 2.0, 0.5, 1.0, 3.0], "float32")
    loss = MatryoshkaLoss(sparse(), WEIGHTS, reduction=reduction)
    found = as_numpy(loss(LABELS, LOGITS, sample_weight=sample_weight))
    np.testing.assert_allclose(found, combine(expected(WEIGHTS), sample_weight), rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["sparse_categorical_crossentropy", "SparseCategoricalCrossentropy"]
)
def test_names_mean_keras_defaults_so_probabilities(name):
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    loss = MatryoshkaLoss(name, reduction=None)
    np.testing.assert_allclose(as_numpy(loss(LABELS, probabilities)), expected(), rtol=1e-4)
    revived = MatryoshkaLoss.from_config(loss.get_config())
    np.testing.assert_allclose(as_numpy(revived(LABELS, probabilities)), expected(), rtol=1e-4)


def test_any_row_wise_or_whole_batch_loss_can_be_wrapped():
    targets = RNG.random((BATCH, UNITS)).astype("float32")
    squared = MatryoshkaLoss("mse", reduction=None)
    hand = ((LOGITS - targets[:, None]) ** 2).mean(-1).sum(-1)
    np.testing.assert_allclose(as_numpy(squared(targets, LOGITS)), hand, rtol=1e-5)
    dice = keras.losses.Dice(axis=None)
    found = as_numpy(MatryoshkaLoss(dice)(targets, LOGITS**2))
    hand = sum(as_numpy(dice(targets, LOGITS[:, i] ** 2)) for i in range(PREFIXES))
    np.testing.assert_allclose(found, hand, rtol=1e-5)


def test_gradients_reach_every_prefix_and_match_finite_differences():
    loss = MatryoshkaLoss(sparse(), [2.0, 1.0, 0.5])
    _, (found,) = gradients(lambda logits: loss(LABELS, logits), LOGITS)
    wanted = numerical_gradient(
        lambda logits: expected([2.0, 1.0, 0.5], logits=logits).mean(), [LOGITS], 0
    )
    assert np.abs(wanted).max(axis=(0, 2)).min() > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "shape", "message"),
    [
        (
            (6,),
            (6, 4),
            r"prefix axis \(-2\) is missing\. Received y_pred \(6, 4\) and y_true \(6\)",
        ),
        (
            (6,),
            (6, 2, 4),
            r"has 3 weights, but the prefix axis \(-2\) of the output has 2 prefixes",
        ),
        ((5,), (6, 3, 4), r"wants y_true \(6\) integer labels\. Received y_pred \(6, 3, 4\)"),
        ((6, 4), (6, 3, 4), r"output of one prefix, \(6, 4\).* and y_true \(6, 4\)"),
    ],
)
def test_shape_errors_name_both_shapes(labels, shape, message):
    loss = MatryoshkaLoss(sparse(), ONES)
    with pytest.raises(ValueError, match=message):
        loss(np.zeros(labels), np.zeros(shape, "float32"))


def test_wrong_classes_with_dense_labels():
    loss = MatryoshkaLoss(keras.losses.CategoricalCrossentropy(from_logits=True))
    with pytest.raises(
        ValueError, match=r"wants y_true \(6, 4\)\. Received y_pred \(6, 3, 4\) and "
    ):
        loss(np.zeros((6, 5)), LOGITS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": 3}, r"`loss` must be a keras\.losses\.Loss instance.*Received 3 of type int"),
        ({"loss": keras.losses.MeanSquaredError}, r"`loss` must be .* of type type"),
        ({"loss": "no_such_loss"}, r"Could not interpret loss identifier: no_such_loss"),
        (
            {"loss": keras.losses.MeanSquaredError(reduction="sum")},
            r"set it on MatryoshkaLoss\. Received an inner reduction of 'sum'",
        ),
        (
            {"loss": keras.losses.MeanSquaredError(dtype="float16")},
            r"set it on MatryoshkaLoss\. Received an inner dtype of 'float16'",
        ),
        ({"loss": "mse", "prefix_reduction": "max"}, r"one of \('sum', 'mean'\)\. Received 'max'"),
        ({"loss": "mse", "relative_importance": 2.0}, r"sequence with one number for each prefix"),
        ({"loss": "mse", "relative_importance": []}, r"at least one above zero. Received \[\]"),
        ({"loss": "mse", "relative_importance": [1, -1]}, r"none negative.*\[1\.0, -1\.0\]"),
        ({"loss": "mse", "relative_importance": ["a"]}, r"Received \['a'\]"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        MatryoshkaLoss(**arguments)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_errors(smoothing):
    with pytest.raises(ValueError, match=r"`label_smoothing` must be in \[0, 1\)\. Received"):
        SmoothedSparseCategoricalCrossentropy(smoothing)


@pytest.mark.parametrize(
    "inner",
    [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.losses.sparse_categorical_crossentropy,
    ],
)
def test_logits_in_place_of_probabilities_warn_once(inner):
    loss = MatryoshkaLoss(inner)
    with pytest.warns(UserWarning, match=r"takes probabilities.*`from_logits=True`"):
        loss(LABELS, LOGITS)
    loss(LABELS, LOGITS)  # a warning would be an error
    probabilities = keras.ops.softmax(LOGITS)
    MatryoshkaLoss(inner)(LABELS, probabilities)  # nor do these warn
    MatryoshkaLoss(sparse())(LABELS, LOGITS)


def test_labels_that_are_read_must_be_given():
    with pytest.raises(ValueError, match=r"'matryoshka_loss' reads labels.* as `y`"):
        MatryoshkaLoss(sparse())(None, LOGITS)


@pytest.mark.parametrize("shape", [(BATCH,), (BATCH, 1)])
def test_kerass_sparse_crossentropy_has_the_gradients_of_the_softmax(shape):
    logits = np.array([[1e4, -1e4, 0.0, 3.0], *LOGITS[1:, 0]], "float32")[:, None]
    labels = np.array([1, *LABELS[1:]])
    loss = MatryoshkaLoss(sparse(), reduction="sum")
    _, (found,) = gradients(lambda z: loss(labels.reshape(shape), z), logits)
    shifted = np.exp(logits[:, 0].astype("float64") - logits[:, 0].max(-1, keepdims=True))
    softmax = shifted / shifted.sum(-1, keepdims=True)
    wanted = softmax - oracles.one_hot(labels, UNITS)
    np.testing.assert_allclose(found[:, 0], wanted, atol=1e-6)
    value = as_numpy(MatryoshkaLoss(sparse(), reduction=None)(labels, logits))
    np.testing.assert_allclose(value[0], 2e4, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sparse_labels_out_of_range_give_nan(smoothing):
    loss = SmoothedSparseCategoricalCrossentropy(smoothing, reduction=None)
    found = as_numpy(loss(np.array([UNITS, -1, 2]), LOGITS[:3, 0]))
    assert np.isnan(found).tolist() == [True, True, False]


def test_a_half_precision_crossentropy_is_summed_in_float32():
    """2,000 equal classes: half precision cannot count to their number."""
    loss = MatryoshkaLoss(sparse(), reduction=None, dtype="bfloat16")
    found = as_numpy(loss(np.zeros(2, "int32"), np.zeros((2, 1, 2000), "float32")))
    np.testing.assert_allclose(found.astype("float32"), np.log(2000), rtol=2**-8)


def test_a_crossentropy_of_ones_own_keeps_its_call():
    class Threefold(keras.losses.SparseCategoricalCrossentropy):
        def call(self, y_true, y_pred):
            return 3.0 * super().call(y_true, y_pred)

    labels, logits = np.array([1, 0]), np.array([[[0.5, 2.0]], [[1.0, -1.0]]], "float32")
    plain = MatryoshkaLoss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = MatryoshkaLoss(Threefold(from_logits=True))(labels, logits)
    np.testing.assert_allclose(as_numpy(found), 3 * as_numpy(plain(labels, logits)), rtol=1e-6)
