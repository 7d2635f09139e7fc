"""The gathered batch has the gradients of one replica that holds all of it."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.distribution import gather


def test_one_replica_gathers_its_own_rows():
    rows = tf.ones((2, 3))
    np.testing.assert_array_equal(gather(rows), rows)


@pytest.mark.slow
def test_two_replicas_have_the_gradients_of_one(tmp_path):
    path = tmp_path / "gradients.npz"
    command = [sys.executable, "-m", "tests.support.gathered_gradients", path]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    with np.load(path) as found:
        assert np.abs(found["1"]).max() > 0.01
        np.testing.assert_allclose(found["2"], found["1"], rtol=1e-5, atol=1e-6)
