"""Layers, losses and metrics keep their contracts on Keras's other backends.

One process for each backend. Install the backends with `pip install -e ".[backends]"`, then run
`pytest -m backends`.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

FOLDERS = ["tests/layers", "tests/losses", "tests/metrics"]

pytestmark = [pytest.mark.backends, pytest.mark.parametrize("backend", ["jax", "torch"])]


def run(backend, *arguments):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f'{backend} is not installed: pip install -e ".[backends]"')
    process = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]
    return process.stdout


def test_contracts(backend):
    # Every tier in this process. The backends' own warnings are theirs.
    options = ["-m", "", "-n", "0", "--time-limit", "0", "-W", "default"]
    output = run(backend, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *FOLDERS)
    assert " passed" in output


def test_tensors_that_carry_gradients_are_evaluated_and_indexed(backend):
    code = """if True:
        import keras, numpy as np
        from mrl_keras.evaluation import EvaluationPass, NearestNeighboursEvaluator, evaluate
        from mrl_keras.retrieval import NestedIndex, SearchPlan
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "tanh")])
        rows, labels = np.eye(4, dtype="float32"), np.arange(4)
        index = NestedIndex.build(model(rows), [2, 4])
        print(index.search(model(rows), SearchPlan((4,), k=1)).indices[:, 0].tolist())
        batches = [(rows, keras.ops.convert_to_tensor(labels))]
        source = EvaluationPass.of_embeddings(model, batches, [2, 4], train=batches)
        print(dict(evaluate(source, [NearestNeighboursEvaluator()]))["top1/1nn/4"])
    """
    assert run(backend, "-W", "ignore", "-c", code).split("\n")[:2] == ["[0, 1, 2, 3]", "1.0"]


def test_importing_the_package_does_not_import_tensorflow(backend):
    code = (
        "import sys, keras, mrl_keras; print(keras.backend.backend(), 'tensorflow' in sys.modules)"
    )
    assert run(backend, "-W", "ignore", "-c", code).split() == [backend, "False"]
