"""Times of systems measured side by side in one process."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Hashable

import numpy as np


def interleaved_times(
    systems: dict[Hashable, Callable[[], object]], repeats: int, warm_up: int = 3
) -> dict:
    """Seconds of every call of every system, measured in turns in this process.

    In every round each system runs once, and each round starts with another one, so that
    a change of clock rate or load meets all of them alike. The first calls, which compile,
    allocate and warm up, are not measured.

    Args:
        systems: from names to functions without arguments.
        repeats: rounds, an int of at least 1.
        warm_up: calls of each system before them, an int. Default 3.

    Returns:
        A dict from the names to float64 (repeats, 2): seconds by the clock, and of all threads'
        processor time, which other programs on the same cores disturb least.
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
    return {name: np.array(times) for name, times in seconds.items()}


def interleaved_medians(
    systems: dict[Hashable, Callable[[], object]], repeats: int, warm_up: int = 3
) -> dict:
    """Median seconds of one call by the clock: {name: float}, see `interleaved_times`."""
    times = interleaved_times(systems, repeats, warm_up)
    return {name: float(np.median(seconds[:, 0])) for name, seconds in times.items()}


def wall_and_processor(systems: dict[Hashable, Callable[[], object]], repeats: int) -> dict:
    """Medians after one call that warms up: {name: (wall, processor seconds)}."""
    times = interleaved_times(systems, repeats, warm_up=1)
    return {name: np.median(seconds, axis=0) for name, seconds in times.items()}


def _seconds_of(call):
    processor, started = time.process_time(), time.perf_counter()
    call()
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.test.experimental.sync_devices()
    return time.perf_counter() - started, time.process_time() - processor
