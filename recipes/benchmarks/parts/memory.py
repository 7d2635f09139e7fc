"""What the benchmarks share: the peak memory of a step, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence


def peak_in_own_process(script: str, flags: Sequence[str]) -> int:
    """Bytes that `script` prints when run with `flags`, which lead it to `print_peak_over`.

    Args:
        script: the benchmark's `__file__`.
        flags: command-line flags that choose the system and its sizes.
    """
    command = [sys.executable, os.path.abspath(script), *flags]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak_over(step: Callable[[], object], repeats: int = 3) -> None:
    """Print the process's peak resident bytes after some steps, over those before the first.

    Building or compiling the step is included; XLA itself is loaded before.
    """
    import tensorflow as tf  # not above: other benchmarks measure processes without it

    tf.function(lambda: tf.zeros([2, 2]) @ tf.zeros([2, 2]), jit_compile=True)()
    before = status_bytes("VmRSS")
    for _ in range(repeats):
        step()
    print(status_bytes("VmHWM") - before)


def status_bytes(name: str) -> int:
    """A size of /proc/self/status: "VmRSS" or its peak "VmHWM"."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
