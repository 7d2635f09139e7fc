"""The gathered batch has the gradients of one replica that holds all of it."""

import subprocess
import sys

import numpy as np


def test_two_replicas_have_the_gradients_of_one(tmp_path):
    found = []
    for replicas in (1, 2):
        path = tmp_path / f"{replicas}.npy"
        command = [sys.executable, "-m", "tests.support.gathered_gradients", str(replicas), path]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr[-3000:]
        found.append(np.load(path))
    assert np.abs(found[0]).max() > 0.01
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)
