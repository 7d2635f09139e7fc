"""Training under 2 replicas equals training under 1."""

import subprocess
import sys

import numpy as np


def test_two_replicas_equal_one(tmp_path):
    found = {}
    for replicas in (1, 2):
        path = tmp_path / f"{replicas}.npz"
        command = [sys.executable, "-m", "tests.support.two_replicas", str(replicas), str(path)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr[-3000:]
        with np.load(path, allow_pickle=False) as saved:
            found[replicas] = dict(saved)
    assert found[1].keys() == found[2].keys()
    assert {"True/loss", "True/loss_d8", "False/kernel_8", "True/kernel"} <= found[1].keys()
    for name, value in found[1].items():
        np.testing.assert_allclose(found[2][name], value, rtol=2e-5, atol=2e-6, err_msg=name)
