"""Each wrapper gives Keras what its inner object gives: masks, directions, dtypes, weights."""

import keras
import numpy as np
import pytest

from mrl_keras import (
    CoSENT,
    InBatchAccuracy,
    MaskedLMAccuracy,
    MaskedLMCrossentropy,
    MatryoshkaDense,
    MatryoshkaLoss,
    PrefixMetric,
    SmoothedSparseCategoricalCrossentropy,
    SymmetricContrastive,
    per_prefix,
)
from mrl_keras.masks import get_keras_mask, set_keras_mask
from tests.support.contracts import as_numpy

RNG = np.random.default_rng(0)
DIMS = [2, 4]
ROWS, STEPS, CLASSES = 6, 5, 3
LOGITS = RNG.standard_normal((ROWS, STEPS, 2, CLASSES)).astype("float32")
LABELS = RNG.integers(0, CLASSES, (ROWS, STEPS))
IGNORED = np.where(RNG.random((ROWS, STEPS)) < 0.4, -1, LABELS)
MASK = RNG.random((ROWS, STEPS)) < 0.6
WEIGHTS = RNG.random((ROWS, STEPS)).astype("float32")
REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", None)


def crossentropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def tensor(array, mask=None):
    made = keras.ops.convert_to_tensor(array)
    if mask is not None:
        set_keras_mask(made, keras.ops.convert_to_tensor(mask))
    return made


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("masked", [None, MASK])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_loss_is_the_weighted_sum_of_the_inner_losses(reduction, ignored, masked, weights):
    options = {"ignore_class": -1} if ignored else {}
    labels = IGNORED if ignored else LABELS
    loss = MatryoshkaLoss(crossentropy(**options), [2.0, 0.5], reduction=reduction)
    inner = crossentropy(**options, reduction=reduction)
    parts = [inner(labels, tensor(LOGITS[:, :, i], masked), weights) for i in range(2)]
    found = as_numpy(loss(labels, tensor(LOGITS, masked), weights))
    np.testing.assert_allclose(found, 2.0 * as_numpy(parts[0]) + 0.5 * as_numpy(parts[1]), 1e-5)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", None])
@pytest.mark.parametrize("masked", [None, MASK])
def test_each_prefix_has_a_mask_of_its_own(reduction, masked):
    def hardest(y_true, y_pred):
        values = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        set_keras_mask(values, values > 1.0)
        return values

    loss = MatryoshkaLoss(hardest, reduction=reduction)
    inner = keras.losses.MeanSquaredError(reduction=reduction)
    inner.call = hardest
    parts = [as_numpy(inner(LABELS, tensor(LOGITS[:, :, i], masked))) for i in range(2)]
    found = as_numpy(loss(LABELS, tensor(LOGITS, masked)))
    np.testing.assert_allclose(found, sum(parts), 1e-5)


@pytest.mark.parametrize(
    ("specification", "name"),
    [
        ("sparse_categorical_accuracy", None),
        ("sparse_categorical_crossentropy", None),
        (keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="two", dtype="float64"), "two"),
        (keras.metrics.MeanMetricWrapper(keras.losses.sparse_categorical_crossentropy), None),
    ],
)
@pytest.mark.parametrize("masked", [None, MASK])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_metric_is_its_inner_metric(specification, name, masked, weights):
    metric = per_prefix(specification, DIMS)[1]
    inner = keras.metrics.get(specification)
    assert metric.name == f"{name or inner.name}_d4"
    assert metric.dtype == inner.dtype
    assert getattr(metric, "_direction", None) == getattr(inner, "_direction", None)
    assert [v.shape for v in metric.variables] == [v.shape for v in inner.variables]
    inner.reset_state()
    for one, y_pred in ((metric, LOGITS), (inner, LOGITS[:, :, 1])):
        one.update_state(LABELS, tensor(y_pred, masked), sample_weight=weights)
    np.testing.assert_allclose(as_numpy(metric.result()), as_numpy(inner.result()), 1e-6)
    metric.reset_state()
    assert all(float(variable) == 0.0 for variable in metric.variables)


@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS[:, 0]])
@pytest.mark.parametrize("masked", [None, MASK])
def test_the_metric_of_a_loss_leaves_out_what_the_loss_leaves_out(weights, masked):
    metric = per_prefix(crossentropy(ignore_class=-1), DIMS)[1]
    metric.update_state(IGNORED, tensor(LOGITS, masked), sample_weight=weights)
    counted = (IGNORED >= 0) & (True if masked is None else masked)
    each = keras.losses.sparse_categorical_crossentropy(
        np.maximum(IGNORED, 0), LOGITS[:, :, 1], from_logits=True
    )
    own = np.ones((ROWS, STEPS)) if weights is None else weights.reshape(ROWS, -1)
    own = own * counted
    # Keras averages over the steps of each row first.
    wanted = (as_numpy(each) * own).mean(1).sum() / own.mean(1).sum()
    np.testing.assert_allclose(float(metric.result()), wanted, 1e-5)


def test_the_accuracy_of_masked_positions_leaves_out_a_mask():
    metric = MaskedLMAccuracy()
    right = np.stack([np.zeros_like(MASK), MASK], axis=-1).astype("float32")
    metric.update_state(None, tensor(right, MASK))
    assert float(metric.result()) == 1.0


def test_directions():
    assert MaskedLMAccuracy()._direction == InBatchAccuracy()._direction == "up"
    (down,) = per_prefix(MatryoshkaLoss("mse"), [4])
    (up,) = per_prefix(InBatchAccuracy(), [4])
    assert (down._direction, up._direction) == ("down", "up")
    assert not hasattr(PrefixMetric(keras.metrics.Mean(), DIMS, 4), "_direction")
    revived = PrefixMetric.from_config(up.get_config())
    assert revived._direction == "up"


@pytest.mark.parametrize(
    ("name", "upward"), [("val_top2_d2", True), ("val_loss_d4", False), ("loss_d2", False)]
)
def test_callbacks_know_which_way_a_metric_goes(name, upward):
    model = keras.Sequential([keras.Input((4,)), MatryoshkaDense(CLASSES, DIMS)])
    metrics = per_prefix(["top2", crossentropy()], DIMS)
    model.compile("sgd", MatryoshkaLoss(crossentropy()), metrics=metrics, run_eagerly=True)
    x, y = np.ones((4, 4), "float32"), np.zeros(4, int)
    model.evaluate(x, y, verbose=0)
    stopping = keras.callbacks.EarlyStopping(name)
    stopping.set_model(model)
    stopping._set_monitor_op()
    assert bool(stopping.monitor_op(2.0, 1.0)) == upward


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["int64", "uint16", "int32"])
@pytest.mark.parametrize(
    "inner",
    [crossentropy(), crossentropy(ignore_class=-1), SmoothedSparseCategoricalCrossentropy(0.0)],
)
def test_half_precision_does_not_round_class_numbers(dtype, kind, inner):
    labels = np.array([257, 2051, 2999]).astype(kind)
    logits = np.zeros((3, 2, 3000), "float32")
    logits[np.arange(3), :, labels] = 20.0  # every prefix is right, and sure
    loss = MatryoshkaLoss(inner, dtype=dtype)
    value = loss(labels, logits)
    assert keras.backend.standardize_dtype(value.dtype) == dtype
    assert float(value) < 0.01
    if not isinstance(inner, SmoothedSparseCategoricalCrossentropy):
        return
    alone = SmoothedSparseCategoricalCrossentropy(0.0, dtype=dtype)
    assert float(alone(labels, logits[:, 0])) < 0.01


def test_half_precision_keeps_the_order_of_scores_and_the_columns_of_positives():
    scores, cosines = np.array([257, 256]), np.array([-1.0, 1.0], "float32")
    ranked = CoSENT(temperature=1.0, dtype="bfloat16")
    np.testing.assert_allclose(float(ranked(scores, cosines)), np.log1p(np.exp(2)) / 2, 0.01)
    logits = np.where(np.arange(600) == np.array([[257], [513]]), 30.0, 0.0).astype("float32")
    pairs = SymmetricContrastive("labels", dtype="bfloat16")
    assert float(pairs(np.array([257, 513]), logits)) < 0.5


@pytest.mark.parametrize("efficient", [False, True])
def test_the_head_passes_masks_policies_and_regularizers_on(efficient):
    options = {"kernel_regularizer": "l2", "activity_regularizer": "l1", "dtype": "mixed_bfloat16"}
    head = MatryoshkaDense(CLASSES, [4], efficient=efficient, **options)
    plain = keras.layers.Dense(CLASSES, **options)
    x = tensor(np.ones((ROWS, STEPS, 4), "float32"), MASK)
    nested, single = head(x), plain(x)
    plain.set_weights(head.get_weights())
    plain.losses.clear()
    head(x), plain(x)
    for name in ("dtype", "compute_dtype", "variable_dtype", "trainable", "supports_masking"):
        assert getattr(head, name) == getattr(plain, name)
    assert (get_keras_mask(nested) is None) == (get_keras_mask(single) is None)
    assert len(head.trainable_variables) == len(plain.trainable_variables)
    assert len(head.losses) == len(plain.losses)
    head.trainable = False
    assert not head.trainable_variables


def test_masked_lm_crossentropy_with_a_mask():
    scores = RNG.random((ROWS, STEPS, 2, 2)).astype("float32")
    value = MatryoshkaLoss(MaskedLMCrossentropy())(LABELS, tensor(scores, MASK))
    np.testing.assert_allclose(as_numpy(value), scores[MASK][..., 0].sum(-1).mean(), 1e-5)
