"""What searches cost in practice: index size, build time and search time (Tables 19 to 21)."""

from __future__ import annotations

import time

import numpy as np

from mrl_keras.evaluation.few_shot import unit_rows
from mrl_keras.retrieval import (
    NestedIndex,
    ScannParameters,
    SearchPlan,
    index_bytes,
    labels_at,
    ranking_metrics,
)
from reporting.pages import Page, Table

K = 10
REPEATS = 5
EF_SEARCH = 32
SHORTLIST = 200


def page(study) -> Page:
    slug, title = "in_practice", "Retrieval cost in practice (Tables 19 to 21)"
    if not study.options.timing:
        return Page(slug, title, "Not measured.", left_out=["times want --timing."])
    seed, run = min(study.of("MRL").items())
    arrays = study.of_test(run)
    rows = len(arrays["train"])
    if rows < 1000:
        sentence = f"times of {rows} rows say nothing; they want at least 1,000 training images."
        return Page(slug, title, "Not measured.", left_out=[sentence])
    records, left_out = _measure(study, arrays)
    header = ["system", "dims", "MB", "build (s)", "µs a query", "mAP@10 (%)"]
    shown = [
        [r["system"], r["dims"], f"{r['megabytes']:.2f}", f"{r['build_seconds']:.2f}",
         f"{r['us_per_query']:.1f}", f"{100 * r['mAP@10']:.2f}"]
        for r in records
    ]  # fmt: skip
    table = Table(
        "in_practice", "Exact search, HNSW and ScaNN",
        "Few dims make every index smaller, faster to build and faster to search; a shortlist by a "
        "short prefix keeps the full width's ranking.", header, shown, records,
    )  # fmt: skip
    return Page(
        slug,
        title,
        f"MRL of seed {seed}: {rows:,} rows, all {len(arrays['test']):,} queries at once. The time "
        f"of a query is the median of {REPEATS} searches, taken in turns, over the number of "
        "queries; other programs may have used the same cores, so compare the systems, not the "
        f"times. HNSW is FAISS's with M = 32 and efSearch = {EF_SEARCH}; ScaNN is a nested index "
        f"whose shortlist of {SHORTLIST} rows ScaNN finds at the dims given. At larger databases: "
        "[retrieval benchmark](../retrieval-cpu/README.md).",
        [table],
        left_out=left_out,
    )


def _measure(study, arrays):
    dims, systems, left_out = study.dims, [], []
    searchers = {}
    for dim in [dim for dim in dims if dim >= 8] or [dims.width]:
        for name, made in (("exact", _exact), ("HNSW32", _hnsw), ("ScaNN shortlist", _scann)):
            if name == "ScaNN shortlist" and dim == dims.width:
                continue
            start = time.perf_counter()
            try:
                search, megabytes = made(arrays, dims, dim)
            except ImportError as error:
                left_out.append(f"{name}: {error}")
                continue
            about = {"system": name, "dims": dim, "megabytes": megabytes}
            about["build_seconds"] = time.perf_counter() - start
            systems.append(about)
            searchers[name, dim] = search
    times = {key: [] for key in searchers}
    answers = {key: search() for key, search in searchers.items()}
    for _ in range(REPEATS):
        for key, search in searchers.items():
            start = time.perf_counter()
            search()
            times[key].append(time.perf_counter() - start)
    labels = arrays["train_labels"].astype("int64")
    for about in systems:
        key = about["system"], about["dims"]
        about["us_per_query"] = 1e6 * float(np.median(times[key])) / len(arrays["test"])
        found = labels_at(answers[key], labels)
        about["mAP@10"] = ranking_metrics(found, arrays["labels"], [K])[f"mAP@{K}"]
    return systems, list(dict.fromkeys(left_out))


def _exact(arrays, dims, dim):
    index = NestedIndex.build(arrays["train"][:, :dim], [d for d in dims if d <= dim])
    plan = SearchPlan((dim,), k=K)
    search = _queries(index, arrays["test"][:, :dim], plan)
    return search, index_bytes(len(index), dim, "exact") / 1e6


def _scann(arrays, dims, dim):
    rows = len(arrays["train"])
    leaves = max(1, round(rows**0.5))
    parameters = ScannParameters(leaves, max(1, leaves // 10))
    index = NestedIndex.build(arrays["train"], dims, shortlist_dim=dim, scann=parameters)
    plan = SearchPlan.adaptive(dim, SHORTLIST, dims.width, K, parameters.leaves_to_search)
    blocks = -(-dim // parameters.dims_per_block)
    size = index_bytes(rows, dims, shortlist_blocks=blocks)
    return _queries(index, arrays["test"], plan), size / 1e6


def _queries(index, queries, plan):
    return lambda: index.search(queries, plan).positions


def _hnsw(arrays, dims, dim):
    try:
        import faiss
    except ImportError as error:
        raise ImportError('HNSW needs faiss: pip install "mrl_keras[benchmarks]"') from error
    index = faiss.IndexHNSWFlat(dim, 32)
    index.add(unit_rows(arrays["train"][:, :dim]).astype("float32"))
    index.hnsw.efSearch = EF_SEARCH
    queries = unit_rows(arrays["test"][:, :dim]).astype("float32")
    return lambda: index.search(queries, K)[1], len(faiss.serialize_index(index)) / 1e6
