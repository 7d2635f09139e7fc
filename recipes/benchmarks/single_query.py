"""What one query costs an exported model: through Python and the C API, and on one thread.

    python recipes/benchmarks/single_query.py --output single_query.csv

Exports an index of parts/nested_data.py with a ScaNN shortlist, and asks its signature
`retrieve_embeddings` for one query at a time, in turns, through

- Python: the signature of the loaded model, ids as a NumPy array;
- SessionModel: `mrl_keras.export.SessionModel`, on the thread that asks, all outputs as arrays;
- C API: `TF_SessionRun` on a tensor that is there, as TF Serving calls it; no array is made;
- C API inline: the same on the thread that asks (inter_op_parallelism_threads -1).

Columns of the CSV: client, p50_us, p99_us (microseconds of a query by the clock), processor_us
(mean of all threads' processor time), queries_per_second of one thread and of --threads threads
(medians of --repeats rounds in turns) and the quartiles of their ratio over the rounds, ops (how
many the session runs for a query, constants included, by its own trace), the sizes, and those of
the machine.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np
import tensorflow as tf

from mrl_keras import NestingDims
from mrl_keras.export import ServingOptions, SessionModel, export_saved_model, load
from mrl_keras.retrieval import IndexOptions, NestedIndex, ScannParameters, SearchPlan
from recipes.benchmarks.parts.c_api import Library, Model
from recipes.benchmarks.parts.nested_data import NestedData
from recipes.benchmarks.parts.retrieval_speed import Recorded
from recipes.common.arguments import ScriptParser
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_times

SIGNATURE, QUERIES = "retrieve_embeddings", 256
IN_A_ROW = 200  # the first one of a turn, which finds other rows in the caches, is beyond p99
SIZES = ("width", "shortlist_dim", "shortlist", "reorder_dim", "kept", "rerank_dim")


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--n", type=int, nargs="+", default=[100_000, 300_000], help="rows of the databases")
    add("--width", type=int, default=2048, help="embedding width d")
    add("--shortlist_dim", type=int, default=32, help="dims that find the shortlist")
    add("--shortlist", type=int, default=280, help="rows that the shortlist holds")
    add("--reorder_dim", type=int, default=256, help="dims by which ScaNN reorders it")
    add("--kept", type=int, default=20, help="rows that are reranked")
    add("--rerank_dim", type=int, default=1024, help="dims of the rerank")
    add("--threads", type=int, default=8, help="threads that ask at once")
    add("--cache", default="runs/retrieval_data", help="folder of the database file")
    tiny = {"n": [2000], "width": 64, "shortlist_dim": 8, "shortlist": 50, "reorder_dim": 16}
    tiny |= {"rerank_dim": 32, "threads": 2, "repeats": 1}
    parser.add_measuring("single_query.csv", repeats=15, tiny=tiny)
    return parser.parse_args(arguments)


def export(n, options, folder):
    """The path of an export of the index, and queries (n, 1, width)."""
    data = NestedData(options.width)
    rows, _ = data.rows(n, options.cache)
    leaves = max(1, round(n**0.5))
    scann = ScannParameters(leaves, max(1, leaves // 100), reorder_dim=options.reorder_dim)
    stored = IndexOptions(storage="bfloat16", shortlist_dim=options.shortlist_dim, scann=scann)
    dims = NestingDims.halving(options.width, 8)
    index = NestedIndex.build(rows, dims, options=stored)
    plan = SearchPlan(
        (options.shortlist_dim, options.reorder_dim, options.rerank_dim),
        (options.shortlist, options.kept),
        leaves=scann.leaves_to_search,
    )
    inputs = keras.Input((1,), name="features")
    encoder = keras.Model(inputs, keras.layers.Dense(options.width)(inputs))
    path = export_saved_model(
        os.path.join(folder, "model"),
        encoder,
        index=index,
        plan=plan,
        options=ServingOptions(warmup_batch_sizes=()),
    )
    return path, data.queries(QUERIES)[0][:, None]


def names_and_ops(path, query):
    """(the input's name, the outputs' names, how many ops a session runs for a query)."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], path)
        signature = loaded.signature_def[SIGNATURE]
        name = signature.inputs["embedding"].name
        outputs = [tensor.name for tensor in signature.outputs.values()]
        trace, data = tf.compat.v1.RunOptions(trace_level=3), tf.compat.v1.RunMetadata()
        session.run(outputs, {name: query}, trace, data)
    ops = sum(len(device.node_stats) for device in data.step_stats.dev_stats)
    return name, outputs, ops


def queries_a_second(ask, inputs, threads):
    """Queries a second of threads that ask at once."""
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda _: [ask(one) for one in inputs], range(threads)):
            pass
    return threads * len(inputs) / (time.perf_counter() - started)


def measure(n, path, queries, options):
    """One row for each client."""
    loaded = load(path)  # held: its searcher goes with it
    signature = loaded.signatures[SIGNATURE]
    fed, outputs, ops = names_and_ops(path, queries[0])
    library = Library()
    library.load_scann_ops()
    inline = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=-1).SerializeToString()
    with contextlib.ExitStack() as stack:

        def calls(config):
            model = Model(library, path, config)
            stack.callback(model.close)
            return [stack.enter_context(model.call({fed: one}, outputs)) for one in queries]

        model = stack.enter_context(SessionModel(path))
        clients = {
            "Python": (lambda one: signature(embedding=tf.constant(one))["ids"].numpy(), queries),
            "SessionModel": (lambda one: model(SIGNATURE, embedding=one), queries),
            "C API": (lambda call: call(id), calls(b"")),
            "C API inline": (lambda call: call(id), calls(inline)),
        }
        recorded = {name: Recorded(*client, IN_A_ROW) for name, client in clients.items()}
        times = interleaved_times(recorded, options.repeats)
        rows = []
        for name, (ask, inputs) in clients.items():
            timed = 1e6 * np.array(recorded[name].seconds[-options.repeats * IN_A_ROW :])
            rates = np.array(
                [
                    [queries_a_second(ask, inputs, n) for n in (1, options.threads)]
                    for _ in range(options.repeats)
                ]
            )
            quartiles = np.percentile(rates[:, 1] / rates[:, 0], [25, 75])
            rows.append(
                {
                    "n": n,
                    "client": name,
                    "p50_us": np.percentile(timed, 50),
                    "p99_us": np.percentile(timed, 99),
                    "processor_us": 1e6 * times[name][:, 1].mean() / IN_A_ROW,
                    "queries_per_second": np.median(rates[:, 0]),
                    "threads": options.threads,
                    "queries_per_second_of_threads": np.median(rates[:, 1]),
                    "threads_ratio_quartiles": "{:.2f} to {:.2f}".format(*quartiles),
                    "ops": ops,
                    **{size: getattr(options, size) for size in SIZES},
                }
            )
    return rows


def main(options):
    rows = []
    for n in options.n:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(n, *export(n, options, folder), options)
    for row in rows:
        print(
            f"{row['n']:8} {row['client']:12} p50 {row['p50_us']:8.1f} us  "
            f"p99 {row['p99_us']:8.1f} us  "
            f"processor {row['processor_us']:8.1f} us  {row['ops']} ops  threads: "
            f"{row['queries_per_second_of_threads'] / row['queries_per_second']:.2f} x one "
            f"({row['threads_ratio_quartiles']})"
        )
    write_measurements(options.output, rows)


if __name__ == "__main__":
    main(parse_arguments())
