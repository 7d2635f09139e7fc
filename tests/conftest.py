"""Threads for each worker, the time limit of the default tier, and freed models."""

import os

import pytest

from tests.support.memory import free_models
from tests.support.time_limit import (  # noqa: F401 (pytest finds hooks by their names)
    pytest_addoption,
    pytest_fixture_setup,
    pytest_runtest_call,
)

# TensorFlow and OpenMP read these when they are first imported, and child processes inherit them.
# pytest-xdist runs one worker for each core, so one thread each is enough.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # workers share a GPU where there is one
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_collection_modifyitems(items):
    """The tests of other backends first: each takes minutes, and one worker would end with them."""
    items.sort(key=lambda item: item.get_closest_marker("backends") is None)


@pytest.fixture(scope="module", autouse=True)
def freed_models():
    """Free the models and graphs of a module after its last test, fixtures included."""
    yield
    free_models()
