"""The cost of searches in practice: index size, build time and search time (Tables 19 to 21)."""

from __future__ import annotations

from tqdm.auto import tqdm

from mrl_keras.evaluation import retrieval_cost
from recipes.report.parts.page import Page, Table, not_measured

SHOWN = {"exact": "exact", "hnsw": "HNSW32 (FAISS)", "scann": "ScaNN"}
K, REPEATS, QUERIES, LOWEST, ROWS = 10, 3, 2_000, 8, 1_000


def page(study) -> Page:
    slug, title = "in_practice", "Retrieval cost in practice (Tables 19 to 21)"
    if not study.options.timing:
        return not_measured(slug, title, "times want --timing.")
    seed, run = min(study.of("MRL").items())
    outputs = study.outputs(run)
    database, queries = outputs["train_embeddings"], outputs["embeddings"][:QUERIES]
    rows = len(database)
    if rows < ROWS:
        wants = f"times of {rows} rows say nothing; they want at least {ROWS:,} training images."
        return not_measured(slug, title, wants)
    costs, left_out = [], []
    dims = [dim for dim in study.dims if dim >= LOWEST] or [study.dims.width]
    for system in tqdm(SHOWN, desc="Retrieval cost", unit="system"):
        try:
            costs += retrieval_cost(queries, database, dims, [system], K, REPEATS)
        except ImportError as error:
            left_out.append(f"{SHOWN[system]}: {error}")
    header = ["system", "dims", "MB", "build (s)", "µs a query", f"recall@{K} (%)"]
    shown, records = [], []
    for cost in costs:
        shown.append(
            [SHOWN[cost.system], cost.dim, f"{cost.index_bytes / 1e6:.2f}",
             f"{cost.build_seconds:.3f}", f"{cost.microseconds_per_query:.1f}",
             f"{100 * cost.recall:.2f}"]
        )  # fmt: skip
        records.append(
            {"system": cost.system, "dims": cost.dim, "index_bytes": cost.index_bytes,
             "build_seconds": cost.build_seconds, "us_per_query": cost.microseconds_per_query,
             "recall": cost.recall}
        )  # fmt: skip
    table = Table(
        "in_practice", "Exact search, HNSW and ScaNN",
        "Size, build time and search time of an index over each prefix; recall is against exact "
        "search with the same prefix.", header, shown, records,
    )  # fmt: skip
    return Page(
        slug,
        title,
        f"MRL of seed {seed}: {rows:,} rows, {len(queries):,} queries in one batch, each prefix "
        f"an index of its own; medians of {REPEATS}. Other programs may have used the same cores: "
        "times are upper bounds. Below some ten thousand rows exact search is as fast as an "
        "index; [larger databases](../retrieval-cpu/README.md) are measured by "
        "`recipes/benchmarks/retrieval.py`.",
        [table],
        left_out=left_out,
    )
