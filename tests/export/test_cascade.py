"""The cascade as the signature `classify_adaptive`."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from mrl_keras import MatryoshkaDense
from mrl_keras.cascade import CascadePolicy
from mrl_keras.export import export_saved_model, load, load_manifest

DIMS = [4, 8, 16]
POLICY = CascadePolicy(DIMS, thresholds=[0.5, 0.6], temperatures=[0.5, 1.0, 2.0])
FRESH = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
found = model.signatures["classify_adaptive"](raw=tf.constant(np.load(sys.argv[2])))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
"""


def model(efficient):
    keras.utils.set_random_seed(3)
    encoder = keras.Sequential([keras.Input((6,), name="raw"), keras.layers.Dense(16)])
    head = MatryoshkaDense(5, DIMS, efficient=efficient)
    head.build((None, 16))
    for kernel in head.kernels:
        kernel.assign(keras.random.normal(kernel.shape, seed=1))
    return encoder, head


def halving(logits):
    """The policy that half of the examples pass at each prefix."""
    temperatures = [0.5, 1.0, 2.0]
    scaled = logits / np.reshape(temperatures, (3, 1))
    confidence = np.exp(scaled - np.logaddexp.reduce(scaled, -1, keepdims=True)).max(-1)
    return CascadePolicy(DIMS, np.median(confidence[:, :2], axis=0), temperatures)


@pytest.mark.parametrize("efficient", [False, True])
def test_a_fresh_process_answers_as_the_policy_does(efficient, tmp_path):
    encoder, head = model(efficient)
    raw = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    policy = halving(np.asarray(head(encoder(raw))))
    path = export_saved_model(
        str(tmp_path / "model"), encoder=encoder, nesting_dims=DIMS, classifier=head, cascade=policy
    )
    np.save(tmp_path / "raw.npy", raw)
    files = [path, str(tmp_path / "raw.npy"), str(tmp_path / "found.npz")]
    process = subprocess.run(
        [sys.executable, "-c", FRESH, *files], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-2000:]
    expected = policy.decide(np.asarray(head(encoder(raw))))
    with np.load(files[2]) as found:
        np.testing.assert_array_equal(found["class"], expected.classes)
        np.testing.assert_array_equal(found["dim"], expected.dims)
        np.testing.assert_allclose(found["probability"], expected.probabilities, rtol=1e-5)
        assert len(np.unique(found["dim"])) == 3
    manifest = load_manifest(path)
    assert CascadePolicy.from_dict(manifest["cascade"]) == policy
    assert "classify_adaptive" in manifest["warmed_signatures"]


def test_without_a_cascade_the_manifest_says_so(tmp_path):
    encoder, head = model(False)
    path = export_saved_model(
        str(tmp_path / "model"), encoder=encoder, nesting_dims=DIMS, classifier=head
    )
    assert load_manifest(path)["cascade"] is None
    assert "classify_adaptive" not in load(path).signatures


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"classifier": None}, "`cascade` belongs to a `classifier`. Received none"),
        ({"classifier": keras.layers.Dense(3)}, "`classifier` must be a MatryoshkaDense"),
        ({"cascade": POLICY.to_dict()}, "`cascade` must be a CascadePolicy. Received {'dims'"),
        ({"cascade": CascadePolicy([4, 6], [0.5])}, "dims must be prefixes of the classifier"),
        ({"heads": {"classify_adaptive": keras.layers.Dense(3)}}, "no other signature has"),
    ],
)
def test_refusals(change, text, tmp_path):
    encoder, head = model(False)
    arguments = {"encoder": encoder, "nesting_dims": DIMS, "classifier": head, "cascade": POLICY}
    with pytest.raises(ValueError, match=text):
        export_saved_model(str(tmp_path / "model"), **{**arguments, **change})
    assert not (tmp_path / "model").exists()
