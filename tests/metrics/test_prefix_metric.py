import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaDense, MatryoshkaLoss, PrefixMetric, per_prefix
from mrl_keras.metrics.prefix_metric import MeanLoss
from tests.support.contracts import check_config_round_trip, run_metric_contract

RNG = np.random.default_rng(0)
DIMS = [2, 4, 8]
LABELS = RNG.integers(0, 10, 8)
NESTED = RNG.standard_normal((8, 3, 10)).astype("float32")


def test_contract():
    arguments = {
        "metric": keras.metrics.SparseTopKCategoricalAccuracy(k=3, name="top"),
        "nesting_dims": DIMS,
        "dim": 4,
        "own_targets": True,
        "name": "top_at_four",
        "dtype": "float16",
    }
    check_config_round_trip(PrefixMetric, arguments)
    labels = np.stack([LABELS + 1, LABELS, LABELS + 2], axis=1)  # of the prefix 4 in the middle
    run_metric_contract(PrefixMetric, {**arguments, "dtype": "float32"}, labels, NESTED)


def test_contract_of_the_mean_loss():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    arguments = {"loss": loss, "name": "ce", "dtype": "float16"}
    check_config_round_trip(MeanLoss, arguments)
    run_metric_contract(MeanLoss, {**arguments, "dtype": "float32"}, LABELS, NESTED[:, 0])


def test_each_metric_sees_its_own_prefix():
    # Prefix i ranks the true class in place i, so top-1 is 1, 0, 0 and top-2 is 1, 1, 0.
    nested = np.zeros((8, 3, 10), "float32")
    for place in range(3):
        nested[np.arange(8), place, LABELS] = 1.0
        for better in range(place):
            nested[np.arange(8), place, (LABELS + 1 + better) % 10] = 2.0
    metrics = per_prefix(["sparse_categorical_accuracy", "top2"], DIMS)
    found = {}
    for metric in metrics:
        metric.update_state(LABELS, nested)
        found[metric.name] = float(metric.result())
    assert found == {
        "sparse_categorical_accuracy_d2": 1.0,
        "sparse_categorical_accuracy_d4": 0.0,
        "sparse_categorical_accuracy_d8": 0.0,
        "top2_d2": 1.0,
        "top2_d4": 1.0,
        "top2_d8": 0.0,
    }


def test_fit_logs_the_metric_and_the_loss_of_every_prefix_by_name():
    inner = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = MatryoshkaLoss(inner)
    model = keras.Sequential([keras.Input((8,)), MatryoshkaDense(10, DIMS)])
    specification = ["sparse_categorical_accuracy", "top5", loss]
    model.compile("sgd", loss=loss, metrics=per_prefix(specification, DIMS))
    x = RNG.standard_normal((16, 8)).astype("float32")
    logs = model.evaluate(x, np.tile(LABELS, 2), verbose=0, return_dict=True)
    for name in ("sparse_categorical_accuracy", "top5", "loss"):
        for dim in DIMS:
            assert f"{name}_d{dim}" in logs
    np.testing.assert_allclose(sum(logs[f"loss_d{dim}"] for dim in DIMS), logs["loss"], rtol=1e-5)
    history = model.fit(x, np.tile(LABELS, 2), verbose=0).history
    assert set(history) == set(logs)


def test_one_specification_makes_independent_metrics():
    template = keras.metrics.SparseCategoricalAccuracy(name="top1")
    first, second, _ = per_prefix(template, DIMS)
    first.update_state(LABELS, NESTED)
    assert float(second.metric.count) == 0.0
    assert float(template.count) == 0.0
    assert [first.name, second.name] == ["top1_d2", "top1_d4"]


def test_a_loss_name_becomes_a_mean():
    (metric,) = per_prefix("mean_squared_error", [3])
    metric.update_state(np.zeros((2, 2)), np.array([[[1.0, 1.0]], [[2.0, 2.0]]]))
    assert metric.name == "mean_squared_error_d3"
    np.testing.assert_allclose(float(metric.result()), 2.5)


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("accuracy", r'guesses the meaning of "accuracy".*"sparse_categorical_accuracy"'),
        ("no_such_metric", "Could not interpret metric identifier: no_such_metric"),
        (3, r"a name, a keras\.metrics\.Metric or a keras\.losses\.Loss\. Received 3 of type int"),
    ],
)
def test_specification_errors(specification, message):
    with pytest.raises(ValueError, match=message):
        per_prefix(specification, DIMS)


def test_metric_errors():
    inner = keras.metrics.SparseCategoricalAccuracy()
    with pytest.raises(ValueError, match=r"one of the trained prefixes \[2, 4, 8\]\. Received 3"):
        PrefixMetric(inner, DIMS, 3)
    with pytest.raises(ValueError, match=r"`metric` must be a keras\.metrics\.Metric"):
        PrefixMetric("accuracy", DIMS, 2)
    metric = PrefixMetric(inner, DIMS, 2)
    with pytest.raises(ValueError, match=r"3 prefixes \[2, 4, 8\] on axis -2.*\(8, 2, 10\)"):
        metric.update_state(LABELS, NESTED[:, :2])
    with pytest.raises(ValueError, match=r"on axis -2\. Received shape \(8, 10\)"):
        metric.update_state(LABELS, NESTED[:, 0])


def test_a_dtype_is_that_of_the_statistics():
    metric = PrefixMetric(keras.metrics.MeanSquaredError(), [2, 4], 4, dtype="float64")
    assert {v.dtype for v in metric.variables} == {"float64"}
