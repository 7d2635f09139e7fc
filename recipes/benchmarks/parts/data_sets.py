"""The rows of a benchmark that takes made data, once for each seed, and a set of the caller's."""

from __future__ import annotations

import os

import numpy as np

from recipes.benchmarks.parts.nested_data import NestedData


def add_data_options(parser, n, queries, width):
    """Adds what `read_sets` reads to a `ScriptParser`, with these defaults."""
    add = parser.add_argument
    add("--n", type=int, default=n, help="rows of the made database")
    add("--queries", type=int, default=queries, help="queries")
    add("--width", type=int, default=width, help="embedding width d of made data")
    add("--classes", type=int, default=1000, help="number of classes of made data")
    add("--seeds", type=int, nargs="*", default=[0, 1], help="of made data")
    add("--rows", help=".npy file (rows, width), a further set")
    add("--queries_file", help=".npy file (queries, width) that goes with --rows")
    add("--cache", default="runs/retrieval_data", help="folder of the database file")


def check_data_options(parser, options):
    """A `parser` error where one of --rows and --queries_file is missing."""
    if bool(options.rows) != bool(options.queries_file):
        parser.error("--rows and --queries_file go together")


def read_sets(options):
    """(name, rows, queries, labels of rows and queries or `None`) of every set."""
    os.makedirs(options.cache, exist_ok=True)
    for seed in options.seeds:
        data = NestedData(options.width, options.classes, seed)
        rows, row_labels = data.rows(options.n, options.cache)
        queries, labels = data.queries(options.queries)
        yield f"made, seed {seed}", np.array(rows), queries, (row_labels, labels)
    if options.rows:
        rows, queries = np.load(options.rows), np.load(options.queries_file)
        yield os.path.basename(options.rows), rows, queries[: options.queries], None
