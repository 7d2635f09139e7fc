"""Training under 2 replicas equals training under 1."""

import numpy as np
import pytest

from mrl_keras.replicas import gather_rows, replica_position
from tests.support.replica_runs import run_replicas


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path):
    found = run_replicas("two_replicas", tmp_path / "found.npz")
    assert {"True/loss", "True/loss_d8", "False/kernel_8", "True/kernel"} <= found.keys()
    for name, (one, two) in found.items():
        np.testing.assert_allclose(two, one, rtol=2e-5, atol=2e-6, err_msg=name)


def test_outside_of_a_strategy_there_is_one_replica():
    assert replica_position() == (0, 1)
    rows = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(gather_rows(rows), rows)
