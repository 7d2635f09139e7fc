"""The threads of a search and of each of its matrix products."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
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


def query_workers(n_queries: int, cores: int) -> int:
    """Blocks of queries to work on at a time: one for each core, none of them under 32 queries."""
    return max(1, min(cores, n_queries // 32)) if may_share_blas() else 1


class _SharedLimit:
    """A limit on the threads of BLAS that overlapping searches share.

    The limit belongs to the process. If each search restored the limit that it found, the last
    one to end could restore the limit of another search instead of the original one. So the first
    search sets the limit, and the last one restores it.
    """

    def __init__(self):
        self._lock, self._users, self._limit = threading.Lock(), 0, None

    def enter(self, controller, each):
        with self._lock:
            if not self._users:
                self._limit = controller.limit(limits=each, user_api="blas")
            self._users += 1

    def leave(self):
        with self._lock:
            self._users -= 1
            if not self._users:
                self._limit.restore_original_limits()


_SHARED_LIMIT = _SharedLimit()


@contextmanager
def blas_threads(each: int):
    """Gives every matrix product `each` threads; without threadpoolctl it does nothing."""
    controller = _blas_controller()
    if controller is None:
        yield
        return
    _SHARED_LIMIT.enter(controller, each)
    try:
        yield
    finally:
        _SHARED_LIMIT.leave()
