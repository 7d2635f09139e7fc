"""Exact full-width search: the pruned search of an index beside FAISS IndexFlat and Panorama.

    python recipes/benchmarks/retrieval_pruned.py --n 300000 --output results/retrieval
    python recipes/benchmarks/retrieval_pruned.py --rows vectors.npy --queries_file queries.npy

The rows and queries are those of retrieval.py, or .npy files, L2-normalised. All systems answer the
same batches in turns, in this process. Writes pruned.csv into the output folder: seconds for each
batch size, the ratio to IndexFlat, the median and the 5th and 95th percentile over the queries of
the dims read of a row, and the share of neighbours that are IndexFlat's.
"""

from __future__ import annotations

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import faiss
import numpy as np

from mrl_keras import NestingDims
from mrl_keras.retrieval import NestedIndex
from recipes.benchmarks.parts.data_sets import check_data_options
from recipes.benchmarks.parts.nested_data import NestedData
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_medians

K = 10
PEERS = ("IndexFlat", "FlatIPPanorama8")


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--n", type=int, default=300_000, help="rows of the database")
    add("--queries", type=int, default=1024, help="queries")
    add("--width", type=int, default=2048, help="embedding width d of made data")
    add("--classes", type=int, default=1000, help="number of classes of made data")
    add("--smallest_dim", type=int, default=8, help="smallest prefix; the others double it")
    add("--batches", type=int, nargs="+", default=[1, 32, 256], help="batch sizes")
    add("--rows", help=".npy file (rows, width) in place of made data")
    add("--queries_file", help=".npy file (queries, width) that goes with --rows")
    add("--cache", default="runs/retrieval_data", help="folder of the database file")
    tiny = {"n": 2000, "width": 64, "classes": 50, "queries": 32, "batches": [1, 32], "repeats": 1}
    parser.add_measuring(pathlib.Path("runs/retrieval"), repeats=5, tiny=tiny)
    options = parser.parse_args(arguments)
    check_data_options(parser, options)
    return options


def read_data(options):
    """(rows, queries), float32, L2-normalised."""
    if options.rows:
        rows, queries = np.load(options.rows), np.load(options.queries_file)
    else:
        os.makedirs(options.cache, exist_ok=True)
        data = NestedData(options.width, options.classes)
        rows, queries = data.rows(options.n, options.cache)[0], data.queries(options.queries)[0]
    rows, queries = (
        np.array(part[:count], np.float32)
        for part, count in ((rows, options.n), (queries, options.queries))
    )
    for part in (rows, queries):
        faiss.normalize_L2(part)
    return rows, queries


def systems_of(rows, dims):
    """({name: queries -> row numbers}, the `NestedIndex`)."""
    index = NestedIndex.build(rows, dims)
    flat = faiss.IndexFlatIP(rows.shape[1])
    panorama = faiss.index_factory(rows.shape[1], PEERS[1], faiss.METRIC_INNER_PRODUCT)
    for peer in (flat, panorama):
        peer.add(rows)
    found = {
        "search_pruned": lambda queries: index.search_pruned(queries, K).indices,
        "search_exactly": lambda queries: index.search_exactly(queries, dims.width, K)[1],
        PEERS[0]: lambda queries: flat.search(queries, K)[1],
        PEERS[1]: lambda queries: panorama.search(queries, K)[1],
    }
    return found, index


def main(arguments=None):
    options = parse_arguments(arguments)
    rows, queries = read_data(options)
    dims = NestingDims.halving(rows.shape[1], options.smallest_dim)
    systems, index = systems_of(rows, dims)
    truth = systems[PEERS[0]](queries)
    same = {name: float(np.mean(search(queries) == truth)) for name, search in systems.items()}
    read = index.search_pruned(queries, K).dims_read
    low, median, high = np.percentile(read, [5, 50, 95])
    table = []
    for size in options.batches:
        batches = [queries[i : i + size] for i in range(0, min(len(queries), 8 * size), size)]
        calls = {
            name: lambda search=search, batches=batches: [search(batch) for batch in batches]
            for name, search in systems.items()
        }
        seconds = interleaved_medians(calls, options.repeats, warm_up=1)
        count = sum(map(len, batches))
        for name, spent in seconds.items():
            table.append(
                {"data": os.path.basename(options.rows or "made"), "n": len(rows),
                 "width": dims.width, "batch": size, "system": name,
                 "us_per_query": 1e6 * spent / count,
                 "times_as_fast_as_flat": seconds[PEERS[0]] / spent,
                 "same_neighbours": same[name],
                 "dims_read_p5": low if name == "search_pruned" else "",
                 "dims_read_median": median if name == "search_pruned" else "",
                 "dims_read_mean": read.mean() if name == "search_pruned" else "",
                 "dims_read_p95": high if name == "search_pruned" else "",
                 "faiss": faiss.__version__, "repeats": options.repeats,
                 "command": without_folders(options.command)}
            )  # fmt: skip
            print({key: table[-1][key] for key in list(table[-1])[3:8]}, flush=True)
    print(f"dims read of a row: {median:.0f} (5th to 95th percentile {low:.0f} to {high:.0f})")
    write_measurements(options.output / "pruned.csv", table)


if __name__ == "__main__":
    main()
