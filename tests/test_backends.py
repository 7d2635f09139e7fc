"""Layers, losses, metrics, cascades and training on Keras's other backends.

One process for each backend. Install the backends with `pip install -e ".[backends]"`, then run
`pytest -m backends`.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

PATHS = [
    "tests/layers",
    "tests/losses",
    "tests/metrics",
    "tests/cascade/test_dense_cascade.py",
    "tests/models/test_cutting.py",
    "tests/models/test_nested_layers.py",
    "tests/models/test_training.py",
]
# The rooms that need no TensorFlow; `distribution` and `export` are TensorFlow's own.
ROOMS = ["baselines", "cascade", "data", "evaluation", "models", "retrieval"]
PYTEST = ["-m", "", "-n", "0", "--time-limit", "0", "-W", "default", "-q", "-x"]
PYTEST += ["-p", "no:cacheprovider"]

pytestmark = [pytest.mark.backends, pytest.mark.parametrize("backend", ["jax", "torch"])]


def run(backend, *arguments, **environment):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f'{backend} is not installed: pip install -e ".[backends]"')
    process = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]
    return process.stdout


def test_contracts_and_training(backend):
    # Every tier in this process. The backends' own warnings are theirs.
    assert " passed" in run(backend, "-m", "pytest", *PYTEST, *PATHS)


def test_trains_and_evaluates_without_tensorflow(backend):
    code = (
        "import sys; sys.modules.update(tensorflow=None); import pytest;"
        f"sys.exit(pytest.main({[*PYTEST, 'tests/models/test_training.py']!r}))"
    )
    assert " passed" in run(backend, "-c", code)


def test_data_parallel_training_is_that_of_one_device(backend):
    if backend != "jax":
        pytest.skip("keras.distribution.DataParallel is for JAX")
    devices = "--xla_force_host_platform_device_count=2"
    run(backend, "-W", "ignore", "-m", "tests.support.data_parallel", XLA_FLAGS=devices)


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


def test_imports_no_tensorflow(backend):
    code = f"""if True:
        import importlib, sys, keras, mrl_keras
        for room in {ROOMS}:
            importlib.import_module(f"mrl_keras.{{room}}")
            assert "tensorflow" not in sys.modules, room
        print(keras.backend.backend())
    """
    assert run(backend, "-W", "ignore", "-c", code).strip() == backend


def test_what_needs_tensorflow_says_so(backend):
    code = """if True:
        import numpy as np, keras
        from mrl_keras.distribution import make_strategy
        from mrl_keras.evaluation import grad_cam
        from mrl_keras.export import export_saved_model
        from mrl_keras.models import BertTokens, ContrastiveScores, GardenResNet
        from mrl_keras.models.mask_filling import TopPieces
        encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
        for call in (
            lambda: make_strategy(),
            lambda: grad_cam(encoder, np.zeros((1, 2, 2, 1)), "dense", 2),
            lambda: export_saved_model("nowhere", encoder, nesting_dims=[2, 4]),
            lambda: BertTokens([], 4),
            lambda: ContrastiveScores([2, 4]),
            lambda: GardenResNet(10),
            lambda: TopPieces([]),
        ):
            try:
                call()
            except ValueError as error:
                assert "needs Keras on its TensorFlow backend" in str(error), error
                assert "\\n" not in str(error)
            else:
                raise AssertionError("nothing was refused")
    """
    run(backend, "-W", "ignore", "-c", code)
