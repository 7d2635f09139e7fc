"""Nested retrieval beside exact search at the full width: accuracy, cost, time."""

from mrl_keras.retrieval import (
    NestedIndex,
    SearchPlan,
    labels_at,
    mean_average_precision,
    mflops_per_query,
)
from recipes.common.timing import interleaved_medians


def compare_retrieval(index, plan, queries, row_labels, query_labels):
    """Compares exact search at the full width with shortlist and rerank, exact and by ScaNN.

    Args:
        index: `NestedIndex` with a ScaNN shortlist at the plan's first dim.
        plan: `SearchPlan` with a rerank at the full width.
        queries: (queries, d).
        row_labels, query_labels: ints (rows,) and (queries,); a row is relevant to a query of
            its label.

    Returns:
        A dict for each system: `system`, `mAP@10`, `MFLOPs` and `us_per_query`, the median
        microseconds of a search of all queries at once, divided by their number.
    """
    width = index.width
    exact = SearchPlan((width,), k=plan.k)
    exact_shortlist = NestedIndex(
        index.nesting_dims, index.blocks, index.inverse_norms, index.ids, index.metric
    )
    leaves = index.shortlist.parameters
    scann = SearchPlan(plan.dims, plan.sizes, plan.k, leaves.leaves_to_search)
    shown = f"{plan.shortlist_dim} dims, {plan.shortlist_size} rows, rerank {width}"
    systems = {
        f"exact, {width} dims": (exact_shortlist, exact),
        f"exact shortlist {shown}": (exact_shortlist, plan),
        f"ScaNN shortlist {shown}": (index, scann),
    }
    calls = {
        name: lambda s=searcher, p=plan: s.search(queries, p)
        for name, (searcher, plan) in systems.items()
    }
    seconds = interleaved_medians(calls, repeats=9, warm_up=1)
    rows = []
    for name, (_, plan) in systems.items():
        relevance = labels_at(calls[name]().indices, row_labels) == query_labels[:, None]
        rows.append(
            {
                "system": name,
                "mAP@10": mean_average_precision(relevance, 10),
                "MFLOPs": mflops_per_query(len(index), plan, leaves.num_leaves),
                "us_per_query": 1e6 * seconds[name] / len(queries),
            }
        )
    return rows


def retrieval_text(rows):
    """The rows of `compare_retrieval` as a table."""
    width = max(len(row["system"]) for row in rows)
    lines = [f"{'system':{width}} {'mAP@10':>8} {'MFLOPs':>8} {'us/query':>9}"]
    for row in rows:
        lines.append(
            f"{row['system']:{width}} {100 * row['mAP@10']:8.2f} {row['MFLOPs']:8.4f} "
            f"{row['us_per_query']:9.1f}"
        )
    return "\n".join(lines)
