"""Fewer bits: what int8 blocks cost, and shortlists by sign bits beside float dims and ScaNN.

    python recipes/benchmarks/fewer_bits.py --output recipes/results/beyond
    python recipes/benchmarks/fewer_bits.py --rows vectors.npy --queries_file queries.npy

Made data are those of retrieval.py, once for each of `--seeds`; `--rows` adds another set.
Writes two tables into the output folder. bits_storage.csv: the bytes of a loaded index for each
storage, as a share of float32 rows alone, and the quality of its exact search. bits_shortlist.csv:
how many of the ten nearest rows at full width a shortlist holds, by the bytes of a row that it
reads, and the quality after a rerank of int8 rows. Quality is mAP@10 (points) on made data, and the
share of float32's ten neighbours (points) on others.
"""

from __future__ import annotations

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])


from mrl_keras import NestingDims
from mrl_keras.retrieval import IndexOptions, NestedIndex, SearchPlan, recall_at_k
from recipes.benchmarks.parts.data_sets import add_data_options, check_data_options, read_sets
from recipes.benchmarks.parts.nested_data import mean_ap
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import write_measurements
from recipes.common.timing import interleaved_medians

K = 10


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add_data_options(parser, n=30_000, queries=1024, width=512)
    add = parser.add_argument
    add("--shortlist", type=int, default=200, help="rows of a shortlist")
    add("--sign_dims", type=int, nargs="+", default=[64, 128, 256], help="D_s of sign bits")
    add("--float_dims", type=int, nargs="+", default=[8, 16, 32], help="D_s of float32 dims")
    add("--scann_dim", type=int, default=64, help="D_s of ScaNN's codes; 0 for none")
    tiny = {"n": 2000, "width": 64, "classes": 50, "queries": 32, "sign_dims": [16, 32],
            "float_dims": [8], "scann_dim": 0, "seeds": [0], "repeats": 1}  # fmt: skip
    parser.add_measuring(pathlib.Path("runs/fewer_bits"), repeats=3, tiny=tiny)
    options = parser.parse_args(arguments)
    check_data_options(parser, options)
    options.command = without_folders(options.command)
    return options


def index_of(rows, dims, storage="int8", **options):
    return NestedIndex.build(rows, dims, options=IndexOptions(storage=storage, **options))


class Judge:
    """The quality of answers: mAP@10 in points, or the share of float32's neighbours."""

    def __init__(self, labels, truth):
        self.labels, self.truth = labels, truth
        self.name = "neighbours" if labels is None else "mAP@10"

    def __call__(self, indices):
        if self.labels is None:
            return 100 * recall_at_k(indices, self.truth)
        return mean_ap(indices, *self.labels)


def storage_table(rows, queries, dims, judge):
    """A row for each storage."""
    split = dims[len(dims) // 2]
    storages = {
        "float32": "float32",
        "bfloat16": "bfloat16",
        "int8": "int8",
        f"float32 to {split}, int8": {split: "float32", dims.width: "int8"},
    }
    table, first = [], None
    for name, storage in storages.items():
        index = index_of(rows, dims, storage)
        size, quality = index.memory_bytes(), judge(index.search(queries, _exact(dims)).indices)
        first = (size, quality) if first is None else first
        table.append(
            {"n": len(rows), "width": dims.width, "storage": name,
             "bytes_per_row": size / len(rows),
             "share_of_float32_rows": size / (4 * dims.width * len(rows)),
             "share_of_float32_index": size / first[0],
             "quality": quality, "is": judge.name, "less_than_float32": first[1] - quality}
        )  # fmt: skip
    return table


def shortlist_systems(rows, dims, options):
    """{name: (index, D_s, bytes of a row that the shortlist reads)}."""
    found = {}
    for dim in options.sign_dims:
        index = index_of(rows, dims, shortlist_dim=dim, signs=True)
        found[f"{dim} sign bits"] = index, dim, index.shortlist.codes.nbytes / len(rows)
    exact = index_of(rows, dims, {max(options.float_dims): "float32", dims.width: "int8"})
    for dim in options.float_dims:
        found[f"{dim} float32 dims"] = exact, dim, 4.0 * dim + 4
    if options.scann_dim:
        from mrl_keras.retrieval import scann_parameters

        dim = options.scann_dim
        parameters = scann_parameters(len(rows), dim)
        index = index_of(rows, dims, shortlist_dim=dim, scann=parameters)
        codes = index.shortlist.tensors()["hashed_dataset"].nbytes / len(rows)
        found[f"ScaNN codes of {dim} dims, all leaves"] = index, dim, codes + 4
    return found


def shortlist_table(systems, queries, truth, judge, options):
    """A row for each system."""
    size, calls, table = options.shortlist, {}, []
    for name, (index, dim, row_bytes) in systems.items():
        leaves = getattr(getattr(index.shortlist, "parameters", None), "num_leaves", None)
        plan = SearchPlan((dim, index.width), (size,), K, leaves)
        calls[name] = lambda index=index, plan=plan: index.search(queries, plan)
        held = index.find_shortlist(queries, dim, size, leaves)
        table.append(
            {"n": len(index), "width": index.width, "shortlist_by": name,
             "bytes_per_row": row_bytes, "shortlist": size,
             "held_of_the_nearest_10": recall_at_k(held, truth),
             "quality": judge(calls[name]().indices), "is": judge.name}
        )  # fmt: skip
    spent = interleaved_medians(calls, options.repeats, warm_up=1)
    return [
        {**row, "us_per_query": 1e6 * spent[row["shortlist_by"]] / len(queries)} for row in table
    ]


def measure(name, rows, queries, labels, options):
    """{"storage": rows of its table, "shortlist": ...} of one set."""
    width = rows.shape[1]
    asked = {*options.sign_dims, *options.float_dims, options.scann_dim or width, width}
    dims = NestingDims(sorted(asked))
    truth = index_of(rows, dims, "float32").search(queries, _exact(dims)).indices
    judge = Judge(labels, truth)
    tables = {"storage": storage_table(rows, queries, dims, judge)}
    systems = shortlist_systems(rows, dims, options)
    tables["shortlist"] = shortlist_table(systems, queries, truth, judge, options)
    about = {"data": name, "queries": len(queries)}
    return {table: [{**about, **row} for row in found] for table, found in tables.items()}


def main(arguments=None):
    options = parse_arguments(arguments)
    written = {"storage": [], "shortlist": []}
    for data in read_sets(options):
        for name, table in measure(*data, options).items():
            for row in table:
                print({key: value for key, value in row.items() if key != "queries"}, flush=True)
            written[name] += [{**row, "command": options.command} for row in table]
    for name, table in written.items():
        write_measurements(options.output / f"bits_{name}.csv", table)


def _exact(dims):
    return SearchPlan((dims.width,), k=K)


if __name__ == "__main__":
    main()
