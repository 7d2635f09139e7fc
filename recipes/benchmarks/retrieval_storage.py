"""What storing rows as float32, bfloat16 or int8 (a scale for each row) costs a rerank.

    python recipes/benchmarks/retrieval_storage.py --output results/retrieval

The rows and queries are those of retrieval.py. Each query's 140 rows by 32 dims are reordered by
all dims, as an export does it: gather, conversion to float32, products; int8 multiplies by its
row's scale, which stands with the inverse norms. Writes storage.csv into the output folder.
"""

from __future__ import annotations

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np
import tensorflow as tf

from mrl_keras.retrieval import exact_search
from recipes.benchmarks.parts.nested_data import NestedData, mean_ap
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import write_measurements
from recipes.common.timing import wall_and_processor

D_S, SHORTLIST, BLOCK = 32, 140, 128


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--n", type=int, default=30_000, help="rows of the database")
    add("--queries", type=int, default=1024, help="queries that judge")
    add("--width", type=int, default=2048, help="embedding width d")
    add("--classes", type=int, default=1000, help="number of classes")
    add("--cache", default="runs/retrieval_data", help="folder of the database file")
    parser.add_measuring(pathlib.Path("runs/retrieval"), repeats=7)
    return parser.parse_args(arguments)


def stored(rows):
    """{storage: (table, scale that makes it the rows' unit vectors)}."""
    inverse = (1 / np.linalg.norm(rows, axis=1)).astype(np.float32)
    largest = np.abs(rows).max(axis=1)
    codes = np.rint(rows * (127 / largest)[:, None]).astype(np.int8)
    return {
        "float32": (tf.constant(rows), inverse),
        "bfloat16": (tf.cast(rows, tf.bfloat16), inverse),
        "int8": (tf.constant(codes), inverse * largest / 127),
    }


def reranker(table, scale):
    """A graph function: queries and candidates of a block -> row numbers, best first."""

    @tf.function
    def rerank(queries, candidates):
        rows = tf.cast(tf.gather(table, candidates), tf.float32)
        scores = tf.linalg.matvec(rows, queries) * tf.gather(scale, candidates)
        return tf.gather(candidates, tf.math.top_k(scores, 10).indices, batch_dims=1)

    return rerank


def main(arguments=None):
    options = parse_arguments(arguments)
    os.makedirs(options.cache, exist_ok=True)
    data = NestedData(options.width, options.classes)
    rows, row_labels = data.rows(options.n, options.cache)
    rows, (queries, labels) = np.array(rows), data.queries(options.queries)
    found = exact_search(queries, rows, [D_S, options.width], SHORTLIST)
    exact = mean_ap(found.at(options.width)[1][:, :10], row_labels, labels)
    tables = stored(rows)
    blocks = [
        tuple(tf.constant(part[i : i + BLOCK]) for part in (queries, found.at(D_S)[1]))
        for i in range(0, len(queries), BLOCK)
    ]
    rerankers = {name: reranker(*table) for name, table in tables.items()}
    asked = {
        name: lambda rerank=rerank: np.concatenate([rerank(*block).numpy() for block in blocks])
        for name, rerank in rerankers.items()
    }
    table = []
    for name, seconds in wall_and_processor(asked, options.repeats).items():
        stored_rows, scale = tables[name]
        wall, cpu = 1e6 * seconds / len(queries)
        table.append(
            {"n": options.n, "storage": name,
             "bytes_per_row": stored_rows.shape[1] * stored_rows.dtype.size + scale.itemsize,
             "us_per_query": wall, "processor_us_per_query": cpu,
             "mAP@10": mean_ap(asked[name](), row_labels, labels), "exact_mAP@10": exact,
             "command": without_folders(options.command)}
        )  # fmt: skip
        print({key: table[-1][key] for key in list(table[-1])[1:-1]}, flush=True)
    write_measurements(options.output / "storage.csv", table)


if __name__ == "__main__":
    main()
