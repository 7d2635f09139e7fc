"""Exported nested retrieval beside FAISS and ScaNN at equal mAP@10, with memory and growth.

    python recipes/benchmarks/retrieval.py --n 30000 300000 --run 1 --output results/retrieval

The database is that of parts/nested_data.py. A plan is chosen on held-out queries, exported by a
process of its own, and loaded by `tf.saved_model.load`. Its signature `retrieve_embeddings` and
each peer of parts/retrieval_peers.py and retrieval_graphs.py are timed in turns, in this process;
peers are built and freed one at a time. One that is not installed, or that needs more memory than
is free, has a row that says so. A peer's knob is set to its fastest value whose mAP@10 is within
0.1 point of exact search with all dims. That is judged on the reported queries, which favours the
peer. Where no value comes that near, the most accurate one is taken and `within_tolerance` is
False. Queries are converted and answers are NumPy arrays on both sides.

Writes into the output folder: speed.csv (one row for each N and system), sweep.csv (every knob),
exact.csv (one-pass exact search), memory.csv, targets.csv (what was wanted and reached), peers.md
(the table to read) and growth.png. Rows of another N or --run that are there already are kept, and
the last three give the median over the runs with its range. `memory_bytes` is what a system added
to the process's own pages, of an export in a process of its own; `build_seconds` the time from the
file of rows to an index; graphs over all dims are kept in the cache, each as large as the database,
and their time is that of the run that built them. Each row has date, hardware, versions and
command.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Idle OpenMP threads of FAISS would spin on the cores while the next system is timed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import faiss
import numpy as np

from mrl_keras import NestingDims, files
from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    SearchPlan,
    TuningOptions,
    TuningSpace,
    tune,
)
from recipes.benchmarks.parts import retrieval_memory as memory
from recipes.benchmarks.parts.nested_data import NestedData, exact_map, mean_ap, print_beside_paper
from recipes.benchmarks.parts.retrieval_exact import measure_exact
from recipes.benchmarks.parts.retrieval_plot import plot_growth
from recipes.benchmarks.parts.retrieval_runs import read_table
from recipes.benchmarks.parts.retrieval_speed import BATCH, PEER_NAMES, TOLERANCE, measure_speed
from recipes.benchmarks.parts.retrieval_table import write_peers
from recipes.benchmarks.parts.retrieval_targets import EXPORT, FUNNEL_EXPORT, reached_targets
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import machine_columns, versions, write_measurements

FUNNEL = (16, 32, 64, 128, 256)  # then the full width; 200, 100, 50, 25 and 10 rows


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--n", type=int, nargs="+", default=[300_000], help="rows of the databases")
    add("--queries", type=int, default=4000, help="queries that judge")
    add("--held_out", type=int, default=8000, help="other queries, which the plan is chosen on")
    add("--width", type=int, default=2048, help="embedding width d")
    add("--classes", type=int, default=1000, help="number of classes")
    add("--shortlist_dim", type=int, default=16, help="D_s")
    add(
        "--reorder_dim",
        type=int,
        default=256,
        help="prefix that ScaNN reorders its candidates by; 0 for none",
    )
    add("--plan_dims", type=int, nargs="+", help="a plan's dims, instead of tuning")
    add("--plan_sizes", type=int, nargs="+", default=[], help="the plan's sizes")
    add("--plan_leaves", type=int, help="the plan's leaves")
    add("--exact_rows", type=int, default=100_000, help="at most so many rows for exact.csv")
    add(
        "--exact_queries",
        type=int,
        default=500,
        help="at most so many queries for exact.csv; 0 for none",
    )
    add(
        "--float32_rows",
        type=int,
        default=500_000,
        help="at most so many rows for the export with float32 blocks, whose making takes 2.1 "
        "times the database of memory: more than 24 GiB at the paper's N",
    )
    add("--run", type=int, default=1, help="number of this run; three give medians and ranges")
    add(
        "--peers",
        nargs="+",
        choices=PEER_NAMES,
        help="only these peers; all are hours at 10^6 rows",
    )
    add("--seconds", type=float, default=10.0, help="for each timed pair of systems, about")
    add("--cache", default="runs/retrieval_data", help="folder of data, graphs and exports")
    tiny = {"n": [4000], "width": 64, "classes": 50, "queries": 256, "held_out": 256}
    tiny |= {"exact_rows": 2000, "exact_queries": 64, "seconds": 0.2, "reorder_dim": 32}
    parser.add_measuring(pathlib.Path("runs/retrieval"), tiny=tiny)
    options = parser.parse_args(arguments)
    if options.queries < BATCH:
        parser.error(f"--queries must be at least {BATCH}, one batch. Received {options.queries}.")
    options.command = without_folders(options.command)
    return options


@dataclasses.dataclass
class Case:
    """One database with its judging and its held-out queries, and exact search's answers."""

    n: int
    options: argparse.Namespace

    def __post_init__(self):
        options = self.options
        data = NestedData(options.width, options.classes)
        self.dims = NestingDims.halving(options.width, 8)
        # A plan may stop at the paper's interpolated dims too, between the last nesting dims.
        between = [dim for dim in self.dims.interpolated() if dim > options.width // 4]
        self.stored_dims = sorted([*self.dims, *between])
        self.rows, self.row_labels = data.rows(self.n, options.cache)
        self.queries, self.labels = data.queries(options.queries)
        self.held_out = data.queries(options.held_out, held_out=True)
        for queries in (self.queries, self.held_out[0]):
            faiss.normalize_L2(queries)
        row = exact_map(self.rows, self.row_labels, self.queries, self.labels, self.dims)
        print(f"\nN = {self.n:,}")
        print_beside_paper(row)
        self.exact_map = row[options.width]

    @property
    def path(self):
        return self.rows.filename

    def file(self, name):
        """A file of the cache that belongs to this database."""
        path = pathlib.Path(self.path)
        return str(path.with_name(path.stem.replace("rows_", f"{name}_")))

    def judge(self, indices):
        """mAP@10 in points of the answers to all judging queries."""
        return mean_ap(indices, self.row_labels, self.labels)

    def batches(self, size=BATCH):
        """The judging queries in batches."""
        return [self.queries[i : i + size] for i in range(0, len(self.queries), size)]


def chosen_plan(case):
    """The fastest plan that surely, on held-out queries, stays within the tolerance.

    D_r is at least a quarter of d: below that the paper's Table 8 is more than a tenth of a point
    short of the full width. Where no plan comes that near, the most accurate one.
    """
    options = case.options
    if options.plan_dims:
        return SearchPlan(options.plan_dims, options.plan_sizes, leaves=options.plan_leaves)
    started, d_s = time.perf_counter(), options.shortlist_dim
    scann = memory.scann_for(case.n, d_s, options.reorder_dim)
    stored = IndexOptions(storage="bfloat16", shortlist_dim=d_s, scann=scann)
    index = NestedIndex.build(case.rows, case.stored_dims, options=stored)
    queries, labels = case.held_out
    space = TuningSpace(
        shortlist_dims=[d_s],
        shortlists=(50, 70, 100, 140, 200, 280),
        rerank_dims=[dim for dim in case.stored_dims if dim >= max(options.width // 4, d_s + 1)],
        leaf_shares=(0.0015, 0.0025, 0.01),
        kept=(12, 15, 20, 25, 30, 40),
    )
    result = tune(
        index, queries, labels=(labels, case.row_labels),
        options=TuningOptions(tolerance=TOLERANCE / 100, space=space, cost="seconds"),
    )  # fmt: skip
    chosen = result.chosen
    if not chosen.plan.rerank_dims:
        nested = [point for point in result.points if point.plan.rerank_dims]
        chosen = max(nested, key=lambda point: point.value)
    print(
        f"plan {chosen.plan}: {100 * (chosen.value - result.full_width.value):+.2f} on "
        f"held-out queries, {time.perf_counter() - started:.0f} s to build and tune",
        flush=True,
    )
    return chosen.plan


def measure_exports(case, plan, folder):
    """({name: (path, plan, seconds to build the index, bytes once loaded)}, rows of memory.csv).

    The chosen plan is exported with bfloat16 blocks, as it is. It may stop short of the full
    width, and then so does the export; the paper's funnel, with both storages, is what memory is
    judged by.
    """
    funnel = SearchPlan.funnel((*(dim for dim in FUNNEL if dim < case.dims.width), case.dims.width))
    wanted = {
        EXPORT: (plan, "bfloat16"),
        f"{FUNNEL_EXPORT}, float32": (funnel, "float32"),
        f"{FUNNEL_EXPORT}, bfloat16": (funnel, "bfloat16"),
    }
    if case.n > case.options.float32_rows:
        del wanted[f"{FUNNEL_EXPORT}, float32"]
    rows, exports, database = [], {}, case.rows.nbytes
    queries_path = case.file("queries") + ".npy"
    np.save(queries_path, case.queries[:BATCH])
    for name, (plan, storage) in wanted.items():
        made = memory.in_own_process(
            memory.export, rows_path=str(case.path), dims=case.stored_dims,
            plan=dataclasses.asdict(plan), storage=storage, folder=os.path.join(folder, name),
            reorder_dim=case.options.reorder_dim if name == EXPORT else 0,
        )  # fmt: skip
        held = memory.in_own_process(memory.loaded, path=made["path"], queries_path=queries_path)
        exports[name] = made["path"], plan, made["build_seconds"], held["loaded"]
        sizes = {"export peak": made["peak"], "disk": made["disk"], **held}
        for what, size in sizes.items():
            rows.append(
                {"n": case.n, "export": name, "what": what, "bytes": size,
                 "ratio_to_float32_database": size / database, "plan": str(plan)}
            )  # fmt: skip
        shown = ", ".join(f"{what} {size / database:.2f}" for what, size in sizes.items())
        print(f"{name} made in {made['seconds']:.0f} s; times the database: {shown}", flush=True)
    return exports, rows


def exact_row(case):
    """The row of exact.csv."""
    options = case.options
    queries = case.queries[: options.exact_queries]
    dims = sorted([*case.dims, *case.dims.interpolated()])
    n_rows, path = min(case.n, options.exact_rows), case.file("exact_queries") + ".npy"
    row = {"n": case.n, **measure_exact(str(case.path), n_rows, queries, dims, path)}
    print(
        f"exact, {row['dims']} dims in one pass: {row['times_as_fast']:.2f} times as fast as "
        f"FAISS flat dim by dim, {100 * row['same_neighbours']:.2f} % the same neighbours, peak "
        f"{row['peak_over_budget']:.2f} of its budget",
        flush=True,
    )
    return row


def measure(n, options):
    """Yields {table: rows} of one database, after each system."""
    case = Case(n, options)
    tables = {"exact": [exact_row(case)]} if options.exact_queries else {}
    plan = chosen_plan(case)
    with tempfile.TemporaryDirectory(prefix="exports_", dir=options.cache) as folder:
        exports, tables["memory"] = measure_exports(case, plan, folder)
        for tables["speed"], tables["sweep"] in measure_speed(case, exports):
            yield tables


def write_table(path, rows, n, run):
    """Writes `rows` and, after them, those of another N or run that the file holds; all of them."""
    rows = [{**row, "run": run, **machine_columns()} for row in rows]
    kept = [row for row in read_table(path) if (int(row["n"]), int(row["run"])) != (n, run)]
    rows += [{name: row.get(name, "") for name in rows[0]} for row in kept]
    files.write_csv(path, rows)
    return rows


def write(output, n, tables, options):
    """Writes every CSV, the table and the plot; gives the rows of targets.csv."""
    about = {
        "command": options.command,
        "faiss": faiss.__version__,
        "scann": importlib.metadata.version("scann"),
        **versions(("hnswlib", "usearch")),
    }
    for name, rows in tables.items():
        rows = [{**row, **about} for row in rows]
        write_table(output / f"{name}.csv", rows, n, options.run)
    tables = {name: read_table(output / f"{name}.csv") for name in ("exact", "speed", "memory")}
    targets = reached_targets(tables, options.width)
    write_measurements(output / "targets.csv", [{**row, **about} for row in targets])
    write_peers(tables["speed"], output / "peers.md")
    plot_growth(tables["speed"], output / "growth.png")
    return targets


def print_targets(targets):
    print(f"\n{'target':58}{'N':>9}{'wanted':>9}{'reached':>9}")
    for row in targets:
        wanted = f">={row['at_least']}" if row["at_least"] != "" else f"<={row['at_most']}"
        numbers = f"{row['n']:9}{wanted:>9}{row['reached']:9.2f}"
        print(f"{row['target']:58}{numbers}{'' if row['met'] else '  not met'}  {row['note']}")


def main(arguments=None):
    options = parse_arguments(arguments)
    os.makedirs(options.cache, exist_ok=True)
    for n in options.n:
        for tables in measure(n, options):
            targets = write(options.output, n, tables, options)
    print_targets(targets)


if __name__ == "__main__":
    main()
