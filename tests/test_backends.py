"""Layers, losses and metrics keep their contracts on Keras's other backends.

One process for each backend. Install the backends with `pip install -e ".[backends]"` and run
these alone with `pytest -m backends`.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

FOLDERS = ["tests/layers", "tests/losses", "tests/metrics"]


@pytest.mark.backends
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_contracts_on(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f'{backend} is not installed: pip install -e ".[backends]"')
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *FOLDERS],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]
    assert " passed" in process.stdout
