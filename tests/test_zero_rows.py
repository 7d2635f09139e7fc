"""Losses and metrics take a batch without rows, as a last replica or a filter may leave it."""

import keras
import numpy as np
import pytest

from mrl_keras import (
    CoSENT,
    InBatchAccuracy,
    MaskedLMAccuracy,
    MaskedLMCrossentropy,
    MatryoshkaLoss,
    RecallAtK,
    SmoothedSparseCategoricalCrossentropy,
    SymmetricContrastive,
    per_prefix,
)
from tests.support.contracts import as_numpy

CLASSES = np.zeros((0, 4), "float32")
PAIRS = np.zeros((0, 0), "float32")
LOSSES = {
    "sparse": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), CLASSES),
    "ignore": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
        CLASSES,
    ),
    "smoothed": (SmoothedSparseCategoricalCrossentropy(), CLASSES),
    "cosent": (CoSENT(), np.zeros((0, 1), "float32")),
    "masked": (MaskedLMCrossentropy(), np.zeros((0, 2), "float32")),
    "diagonal": (SymmetricContrastive(), PAIRS),
    "further": (SymmetricContrastive(), CLASSES),
    "gathered": (SymmetricContrastive("gathered"), PAIRS),
    "labels": (SymmetricContrastive("labels"), CLASSES),
    "recall": (RecallAtK(1), PAIRS),
    "recall of labels": (RecallAtK(1, "labels"), CLASSES),
    "recall of classes": (RecallAtK(1, "classes"), PAIRS),
}
REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight", None]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, np.zeros(0, "float32")])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_no_rows_is_zero(name, reduction, weights):
    inner, outputs = LOSSES[name]
    labels = np.zeros(0, int)
    nested = np.stack([outputs, outputs], axis=-2)
    loss = MatryoshkaLoss(inner, reduction=reduction)
    wanted = np.zeros(0) if reduction is None else 0.0
    np.testing.assert_array_equal(as_numpy(loss(labels, nested, weights)), wanted)
    if type(inner).__module__.startswith("mrl_keras"):
        alone = type(inner).from_config({**inner.get_config(), "reduction": reduction})
        np.testing.assert_array_equal(as_numpy(alone(labels, outputs, weights)), wanted)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="rows known at run time")
@pytest.mark.parametrize("name", LOSSES)
def test_no_rows_that_only_the_run_knows(name):
    import tensorflow as tf

    inner, outputs = LOSSES[name]
    loss = MatryoshkaLoss(inner)
    last = None if outputs.shape[1] == 0 else outputs.shape[1]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, 2, last], tf.float32),
        ]
    )
    def step(labels, nested):
        with tf.GradientTape() as tape:
            tape.watch(nested)
            value = loss(labels, nested)
        return value, tape.gradient(value, nested)

    value, gradient = step(np.zeros(0, int), np.stack([outputs, outputs], axis=-2))
    assert float(value) == 0.0
    assert gradient.shape[0] == 0


@pytest.mark.parametrize("weights", [None, np.zeros(0, "float32")])
@pytest.mark.parametrize(
    ("specification", "outputs"),
    [
        ("sparse_categorical_accuracy", CLASSES),
        (LOSSES["ignore"][0], CLASSES),
        (MatryoshkaLoss(LOSSES["smoothed"][0]), CLASSES),
        (MaskedLMAccuracy(), np.zeros((0, 2), "float32")),
        (InBatchAccuracy(), PAIRS),
        (InBatchAccuracy(), CLASSES),
    ],
)
def test_a_metric_of_no_rows_stays_as_it_was(specification, outputs, weights):
    for metric in per_prefix(specification, [2, 4]):
        nested = np.stack([outputs, outputs], axis=-2)
        metric.update_state(np.zeros(0, int), nested, sample_weight=weights)
        assert float(metric.result()) == 0.0
        assert all(float(variable) == 0.0 for variable in metric.variables)
