"""The first rerank inside ScaNN beside the same plan with the rerank over blocks, both exported.

    python recipes/benchmarks/retrieval_reorder.py --n 100000 --output results/retrieval

Database and queries are those of retrieval.py. Each plan is exported from an index with and without
`ScannParameters.reorder_dim`, and the two SavedModels answer the same batches of 256 in turns, in
this process. Beside the median wall time stands the median processor time of all threads, which
other programs on the machine disturb less.

Writes reorder.csv into the output folder: one row for each plan and way.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import keras
import numpy as np

from mrl_keras import NestingDims
from mrl_keras.export import export_saved_model
from mrl_keras.retrieval import IndexOptions, NestedIndex, SearchPlan, exact_search
from recipes.benchmarks.parts import retrieval_memory as memory
from recipes.benchmarks.parts.nested_data import NestedData, mean_ap
from recipes.benchmarks.parts.retrieval_speed import BATCH, ExportedModel
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import write_measurements
from recipes.common.timing import wall_and_processor


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--n", type=int, default=100_000, help="rows of the database")
    add("--queries", type=int, default=4000, help="queries that judge")
    add("--width", type=int, default=2048, help="embedding width d")
    add("--classes", type=int, default=1000, help="number of classes")
    add("--shortlist_dim", type=int, default=32, help="D_s")
    add("--shortlist", type=int, nargs="+", default=[140, 200], help="rows found with D_s")
    add("--reorder_dim", type=int, default=256, help="dim of the first rerank")
    add("--kept", type=int, nargs="+", default=[30, 12], help="rows it keeps, one for each length")
    add("--leaves", type=int, default=5, help="leaves opened")
    add("--cache", default="runs/retrieval_data", help="folder of data and exports")
    parser.add_measuring(pathlib.Path("runs/retrieval"), repeats=9)
    options = parser.parse_args(arguments)
    if len(options.kept) != len(options.shortlist):
        parser.error("--kept takes as many numbers as --shortlist")
    options.command = without_folders(options.command)
    return options


def exports(options, rows, folder):
    """{(plan, way): ExportedModel} of every plan, with the rerank over blocks and in ScaNN."""
    dims, d_s = NestingDims.halving(options.width, 8), options.shortlist_dim
    encoder = keras.Sequential([keras.Input((options.width,)), keras.layers.Identity()])
    found = {}
    for way, reorder_dim in (("blocks", 0), ("ScaNN", options.reorder_dim)):
        scann = memory.scann_for(len(rows), d_s, reorder_dim)
        stored = IndexOptions(storage="bfloat16", shortlist_dim=d_s, scann=scann)
        index = NestedIndex.build(rows, dims, options=stored)
        for sizes in zip(options.shortlist, options.kept, strict=True):
            dims_of = (d_s, options.reorder_dim, options.width)
            plan = SearchPlan(dims_of, sizes, leaves=options.leaves)
            path = export_saved_model(
                os.path.join(folder, f"{way}_{sizes[0]}"),
                encoder, index=index, plan=plan,
            )  # fmt: skip
            found[plan, way] = ExportedModel(path)
    return found


def main(arguments=None):
    options = parse_arguments(arguments)
    os.makedirs(options.cache, exist_ok=True)
    data = NestedData(options.width, options.classes)
    rows, row_labels = data.rows(options.n, options.cache)
    queries, labels = data.queries(options.queries)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exact = exact_search(queries, rows, [options.width], 10).indices[0]
    batches = [queries[i : i + BATCH] for i in range(0, len(queries), BATCH)]
    with tempfile.TemporaryDirectory(prefix="exports_", dir=options.cache) as folder:
        models = exports(options, rows, folder)
        asked = {
            key: lambda model=model: [model.search(batch) for batch in batches]
            for key, model in models.items()
        }
        spent, table = wall_and_processor(asked, options.repeats), []
        for (plan, way), seconds in spent.items():
            found = np.concatenate([models[plan, way].search(batch) for batch in batches])
            wall, cpu = 1e6 * seconds / len(queries)
            table.append(
                {"n": options.n, "first rerank in": way, "us_per_query": wall,
                 "processor_us_per_query": cpu, "mAP@10": mean_ap(found, row_labels, labels),
                 "exact_mAP@10": mean_ap(exact, row_labels, labels), "plan": str(plan),
                 "command": options.command}
            )  # fmt: skip
            print({key: table[-1][key] for key in list(table[-1])[1:-1]}, flush=True)
    write_measurements(options.output / "reorder.csv", table)


if __name__ == "__main__":
    main()
