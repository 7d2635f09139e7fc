"""Times of systems measured side by side in one process."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Hashable

import numpy as np


def interleaved_medians(
    systems: dict[Hashable, Callable[[], object]], repeats: int, warm_up: int = 3
) -> dict:
    """Median seconds of one call of every system, measured in turns in this process.

    In every round each system runs once, and each round starts with another one, so that
    a change of clock rate or load meets all of them alike. The first calls, which compile,
    allocate and warm up, are not measured.

    Args:
        systems: from names to functions without arguments.
        repeats: rounds, an int of at least 1.
        warm_up: calls of each system before them, an int. Default 3.

    Returns:
        A dict from the names to seconds.
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1. Received {repeats}.")
    for call in systems.values():
        for _ in range(warm_up):
            call()
    order, seconds = list(systems), {name: [] for name in systems}
    gc.collect()
    gc.disable()
    try:
        for turn in range(repeats):
            start = turn % len(order)
            for name in order[start:] + order[:start]:
                seconds[name].append(_seconds_of(systems[name]))
    finally:
        gc.enable()
    return {name: float(np.median(times)) for name, times in seconds.items()}


def wall_and_processor(systems: dict[Hashable, Callable[[], object]], repeats: int) -> dict:
    """Median seconds of one call of every system, by the clock and of all threads' processor time.

    In turns, after one call that warms up. Other programs on the same cores disturb processor
    time least.

    Args:
        systems: from names to functions without arguments.
        repeats: rounds, an int of at least 1.

    Returns:
        A dict from the names to arrays (wall seconds, processor seconds).
    """
    spent = {name: [] for name in systems}
    for turn in range(repeats + 1):
        for name, call in systems.items():
            cpu = time.process_time()
            wall = _seconds_of(call)
            if turn:
                spent[name].append((wall, time.process_time() - cpu))
    return {name: np.median(times, axis=0) for name, times in spent.items()}


def _seconds_of(call):
    started = time.perf_counter()
    call()
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.test.experimental.sync_devices()
    return time.perf_counter() - started
