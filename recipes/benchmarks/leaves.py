"""Partitions by one prefix that are scored by another, beside ScaNN's tree and IVF on one prefix.

    python recipes/benchmarks/leaves.py --output recipes/results/beyond/leaves.csv
    python recipes/benchmarks/leaves.py --rows vectors.npy --queries_file queries.npy

Every system has the same number of leaves, finds `--shortlist` rows in those that a query opens,
and leaves the rerank at full width to the same index. Of each system and number of opened leaves
the table holds the rows that were scored, the multiply-adds of one query (centres, rows, rerank),
what it stores beside the index, the share of the ten nearest rows at full width that the answer
holds, and mAP@10 where rows have classes. Nothing is timed. Made data are those of retrieval.py,
once for each of `--seeds`; `--rows` adds another set. Beside the CSV file a PNG file is drawn.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np

from mrl_keras import NestingDims
from mrl_keras.plots import LINE_STYLES, MARKERS, new_figure, save_figure
from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    PartitionParameters,
    PartitionSearcher,
    ScannParameters,
    recall_at_k,
)
from recipes.benchmarks.parts.data_sets import add_data_options, check_data_options, read_sets
from recipes.benchmarks.parts.nested_data import mean_ap
from recipes.common.arguments import ScriptParser, without_folders
from recipes.common.machine import write_measurements

K = 10


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add_data_options(parser, n=100_000, queries=512, width=256)
    add = parser.add_argument
    add("--leaves", type=int, default=1000, help="leaves of every system")
    add("--opened", type=int, nargs="+", default=[2, 5, 10, 20, 40, 80], help="leaves to open")
    add("--cluster_dims", type=int, nargs="+", default=[16, 32, 64], help="D_c of partitions")
    add("--shortlist_dims", type=int, nargs="+", default=[16, 32, 64], help="D_s")
    add("--spills", type=float, nargs="*", default=[1.0], help="weights of second leaves")
    add("--peers", type=int, default=1, help="0 leaves out ScaNN and IVF")
    add("--shortlist", type=int, default=200, help="rows of a shortlist")
    tiny = {"n": 1000, "width": 32, "classes": 30, "queries": 16, "leaves": 20, "opened": [2, 20],
            "cluster_dims": [4, 16], "shortlist_dims": [8, 16], "seeds": [0],
            "shortlist": 50}  # fmt: skip
    parser.add_measuring(pathlib.Path("runs/leaves.csv"), tiny=tiny)
    options = parser.parse_args(arguments)
    check_data_options(parser, options)
    options.command = without_folders(options.command)
    return options


class Ivf:
    """FAISS's IVF over one L2-normalised prefix, with the methods of `PartitionSearcher`."""

    def __init__(self, index, dim, leaves):
        import faiss

        self.dim = self.width = dim
        parts = [np.asarray(block, np.float32) for block in index.blocks_up_to(dim)]
        rows = self._unit(np.concatenate(parts, axis=1))
        self._ivf = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(dim), dim, leaves, faiss.METRIC_INNER_PRODUCT
        )
        self._ivf.train(rows)
        self._ivf.add(rows)
        self._sizes = np.array([self._ivf.get_list_size(leaf) for leaf in range(leaves)])

    @staticmethod
    def _unit(prefixes):
        return prefixes / np.linalg.norm(prefixes, axis=1, keepdims=True)

    def search(self, queries, k, leaves):
        self._ivf.nprobe = leaves
        return self._ivf.search(self._unit(queries), k)

    def rows_scanned(self, queries, leaves):
        return self._sizes[self._ivf.quantizer.search(self._unit(queries), leaves)[1]].sum(axis=1)

    def memory_bytes(self):
        """The copy of the prefix, an int64 for each row, and the centres."""
        return self._ivf.ntotal * (4 * self.dim + 8) + 4 * self.dim * len(self._sizes)


def partitions(index, options):
    """(name, D_c, D_s, searcher) of every pair of dims, with and without second leaves."""
    for d_c in options.cluster_dims:
        centres = None
        for d_s, spill in itertools.product(options.shortlist_dims, [None, *options.spills]):
            leaves = options.leaves if centres is None else len(centres)
            partition = PartitionParameters(d_c, leaves, 1, spill, centres)
            found = index.with_shortlist(IndexOptions(shortlist_dim=d_s, partition=partition))
            if centres is None:  # k-means once for each D_c
                centres = found.shortlist.leaves.centres
            name = "partition" if spill is None else f"second leaves, weight {spill:g}"
            yield name, d_c, d_s, found.shortlist


def peers(index, options):
    """As `partitions`: ScaNN's tree scored exactly, ScaNN's codes, and IVF, of one prefix each."""
    for dim in options.shortlist_dims:
        scann = ScannParameters(options.leaves, 1)
        found = index.with_shortlist(IndexOptions(shortlist_dim=dim, scann=scann)).shortlist
        parameters = PartitionParameters(dim, options.leaves, 1)
        norms = index.inverse_norms[:, index.nesting_dims.index(dim)]
        tree = PartitionSearcher(parameters, found.partition(), index.blocks_up_to(dim), norms)
        yield "ScaNN's tree", dim, dim, tree
        found.rows_scanned = tree.rows_scanned
        yield "ScaNN's tree and codes", dim, dim, found
    for dim in sorted({*options.cluster_dims, *options.shortlist_dims}):
        yield "IVF", dim, dim, Ivf(index, dim, options.leaves)


def measure(data, rows, queries, labels, options):
    """A row of the table for each system and number of opened leaves."""
    width = rows.shape[1]
    dims = NestingDims(sorted({*options.cluster_dims, *options.shortlist_dims, width}))
    index = NestedIndex.build(rows, dims, options=IndexOptions(scann=None))
    truth = index.search_exactly(queries, width, K)[1]
    full = None if labels is None else mean_ap(truth, *labels)
    systems = [partitions(index, options)] + ([peers(index, options)] if options.peers else [])
    for name, d_c, d_s, searcher in itertools.chain(*systems):
        asked = queries[:, : searcher.width]
        for opened in options.opened:
            scanned = float(searcher.rows_scanned(asked, opened).mean())
            held = searcher.search(asked, options.shortlist, opened)[1]
            found = index.rerank(queries, held, [width], k=K)[1]
            products = options.leaves * d_c + scanned * d_s
            yield {
                "data": data, "n": len(rows), "width": width, "queries": len(queries),
                "system": name, "d_c": d_c, "d_s": d_s, "leaves": options.leaves,
                "opened": opened, "rows_scanned": scanned, "shortlist_mflops": products / 1e6,
                "mflops": (products + options.shortlist * width) / 1e6,
                "bytes_per_row": searcher.memory_bytes() / len(rows),
                "recall_at_10": 100 * recall_at_k(found, truth),
                "mAP_at_10": "" if labels is None else mean_ap(found, *labels),
                "mAP_at_10_of_full_width": "" if labels is None else full,
            }  # fmt: skip


def fronts(table):
    """{system: its points [(MFLOPs of the shortlist, recall)] that no cheaper one beats}."""
    found = {row["system"]: [] for row in table}
    for row in sorted(table, key=lambda row: (row["shortlist_mflops"], -row["recall_at_10"])):
        front = found[row["system"]]
        if not front or row["recall_at_10"] > front[-1][1]:
            front.append((row["shortlist_mflops"], row["recall_at_10"]))
    return found


def plot(table, path):
    """Each system's front over all of its dims, one panel for each set."""
    sets = list(dict.fromkeys(row["data"] for row in table))
    figure, (panels,) = new_figure((5 * len(sets), 4.4), columns=len(sets))
    for panel, data in zip(panels, sets, strict=True):
        lines = fronts([row for row in table if row["data"] == data])
        for place, (name, points) in enumerate(lines.items()):
            panel.plot(
                *zip(*points, strict=True), label=name, marker=MARKERS[place % len(MARKERS)],
                linestyle=LINE_STYLES[place % len(LINE_STYLES)], markersize=4,
            )  # fmt: skip
        panel.set(xscale="log", xlabel="million multiply-adds of a shortlist", title=data)
        panel.grid(True, which="both", alpha=0.3)
    panels[0].set_ylabel("recall@10 after the rerank (%)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=9)
    save_figure(figure, path, dpi=130)


def main(arguments=None):
    options = parse_arguments(arguments)
    table = []
    for name, *data in read_sets(options):
        for row in measure(name.removesuffix(".npy"), *data, options):
            print({key: row[key] for key in list(row)[4:]}, flush=True)
            table.append(row)
    command = {"command": options.command}
    write_measurements(options.output, [{**row, **command} for row in table])
    plot(table, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
