"""What the benchmarks share: times measured side by side, and CSV files that say where.

`write_csv` adds these columns to each row:

    date        day of the measurement, UTC
    cpu         model name of the processor
    cores       processor cores that the process may use
    accelerator names of TensorFlow's GPUs or TPUs, empty without one
    python, mrl_keras, keras, tensorflow, numpy
                versions, empty where a package is not installed
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gc
import importlib.metadata
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Hashable

import numpy as np

from mrl_keras.files import atomic_file

PACKAGES = ("mrl_keras", "keras", "tensorflow", "numpy")


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

    In turns, after one call that warms up. Processor time is what other programs on the same
    cores disturb least.

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


def recorded_command(script: str, given: list[str]) -> str:
    """The command line of a benchmark, without `--cache` and `--output`: folders of one machine."""
    folders = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    folders.add_argument("--cache"), folders.add_argument("--output")
    return shlex.join(
        ["python", f"recipes/benchmarks/{script}", *folders.parse_known_args(given)[1]]
    )


def write_csv(path, rows: list[dict]) -> None:
    """Write `rows`, each with columns for date, hardware and versions; the file is whole or absent.

    Args:
        path: the CSV file to write; its folder is made.
        rows: dicts with the same keys, which become the columns.
    """
    rows = [{**row, **surroundings()} for row in rows]
    with atomic_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def surroundings() -> dict[str, object]:
    """Date, hardware and versions, as the columns of the module's docstring."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "accelerator": _accelerators(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _seconds_of(call):
    started = time.perf_counter()
    call()
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.test.experimental.sync_devices()
    return time.perf_counter() - started


def _cpu_name():
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1] for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor()


def _accelerators():
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return ""
    devices = [
        device
        for kind in ("GPU", "TPU")
        for device in tensorflow.config.list_physical_devices(kind)
    ]
    details = map(tensorflow.config.experimental.get_device_details, devices)
    return "; ".join(one.get("device_name", "unnamed") for one in details)


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
