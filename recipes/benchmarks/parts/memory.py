"""The peak memory of a step, measured in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Mapping


def peak_in_own_process(script: str, options: Mapping[str, object]) -> int:
    """Runs a benchmark that calls `print_peak_over`, and gives the bytes that it prints.

    Args:
        script: the benchmark's `__file__`.
        options: {option: value} of its command line, which choose the system and its sizes.
    """
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, os.path.abspath(script), *flags]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak_over(step: Callable[[], object], repeats: int = 3) -> None:
    """Prints the process's peak resident bytes after some steps, over those before the first.

    Building or compiling the step is included; loading XLA is not.
    """
    import tensorflow as tf  # not above: other benchmarks measure processes without it

    tf.function(lambda: tf.zeros([2, 2]) @ tf.zeros([2, 2]), jit_compile=True)()
    before = status_bytes("VmRSS")
    for _ in range(repeats):
        step()
    print(status_bytes("VmHWM") - before)


def status_bytes(name: str) -> int:
    """A size of /proc/self/status: "VmRSS" or its peak "VmHWM"."""
    return _bytes_in("/proc/self/status", name)


def available_bytes() -> int:
    """The memory that the machine can still give, after what is free here was given back."""
    _give_back()
    return _bytes_in("/proc/meminfo", "MemAvailable")


def held_bytes() -> int:
    """The process's resident bytes without mapped files, after what is free was given back."""
    _give_back()
    return status_bytes("RssAnon")


def _give_back():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _bytes_in(path, name):
    with open(path) as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
