"""Adaptive retrieval: shortlists with reranks, funnels, shortlist lengths, a tuned plan."""

from __future__ import annotations

import numpy as np
import tqdm

from mrl_keras.evaluation import adaptive_grid, line_panels, plan_retrieval_table
from mrl_keras.evaluation.retrieval_tables import shortlist_lengths
from mrl_keras.retrieval import (
    NestedIndex,
    SearchPlan,
    labels_at,
    mflops_per_query,
    tune,
)
from mrl_keras.retrieval.ranking import average_precision
from reporting import claims
from reporting.measured import Measured
from reporting.pages import Figure, Table, record

SHORTLIST = 200
LENGTHS = (100, 200, 400, 800, 1600)
TOLERANCE = 0.001


def plan_tables(study, rows, ks) -> dict[str, dict[SearchPlan, dict[str, Measured]]]:
    """{"grid" | "funnels" | "lengths": {plan: {metric: `Measured` over MRL's seeds}}}."""
    k = max(ks)
    groups = {
        "grid": adaptive_grid(study.dims, min(SHORTLIST, rows), k),
        "funnels": _funnels(study.dims, rows, k),
        "lengths": _lengths(study.dims, rows, k),
    }
    plans = list(dict.fromkeys(plan for group in groups.values() for plan in group))
    found = {}
    runs = study.of("MRL").items()
    for seed, run in tqdm.tqdm(runs, desc="Plans", unit="run"):
        arrays = study.of_test(run)

        def compute(arrays=arrays):
            table = plan_retrieval_table(
                arrays["test"], arrays["labels"].astype("int64"), arrays["train"],
                arrays["train_labels"].astype("int64"), plans, ks,
            )  # fmt: skip
            names = list(next(iter(table.values())))
            return {name: np.array([table[plan][name] for plan in plans]) for name in names}

        key = {"plans": [repr(plan) for plan in plans]}
        for name, values in study.values("plans", run, key, compute).items():
            for plan, value in zip(plans, values.tolist(), strict=True):
                found.setdefault(plan, {}).setdefault(name, {})[seed] = value
    measured = {p: {n: Measured(v) for n, v in by.items()} for p, by in found.items()}
    return {name: {plan: measured[plan] for plan in group} for name, group in groups.items()}


def _funnels(dims, rows, k):
    """The paper's form at each D_s: through the dims above it, shortlists halving."""
    sizes = [size for size in (200, 400, 800) if k <= size <= rows]
    starts = [dim for dim in dims if len(dims) - dims.index(dim) > 2]
    return [
        SearchPlan.funnel(dims[dims.index(start) :], size, k) for start in starts for size in sizes
    ]


def _lengths(dims, rows, k):
    lengths = [length for length in LENGTHS if k <= length <= rows]
    low = [dim for dim in (dims[0], dims[len(dims) // 2]) if dim < dims.width]
    return [plan for dim in low for plan in shortlist_lengths(dim, dims.width, lengths, k)]


def plan_parts(study, plans, exact, ks):
    """The tables of `plan_tables`, beside `exact_tables`, and the figure."""
    width, rows = study.dims.width, len(study.of_test(study.runs[0])["train_labels"])
    titles = {
        "grid": (
            "Adaptive retrieval: D_s and D_r (Tables 11, 12)",
            "A short prefix finds the shortlist, a longer one orders it: most of the gain of the "
            "long prefix at about the cost of the short one.",
        ),
        "funnels": (
            "Funnels (Tables 13, 14)",
            "The shortlist shrinks by half while the dims grow.",
        ),
        "lengths": (
            "Shortlist lengths (Tables 30, 31)",
            "How long a shortlist must be for the rerank to reach the full width.",
        ),
    }
    full = {name: exact[name]["MRL"][width] for name in exact}
    for name, group in plans.items():
        if group:
            yield _plan_table(name, *titles[name], group, full, ks, (width, rows))
    yield _plan_figure(study, plans, exact, ks)


def _plan_table(name, title, says, group, full, ks, size):
    width, rows = size
    metrics = ["top-1", *(f"{kind}@{k}" for k in ks for kind in ("mAP", "P"))]
    whole = mflops_per_query(rows, SearchPlan((width,)))
    lines = [[f"exact, {width} dims", f"{whole:.3f}", *(full[m].text() for m in metrics)]]
    records = [
        {"plan": f"exact {width}", "MFLOPs": whole, "metric": m} | record(full[m]) for m in metrics
    ]
    for plan, found in group.items():
        shown = " → ".join(
            [
                f"{plan.dims[0]}",
                *(f"{n}×{d}" for n, d in zip(plan.sizes, plan.dims[1:], strict=True)),
            ]
        )
        cost = found["MFLOPs"].mean
        lines.append([shown, f"{cost:.3f}", *(found[m].text() for m in metrics)])
        for m in metrics:
            records.append({"plan": shown, "MFLOPs": cost, "metric": m} | record(found[m]))
    says += " “8 → 200×64” finds 200 rows by 8 dims and orders them by 64. MRL, percent."
    return Table(name, title, says, ["plan", "MFLOPs", *metrics], lines, records)


def _plan_figure(study, plans, exact, ks):
    top, rows = f"mAP@{ks[0]}", len(study.of_test(study.runs[0])["train_labels"])
    lines = {
        f"exact, {system}": [
            (mflops_per_query(rows, SearchPlan((dim,))), 100 * v.mean, 100 * v.spread)
            for dim, v in exact[top][system].items()
            if dim in study.dims
        ]
        for system in exact[top]
    }
    names = {"grid": f"shortlist of {min(SHORTLIST, rows)}, rerank", "funnels": "funnels"}
    for name, shown in names.items():
        chosen = {plan: v for plan, v in plans[name].items() if plan.dims[-1] == study.dims.width}
        if chosen:
            lines[f"MRL, {shown} by {study.dims.width} dims"] = [
                (v["MFLOPs"].mean, 100 * v[top].mean, 100 * v[top].spread) for v in chosen.values()
            ]

    def draw(path):
        line_panels(path, {"": lines}, "MFLOPs for each query", f"{top} (%)", log_base=10)

    return Figure(
        "plans_figure", f"{top} against cost (Figure 8)",
        "Shortlist and rerank keep the full width's ranking at the cost of a short prefix: their "
        "points lie left of exact search at equal height.", "grid", draw,
    )  # fmt: skip


def tuned(study):
    """A plan chosen by `tune` on one half of the queries, judged on the other half."""
    chosen, full, ratio, shown = {}, {}, {}, {}
    runs = study.of("MRL").items()
    for seed, run in tqdm.tqdm(runs, desc="Tuning of plans", unit="run"):
        arrays = study.of_test(run)

        def compute(arrays=arrays):
            half = len(arrays["test"]) // 2
            labels = arrays["train_labels"].astype("int64")
            index = NestedIndex.build(arrays["train"], study.dims)
            found = tune(
                index, arrays["test"][:half], labels=(arrays["labels"][:half], labels),
                tolerance=TOLERANCE,
            )  # fmt: skip
            wanted = arrays["labels"][half:]

            def judged(plan):
                rows = index.search(arrays["test"][half:], plan).positions
                return average_precision(labels_at(rows, labels) == wanted[:, None], 10)

            plan = found.best
            return {
                "values": [judged(plan), judged(SearchPlan((index.width,)))],
                "costs": [found.chosen.mflops, found.full_width.mflops],
                "dims": plan.dims, "sizes": np.array(plan.sizes, int),
            }  # fmt: skip

        found = study.values("tuned", run, {"tolerance": TOLERANCE}, compute)
        chosen[seed], full[seed] = found["values"]
        ratio[seed] = float(found["costs"][0] / found["costs"][1])
        shown[seed] = [found["dims"].tolist(), found["sizes"].tolist(), *found["costs"].tolist()]
    header = ["seed", "dims", "sizes", "MFLOPs", "full width's", "mAP@10", "full width's"]
    table, records = [], []
    for seed, (dims, sizes, cost, whole) in shown.items():
        stages, kept = " → ".join(map(str, dims)), " → ".join(map(str, sizes))
        values = [f"{100 * v[seed].mean():.2f}" for v in (chosen, full)]
        table.append([seed, stages, kept, f"{cost:.3f}", f"{whole:.3f}", *values])
        records.append(
            {"seed": seed, "dims": stages, "sizes": kept, "MFLOPs": cost, "full_MFLOPs": whole,
             "mAP@10": chosen[seed].mean(), "full_mAP@10": full[seed].mean()}
        )  # fmt: skip
    part = Table(
        "tuned", "The cheapest plan within a tenth of a point",
        "`tune` chose the plan on the first half of the queries; both are judged on the other "
        "half.", header, table, records,
    )  # fmt: skip
    return part, claims.fraction_of_the_cost(
        "Shortlist and rerank equal the full width with a fraction of the MFLOPs (mAP@10, plan "
        "chosen on other queries)",
        Measured.of_examples(chosen), Measured.of_examples(full), Measured(ratio),
    )  # fmt: skip
