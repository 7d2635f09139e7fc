"""Memory of an export, of a loaded model and of an exact search, each in its own process.

`in_own_process(function, ...)` runs a function of this file in a fresh Python process and gives
what it returned. Bytes are resident bytes over those that the process held after its imports,
TensorFlow and ScaNN among them.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import pathlib
import subprocess
import sys
import time

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[3])

import numpy as np

from recipes.benchmarks.parts.memory import status_bytes


def in_own_process(function, **arguments):
    """What `function(**arguments)` returns in a fresh process; both must be JSON."""
    command = [sys.executable, os.path.abspath(__file__), function.__name__, json.dumps(arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RuntimeError(f"{function.__name__} failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def tree_bytes(path):
    """Bytes of all files in a folder."""
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    )


def row_chunks(path, chunk_rows=16_384):
    """The rows of a .npy file, a chunk at a time.

    Each chunk opens the file anew: what stays mapped would count as resident, although the
    system takes such pages back when it needs them.
    """
    count = len(np.load(path, mmap_mode="r"))
    for start in range(0, count, chunk_rows):
        yield np.array(np.load(path, mmap_mode="r")[start : start + chunk_rows])


def scann_for(n_rows, d_s, reorder_dim):
    """The rule's `ScannParameters`, with a `reorder_dim` where it is not 0."""
    from mrl_keras.retrieval import scann_parameters

    return dataclasses.replace(scann_parameters(n_rows, d_s), reorder_dim=reorder_dim or None)


def export(rows_path, dims, plan, storage, folder, reorder_dim):
    """Builds the index from the file of rows and exports it: the path, peak bytes, seconds."""
    import keras

    from mrl_keras.export import export_saved_model
    from mrl_keras.retrieval import IndexOptions, NestedIndex, SearchPlan
    from mrl_keras.retrieval.scann.searcher import scann_ops

    scann_ops()
    plan, rows = SearchPlan(**plan), row_chunks(rows_path)
    encoder = keras.Sequential([keras.Input((dims[-1],)), keras.layers.Identity()])
    before, started = status_bytes("VmRSS"), time.perf_counter()
    d_s, count = plan.shortlist_dim, len(np.load(rows_path, mmap_mode="r"))
    scann = scann_for(count, d_s, reorder_dim)
    options = IndexOptions(storage=storage, shortlist_dim=d_s, scann=scann)
    index = NestedIndex.build(rows, dims, options=options)
    built = time.perf_counter() - started
    path = export_saved_model(folder, encoder, index=index, plan=plan)
    return {
        "path": path,
        "peak": status_bytes("VmHWM") - before,
        "build_seconds": built,
        "seconds": time.perf_counter() - started,
        "disk": tree_bytes(path),
    }


def loaded(path, queries_path):
    """Loads an export and asks it; its resident bytes before and after the first batch."""
    import tensorflow as tf

    from mrl_keras.export import load
    from mrl_keras.retrieval.scann.searcher import scann_ops

    scann_ops()
    queries = tf.constant(np.load(queries_path))
    before = status_bytes("VmRSS")
    model = load(path)
    gc.collect()
    after_load = status_bytes("VmRSS") - before
    model.signatures["retrieve_embeddings"](embedding=queries)
    return {"loaded": after_load, "asked": status_bytes("VmRSS") - before}


def exact(rows_path, n_rows, queries_path, dims, k, budget):
    """One-pass exact search of rows in memory: its peak beside inputs and answer."""
    from mrl_keras.retrieval import exact_search

    rows = np.array(np.load(rows_path, mmap_mode="r")[:n_rows])
    queries = np.load(queries_path)
    exact_search(queries[:8], rows[:512], dims, k)  # the libraries' own start-up
    gc.collect()
    before = status_bytes("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    found = exact_search(queries, rows, dims, k, memory_budget=budget)
    answer = found.scores.nbytes + found.indices.nbytes
    return {"peak": status_bytes("VmHWM") - before - answer, "budget": budget}


if __name__ == "__main__":
    functions = {function.__name__: function for function in (export, loaded, exact)}
    print(json.dumps(functions[sys.argv[1]](**json.loads(sys.argv[2]))))
