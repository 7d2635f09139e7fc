"""Simulated shards on one machine, and the constants of one machine for the cost model.

    python recipes/benchmarks/sharding.py --n 1000000 --output runs/scale
    python recipes/benchmarks/sharding.py --tiny

The rows and queries are those of retrieval.py. Rows are dealt to 1, 2, 4, ... shards by the hash of
`mrl_keras.scale`, each shard has an index, and their answers are merged. Writes into the output
folder

- shards.csv: for each number of shards and each rule of the shard's plan, recall@10 (against exact
  search of all rows at full width) and mAP@10, rows reranked by a query, processor time of a query
  in all shards and of the merge, and the 50th and 99th percentile of the slowest shard of a query:
  one draw for each shard from the measured times of single queries;
- constants.csv: dims a second that one core scans (32 queries at once), seconds of a reranked row
  from memory and, with a cold page cache, from a memory map, rows a second that one core embeds.

Times are processor times of one thread, but for the cold reads, whose wait is no processor's.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np

from mrl_keras import NestingDims
from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    SearchPlan,
    exact_search,
    labels_at,
    mean_average_precision,
    merge_results,
    shard_plan,
)
from mrl_keras.retrieval.exact.threads import blas_threads
from mrl_keras.scale import ExportedEncoder, shard_of
from recipes.benchmarks.parts.nested_data import NestedData
from recipes.common.arguments import REPOSITORY, ScriptParser, without_folders
from recipes.common.machine import write_measurements

K = 10
RULES = {"whole": None, "share": 0.01}
"""The plan of a shard: the whole plan, or its share with this chance to miss a row."""


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("--n", type=int, default=1_000_000, help="rows of the database")
    add("--queries", type=int, default=1000, help="queries")
    add("--singles", type=int, default=200, help="queries that are timed alone")
    add("--width", type=int, default=2048, help="embedding width d")
    add("--classes", type=int, default=1000, help="number of classes")
    add("--shortlist_dim", type=int, default=16, help="D_s")
    add("--shortlist", type=int, default=200, help="rows of the shortlist")
    add("--shards", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="numbers of shards")
    add("--model", default=str(REPOSITORY / "saved_models" / "emoji"), help="an exported encoder")
    add("--cache", default="runs/retrieval_data", help="folder of the database file")
    tiny = {"n": 2000, "width": 64, "classes": 50, "queries": 32, "singles": 5, "repeats": 1}
    parser.add_measuring(pathlib.Path("runs/scale"), repeats=5, tiny={**tiny, "shards": [1, 3]})
    return parser.parse_args(arguments)


def build(rows, dims, of, shards):
    """An index of the rows of each shard, with the row numbers as ids."""
    options = IndexOptions(scann=None)
    numbers = [np.flatnonzero(of == shard) for shard in range(shards)]
    return [NestedIndex.build(rows[one], dims, one, options) for one in numbers]


def processor_seconds(call, *arguments):
    started = time.process_time()
    result = call(*arguments)
    return time.process_time() - started, result


def fan_out(indexes, queries, plan):
    """(scores, ids, seconds in the shards, seconds of the merge) of a batch."""
    searched, answers = processor_seconds(lambda: [one.search(queries, plan) for one in indexes])
    merged, (scores, ids) = processor_seconds(
        lambda: merge_results([a.scores for a in answers], [a.ids for a in answers], plan.k)
    )
    return scores, ids, searched, merged


def slowest(indexes, queries, plan, draws=20_000):
    """(median, 99th percentile) of the slowest shard, drawn from the shards' own times."""
    rng, latest = np.random.default_rng(0), np.zeros(draws)
    for index in indexes:
        index.search(queries[:1], plan)
        times = [processor_seconds(index.search, query[None], plan)[0] for query in queries]
        latest = np.maximum(latest, rng.choice(times, draws))
    return np.percentile(latest, [50, 99])


def measure_shards(options, rows, labels, queries, query_labels, dims):
    plan = SearchPlan.adaptive(
        shortlist_dim=options.shortlist_dim, shortlist=options.shortlist, rerank_dim=options.width
    )
    exact = exact_search(queries, rows, [options.width], K).at(options.width)[1]
    shard_hash = np.array([shard_of(row, 2**31) for row in range(len(rows))])
    for shards in options.shards:
        # A hash modulo the number of shards, as `shard_of` deals.
        indexes = build(rows, dims, shard_hash % shards, shards)
        for rule, miss in RULES.items():
            part = shard_plan(plan, shards, miss)
            _, ids, searched, merged = fan_out(indexes, queries, part)
            relevance = labels_at(ids, labels) == query_labels[:, None]
            same = [len(np.intersect1d(*pair)) for pair in zip(ids, exact, strict=True)]
            middle, late = slowest(indexes, queries[: options.singles], part)
            yield {
                "rows": len(rows),
                "width": options.width,
                "shards": shards,
                "rule": rule,
                "plan": f"{part.dims[0]}:{part.sizes[0]},{part.dims[-1]}",
                "recall@10": float(np.mean(same)) / K,
                "mAP@10": mean_average_precision(relevance, K),
                "reranked": shards * part.sizes[0],
                "microseconds_query": 1e6 * searched / len(queries),
                "microseconds_merge": 1e6 * merged / len(queries),
                "slowest_median_ms": 1e3 * middle,
                "slowest_99_ms": 1e3 * late,
                "command": without_folders(options.command),
            }
            print(f"{shards} shards, {rule}: recall {float(np.mean(same)) / K:.4f}", flush=True)
        del indexes


def measure_constants(options, rows, queries, dims):
    """What `MachineSpeed` takes, in medians."""
    folder = os.path.join(options.cache, f"index-{len(rows)}-{options.width}")
    if not os.path.isdir(folder):
        NestedIndex.build(rows, dims, options=IndexOptions(scann=None)).save(folder)
    index = NestedIndex.load(folder)
    rng, count = np.random.default_rng(0), options.shortlist
    batch = queries[:32]

    def candidates(of):
        return rng.integers(0, len(rows), (len(of), count))

    def scan():
        return index.search_exactly(batch, options.shortlist_dim, K)

    def rerank():
        found = candidates(batch)
        return processor_seconds(index.rerank, batch, found, [options.width])[0]

    def cold_rerank():
        mapped = cold(folder)
        found = candidates(batch[:1])
        started = time.perf_counter()
        mapped.rerank(batch[:1], found, [options.width])
        return time.perf_counter() - started

    repeats = range(options.repeats)
    scan(), rerank()
    scanned = np.median([processor_seconds(scan)[0] for _ in repeats])
    encoder = ExportedEncoder(options.model)
    texts = [f"words about number {number}" for number in range(4 * encoder.batch_size)]
    encoder(texts[:1])
    embedded = np.median([processor_seconds(encoder, texts)[0] for _ in repeats])
    return {
        "rows": len(rows),
        "width": options.width,
        "shortlist_dim": options.shortlist_dim,
        "scan_dims_per_second": options.shortlist_dim * len(rows) * len(batch) / scanned,
        "ram_rerank_seconds": np.median([rerank() for _ in repeats]) / (len(batch) * count),
        "disk_rerank_seconds": np.median([cold_rerank() for _ in repeats]) / count,
        "embed_rows_per_second": len(texts) / embedded,
        "encoder": os.path.basename(options.model.rstrip("/")),
        "command": without_folders(options.command),
    }


def cold(folder):
    """The index on disk, none of whose blocks is in the page cache."""
    for name in sorted(os.listdir(folder)):
        file = os.open(os.path.join(folder, name), os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    return NestedIndex.load(folder, memory_map=True)


def main(options):
    os.makedirs(options.cache, exist_ok=True)
    data = NestedData(options.width, options.classes)
    rows, labels = data.rows(options.n, options.cache)
    queries, query_labels = data.queries(options.queries)
    # Blocks of the plan alone: a rerank from disk then reads one place for each row.
    dims = NestingDims([options.shortlist_dim, options.width])
    with blas_threads(1):
        found = measure_shards(options, rows, labels, queries, query_labels, dims)
        write_measurements(options.output / "shards.csv", list(found))
        constants = measure_constants(options, rows, queries, dims)
        write_measurements(options.output / "constants.csv", [constants])
    print(f"Wrote {options.output}")


if __name__ == "__main__":
    main(parse_arguments())
