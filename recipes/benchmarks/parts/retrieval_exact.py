"""One-pass exact search at every prefix beside FAISS IndexFlat, one prefix after another."""

from __future__ import annotations

import faiss
import numpy as np

from mrl_keras.retrieval import exact_search
from recipes.benchmarks.parts import retrieval_memory as memory
from recipes.common.timing import interleaved_medians

K = 100
BUDGET = 1 << 28
REPEATS = 3


def flat_indexes(rows, dims):
    """{dim: IndexFlat of the L2-normalised prefixes}."""
    indexes = {}
    for dim in dims:
        prefixes = np.array(rows[:, :dim], np.float32)
        faiss.normalize_L2(prefixes)
        indexes[dim] = faiss.IndexFlatIP(dim)
        indexes[dim].add(prefixes)
    return indexes


def measure_exact(rows_path, n_rows, queries, dims, queries_path):
    """Columns of exact.csv.

    Args:
        rows_path: .npy file of the database, of which the first `n_rows` rows are searched.
        n_rows: int.
        queries: float32 (queries, width).
        dims: ascending ints, the prefixes.
        queries_path: .npy file to write, which the process that measures memory reads.
    """
    rows = np.array(np.load(rows_path, mmap_mode="r")[:n_rows])
    # Cutting the database into prefixes and normalising them is not in FAISS's time.
    indexes = flat_indexes(rows, dims)

    def one_pass():
        return exact_search(queries, rows, dims, K, memory_budget=BUDGET).indices

    def dim_by_dim():
        return [
            index.search(np.ascontiguousarray(queries[:, :dim]), K)[1]
            for dim, index in indexes.items()
        ]

    same = float(np.mean(one_pass() == np.stack(dim_by_dim())))
    seconds = interleaved_medians({"ours": one_pass, "FAISS": dim_by_dim}, REPEATS)
    np.save(queries_path, queries)
    held = memory.in_own_process(
        memory.exact, rows_path=rows_path, n_rows=n_rows, queries_path=queries_path,
        dims=list(dims), k=K, budget=BUDGET,
    )  # fmt: skip
    return {
        "rows": n_rows,
        "queries": len(queries),
        "dims": len(dims),
        "k": K,
        "seconds": seconds["ours"],
        "faiss_seconds": seconds["FAISS"],
        "times_as_fast": seconds["FAISS"] / seconds["ours"],
        "same_neighbours": same,
        "peak_bytes": held["peak"],
        "budget_bytes": held["budget"],
        "peak_over_budget": held["peak"] / held["budget"],
    }
