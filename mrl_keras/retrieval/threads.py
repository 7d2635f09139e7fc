"""How many threads a search uses, and how many each of its matrix products uses."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from functools import lru_cache


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def _blas_controller():
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


def may_share_blas() -> bool:
    """Whether products may run on several of our threads at once.

    Two threads that each call a BLAS with a thread for every core wait for each other in busy
    loops. threadpoolctl (which scikit-learn brings along) can give each call fewer threads;
    without it a search keeps to one thread and leaves the cores to the BLAS.
    """
    return _blas_controller() is not None


@contextmanager
def blas_threads(each: int):
    """Gives every matrix product `each` threads while it lasts, where threadpoolctl is there."""
    controller = _blas_controller()
    limit = nullcontext() if controller is None else controller.limit(limits=each, user_api="blas")
    with limit:
        yield
