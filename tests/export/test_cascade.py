"""The cascade as the signature `classify_adaptive`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrl_keras import MatryoshkaDense
from mrl_keras.cascade import AdaptiveClassifier, CascadePolicy
from mrl_keras.export import load, load_manifest
from tests.export import cases

POLICY = CascadePolicy([4, 8, 16], thresholds=[0.5, 0.6], temperatures=[0.5, 1.0, 2.0])


def assert_answers(case, found):
    expected = case.policy.decide(case.logits)
    np.testing.assert_array_equal(found["class"], expected.classes)
    np.testing.assert_array_equal(found["dim"], expected.dims)
    np.testing.assert_allclose(found["probability"], expected.probabilities, rtol=1e-5)
    assert len(np.unique(found["dim"])) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MRL", "MRL-E"])
def test_a_fresh_process_answers_as_the_policy_does(cascades, fresh, name):
    assert_answers(cascades[name], fresh["cascades"][name])


@pytest.mark.parametrize("name", ["MRL", "MRL-E"])
def test_a_loaded_model_answers_as_the_policy_does(cascades, name):
    case = cascades[name]
    signature = load(case.path).signatures["classify_adaptive"]
    assert_answers(case, signature(raw=tf.constant(case.raw)))
    manifest = load_manifest(case.path)
    assert CascadePolicy.from_dict(manifest["cascade"]) == case.policy
    assert {"classify", "classify_adaptive"} <= set(manifest["warmed_signatures"])


def test_without_a_cascade_the_manifest_says_so(exported, model):
    assert load_manifest(exported.path)["cascade"] is None
    assert "classify_adaptive" not in model.signatures


@pytest.mark.parametrize(
    ("policy", "options", "text"),
    [
        (POLICY, {"heads": {"classify_adaptive": keras.layers.Dense(3)}}, "no other signature has"),
        (POLICY, {"nesting_dims": [8, 16]}, r"must give nested logits \(batch, 2, classes\)"),
    ],
)
def test_refusals(policy, options, text, tiny):
    encoder, head = cases.cascade_parts(False)
    with pytest.raises(ValueError, match=text):
        tiny(
            **{"encoder": encoder, "nesting_dims": None, **options},
            classifier=AdaptiveClassifier(head, policy),
        )
    assert not tiny.folder.exists()


@pytest.mark.parametrize(
    ("classifier", "policy", "text"),
    [
        (None, POLICY, "`classifier` must be a MatryoshkaDense. Received None"),
        (keras.layers.Dense(3), POLICY, "`classifier` must be a MatryoshkaDense"),
        (MatryoshkaDense(5, [4, 8, 16]), CascadePolicy([4, 6], [0.5]), "dims must be prefixes of"),
    ],
)
def test_an_unfit_classifier_is_refused_before_the_export(classifier, policy, text):
    with pytest.raises(ValueError, match=text):
        AdaptiveClassifier(classifier, policy)
