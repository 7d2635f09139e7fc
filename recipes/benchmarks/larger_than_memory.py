"""Building and exporting an index from files that are twice the memory they may take.

    python recipes/benchmarks/larger_than_memory.py --output larger_than_memory.csv

The process's pages of files may take --share of the bytes to read. A thread watches them, and drops
all of them (madvise, posix_fadvise) where they are more, as the system does under pressure: what is
needed again is read from the disk again. Steps:

- build: `NestedIndex.build` from a memory map of the rows, into a folder, with a ScaNN shortlist;
- export: `export_saved_model` of that index, whose blocks are memory maps;
- leaf order: for comparison, all blocks read in ScaNN's leaf order, which is at random.

Columns of the CSV: step, read_ratio (bytes read from the disk, over those of the files to read),
peak_ratio (the process's own pages over those before, as a ratio to the rows), dropped (how often
pages were dropped), seconds, the sizes, and those of the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import pathlib
import sys
import tempfile
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np

from mrl_keras import NestingDims
from mrl_keras.export import export_saved_model
from mrl_keras.retrieval import IndexOptions, NestedIndex, SearchPlan, scann_parameters
from mrl_keras.retrieval.scann.searcher import scann_ops
from recipes.benchmarks.parts.memory import held_bytes, status_bytes
from recipes.benchmarks.parts.nested_data import NestedData
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import write_measurements

_MADV_DONTNEED = 4
_SLICE_ROWS = 4096


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--n", type=int, default=100_000, help="rows")
    add("--width", type=int, default=1024, help="embedding width d")
    add("--share", type=float, default=0.5, help="of the bytes to read, which file pages may take")
    add("--shortlist_dim", type=int, default=32, help="D_s")
    add("--cache", default="runs/retrieval_data", help="folder of the rows and the index")
    tiny = {"n": 3000, "width": 256, "shortlist_dim": 8}
    parser.add_measuring("larger_than_memory.csv", tiny=tiny)
    options = parser.parse_args(arguments)
    options.command = without_folders(options.command)
    return options


class Pressure(threading.Thread):
    """Keeps the pages of the .npy files in `folder` below `limit` bytes by dropping all of them."""

    def __init__(self, folder, limit):
        super().__init__(daemon=True)
        self._folder, self._limit, self._ended = folder, limit, threading.Event()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._before = status_bytes("RssFile")
        self.dropped, self.peak = 0, 0

    def run(self):
        while not self._ended.wait(0.001):
            self.peak = max(self.peak, status_bytes("RssAnon"))
            if status_bytes("RssFile") - self._before > self._limit:
                self.drop()

    def drop(self):
        """Unmaps the pages from the process, then from the system's cache."""
        with open("/proc/self/maps") as file:
            maps = [line.split() for line in file if line.rstrip().endswith(".npy")]
        for place, *_ in maps:
            start, stop = (int(edge, 16) for edge in place.split("-"))
            self._libc.madvise(start, stop - start, _MADV_DONTNEED)
        for path in glob.glob(f"{self._folder}/**/*.npy", recursive=True, include_hidden=True):
            # A file of the build may be renamed meanwhile.
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.dropped += 1

    def end(self):
        self._ended.set()
        self.join()


def read_bytes():
    """Bytes that this process has had read from the disk."""
    with open("/proc/self/io") as file:
        return int(next(line for line in file if line.startswith("read_bytes")).split()[1])


def measure(step, folder, sizes, call):
    """A row of the CSV, and what `call()` gives.

    Args:
        step: its name.
        folder: where the files to read are.
        sizes: (bytes of the files that it must read, bytes of the rows, share).
        call: function without arguments.
    """
    to_read, rows_bytes, share = sizes
    os.sync()  # pages that were written but are not on the disk yet cannot be dropped
    before, pressure = held_bytes(), Pressure(folder, share * to_read)
    pressure.drop()
    pressure.start()
    started, read = time.perf_counter(), read_bytes()
    try:
        found = call()
    finally:
        pressure.end()
    row = {
        "step": step,
        "read_ratio": (read_bytes() - read) / to_read,
        "peak_ratio": (pressure.peak - before) / rows_bytes,
        "dropped": pressure.dropped - 1,
        "seconds": time.perf_counter() - started,
    }
    print(
        f"{step:12} reads {row['read_ratio']:.2f} times the files, {row['peak_ratio']:.2f} of the "
        f"rows in memory, {row['dropped']} drops, {row['seconds']:.1f} s",
        flush=True,
    )
    return row, found


def read_in_order(index, order):
    """Reads all blocks in slices of `order`."""
    for start in range(0, len(order), _SLICE_ROWS):
        for block in index.blocks:
            np.take(block, order[start : start + _SLICE_ROWS], axis=0)


def measure_steps(n, options):
    """The rows of the CSV."""
    dims, d_s = NestingDims.halving(options.width, 8), options.shortlist_dim
    settings = IndexOptions("cosine", "bfloat16", d_s, scann_parameters(n, d_s))
    with tempfile.TemporaryDirectory(prefix="larger_", dir=options.cache) as folder:
        rows, _ = NestedData(options.width, classes=1000).rows(n, folder)
        sizes, path = (rows.nbytes, options.share), os.path.join(folder, "index")
        built, index = measure(
            "build", folder, (rows.nbytes, *sizes),
            lambda: NestedIndex.build(rows, dims, options=settings, folder=path),
        )  # fmt: skip
        plan = SearchPlan((d_s, options.width), (min(200, n),))
        encoder = keras.Sequential([keras.Input((options.width,)), keras.layers.Identity()])
        target = os.path.join(folder, "export")
        stored = sum(block.nbytes for block in index.blocks)
        exported, _ = measure(
            "export", folder, (stored, *sizes),
            lambda: export_saved_model(target, encoder, index=index, plan=plan),
        )  # fmt: skip
        order = index.shortlist.partition().order
        leaves, _ = measure(
            "leaf order", folder, (stored, *sizes), lambda: read_in_order(index, order)
        )
    return built, exported, leaves


def main(arguments=None):
    options = parse_arguments(arguments)
    os.makedirs(options.cache, exist_ok=True)
    scann_ops()
    print("A few rows first, for what the libraries take on their first call:")
    measure_steps(1000, options)
    print(f"{options.n:,} rows:")
    about = {key: getattr(options, key) for key in ("n", "width", "share", "command")}
    rows = measure_steps(options.n, options)
    write_measurements(options.output, [{**row, **about} for row in rows])


if __name__ == "__main__":
    main()
