"""A cascade runs under LiteRT with its own ops alone, and answers the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mrl_keras
from mrl_keras.cascade import AdaptiveClassifier, CascadePolicy
from mrl_keras.cascade.adaptive_classifier import _as_float32


def test_a_threshold_in_float32_decides_as_the_float64_one():
    values = np.random.default_rng(0).random(500).tolist()
    for threshold in [*values, 0.0, 0.5, 1.0, 0.1, float(np.nextafter(0.5, 0))]:
        rounded = _as_float32(threshold)
        assert float(rounded) <= threshold < float(np.nextafter(rounded, np.float32(2)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the converter's and the interpreter's own
@pytest.mark.parametrize("efficient", [False, True])
def test_the_same_answers_under_litert(efficient, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    embedding = keras.layers.Dense(8)(inputs)
    head = mrl_keras.MatryoshkaDense(5, [2, 4, 8], efficient=efficient)
    head.build((None, 8))
    policy = CascadePolicy([2, 4, 8], [0.3, 0.35])
    model = keras.Model(inputs, AdaptiveClassifier(head, policy)(embedding))
    model.export(tmp_path / "model", verbose=0)
    # Without TF Select's ops: the conversion fails where one is needed.
    converted = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "model")).convert()
    answer = tf.lite.Interpreter(model_content=converted).get_signature_runner()
    x = np.random.default_rng(0).standard_normal((40, 8)).astype("float32")
    found = answer(**{next(iter(answer.get_input_details())): x})
    expected = model(x)
    assert len(np.unique(expected["dim"])) == 3
    np.testing.assert_array_equal(found["class"], expected["class"])
    np.testing.assert_array_equal(found["dim"], expected["dim"])
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-5)
