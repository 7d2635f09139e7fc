"""Models train on every Keras backend: `pytest -m backends` runs this file on JAX and torch."""

import keras
import numpy as np
import pytest

from mrl_keras.cascade import AdaptiveClassifier, learn_thresholds
from mrl_keras.evaluation import LinearHeadEvaluator, Outputs, evaluate
from tests.support import small_trainings as small


def history_of(model, *data, epochs):
    found = model.fit(*data, epochs=epochs, batch_size=32, verbose=0).history
    assert np.isfinite(found["loss"]).all()
    assert found["loss"][-1] < 0.85 * found["loss"][0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("efficient", [False, True], ids=["MRL", "MRL-E"])
def test_a_classifier_and_its_cascade(efficient):
    keras.utils.set_random_seed(0)
    model, (x, labels) = small.classifier(efficient), small.labelled()
    found = history_of(model, x, labels, epochs=12)
    for dim in small.DIMS:
        assert found[f"sparse_categorical_accuracy_d{dim}"][-1] > 0.8

    logits = model.predict(x, verbose=0)
    outputs = Outputs(small.DIMS, {"logits": logits, "labels": labels})
    accuracies = dict(evaluate(outputs, [LinearHeadEvaluator()]))
    assert min(accuracies.values()) > 0.8
    policy = learn_thresholds(logits, labels, small.DIMS)
    head = model.get_layer("head")
    cascade = keras.Model(model.input, AdaptiveClassifier(head, policy)(head.input))
    answer = cascade.predict(x, verbose=0)
    expected = policy.decide(logits)
    np.testing.assert_array_equal(answer["class"], expected.classes)
    np.testing.assert_array_equal(answer["dim"], expected.dims)


@pytest.mark.slow
def test_a_contrastive_model_of_pairs():
    keras.utils.set_random_seed(0)
    model, x = small.pair_model(), small.pairs()
    found = history_of(model, x, np.zeros(64), epochs=15)
    assert found["in_batch_top1_d8"][-1] > 0.8
    assert found["in_batch_top1_d2"][-1] > 4 / 32  # chance is 1 / 32


@pytest.mark.slow
def test_a_masked_language_model():
    keras.utils.set_random_seed(0)
    model, (x, y, weights) = small.masked_model(), small.masked_tokens()
    found = history_of(model, x, y, epochs=25)
    assert found["masked_lm_accuracy_d8"][-1] > 0.6  # chance is 1 / 19
    again = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    assert again["masked_lm_accuracy_d8"] > 0.6
