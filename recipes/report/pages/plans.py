"""Adaptive retrieval: shortlists with reranks, funnels, shortlist lengths, a tuned plan."""

from __future__ import annotations

import dataclasses

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.evaluation import (
    PanelStyle,
    adaptive_grid,
    line_panels,
    plan_retrieval_table,
    shortlist_lengths,
)
from mrl_keras.retrieval import NestedIndex, SearchPlan, TuningOptions, labels_at, tune
from mrl_keras.retrieval.metrics import average_precision
from recipes.report.parts import claims
from recipes.report.parts.cache import call_content
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Figure, Table, record
from recipes.report.parts.paper import SETTING, paper_table

SHORTLIST = 200
LENGTHS = (100, 200, 400, 800, 1600)
TOLERANCE = 0.001


def plan_tables(study, sources, rows, ks) -> dict[str, dict[SearchPlan, dict[str, Measured]]]:
    """{"exact" | "grid" | "funnels" | "lengths": {plan: {metric: `Measured` over the seeds}}}.

    Args:
        study: `Study`.
        sources: `Source`s of one system, with queries and database.
        rows: int, of the database.
        ks: ints, the lengths of the answers that are judged.
    """
    k = max(ks)
    groups = {
        "exact": [SearchPlan((dim,), k=k) for dim in study.dims],
        "grid": adaptive_grid(study.dims, min(SHORTLIST, rows), k),
        "funnels": _funnels(study.dims, rows, k),
        "lengths": _lengths(study.dims, rows, k),
    }
    plans = list(dict.fromkeys(plan for group in groups.values() for plan in group))
    most, found = study.options.plan_queries, {}
    content = [dataclasses.asdict(plan) for plan in plans]
    key = call_content(plan_retrieval_table, plans=content, ks=ks, queries=most)
    for source in tqdm(sources, desc="Plans", unit="run"):

        def compute(source=source):
            queries, labels, rows, row_labels = _arrays(source)
            table = plan_retrieval_table(queries[:most], labels[:most], rows, row_labels, plans, ks)
            names = list(next(iter(table.values())))
            return {name: np.array([table[plan][name] for plan in plans]) for name in names}

        for name, values in study.arrays(source, key, compute).items():
            for plan, value in zip(plans, values.tolist(), strict=True):
                found.setdefault(plan, {}).setdefault(name, {})[source.seed] = value
    measured = {p: {n: Measured(v) for n, v in by.items()} for p, by in found.items()}
    return {name: {plan: measured[plan] for plan in group} for name, group in groups.items()}


def _arrays(source):
    outputs = source.outputs()
    names = ("embeddings", "labels", "train_embeddings", "train_labels")
    return (outputs[name] for name in names)


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


PAPER = {
    "": {"grid": 11, "funnels": 13, "lengths": 30, "setting": SETTING},
    "novel_": {"grid": 12, "funnels": 14, "lengths": 31,
               "setting": "ResNet50, ImageNet-4K, 4.2 million rows"},
}  # fmt: skip
COLUMNS = {
    "grid": {"D_s": "Ds", "D_r": "Dr"},
    "funnels": {"D_s": "Ds", "D_r": "rerank_cascade", "shortlists": "shortlist_cascade"},
    "lengths": {"shortlist, 16 → 2048": "k"},
}


def plan_parts(study, plans, ks, prefix=""):
    """The tables of `plan_tables`, and the figure; their names begin with `prefix`."""
    titles = {
        "grid": (
            "Adaptive retrieval: D_s and D_r (Tables 11, 12)",
            "A short prefix (D_s) finds the shortlist, a longer one (D_r) orders it.",
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
    full = dict([list(plans["exact"].items())[-1]])
    for name, (title, says) in titles.items():
        if plans[name]:
            paper = paper_table(
                PAPER[prefix][name],
                COLUMNS[name]
                | ({} if name == "lengths" else {"MFLOPs": "mflops"})
                | {"top1": "top1", "mAP@10": "map10", "P@10": "p10"},
                PAPER[prefix]["setting"],
            )
            yield _plan_table(f"{prefix}{name}", title, says, full | plans[name], ks, paper)
    yield _plan_figure(study, plans, ks, prefix)


def _plan_table(name, title, says, group, ks, paper):
    metrics = ["top1", *(f"{kind}@{k}" for k in ks for kind in ("mAP", "P"))]
    lines, records = [], []
    for plan, found in group.items():
        stages = zip(plan.sizes, plan.dims[1:], strict=True)
        shown = " → ".join([f"{plan.dims[0]}", *(f"{n}×{d}" for n, d in stages)])
        shown = shown if plan.sizes else f"exact, {plan.dims[0]} dims"
        cost = found["MFLOPs"].mean
        lines.append([shown, f"{cost:.3f}", *(found[m].text() for m in metrics)])
        for m in metrics:
            records.append({"plan": shown, "MFLOPs": cost, "metric": m} | record(found[m]))
    says += " “8 → 200×64” finds 200 rows by 8 dims and orders them by 64. MRL, percent."
    return Table(name, title, says, ["plan", "MFLOPs", *metrics], lines, records, paper)


def _plan_figure(study, plans, ks, prefix):
    top, width = f"mAP@{ks[0]}", study.dims.width
    names = {
        "exact": "exact search with each prefix",
        "grid": f"a shortlist by each prefix, reranked by {width} dims",
        "funnels": f"funnels from each prefix to {width} dims",
    }
    lines = {
        shown: [
            (v["MFLOPs"].mean, 100 * v[top].mean, 100 * v[top].spread)
            for plan, v in plans[name].items()
            if name == "exact" or (plan.dims[-1] == width and plan.sizes[0] == _shortest(plans))
        ]
        for name, shown in names.items()
    }
    lines = {name: line for name, line in lines.items() if line}

    def draw(path):
        style = PanelStyle(log_base=10)
        line_panels(path, {"": lines}, "MFLOPs for each query", f"{top} (%)", style)

    return Figure(
        f"{prefix}plans_figure", f"{top} against cost (Figure 8)",
        "A point left of exact search's line at equal height ranks as well at a lower cost.",
        f"{prefix}grid", draw,
    )  # fmt: skip


def _shortest(plans):
    """The shortlist of the grid, which the figure draws the funnels of too."""
    return next(iter(plans["grid"])).sizes[0]


def tuned(study, sources, prefix="", queries="test images"):
    """A plan chosen by `tune` on one half of the queries, judged on the other half."""
    chosen, full, ratio, shown = {}, {}, {}, {}
    options, most = TuningOptions(tolerance=TOLERANCE), study.options.plan_queries
    key = call_content(tune, tolerance=TOLERANCE, queries=most)
    for source in tqdm(sources, desc="Tuning of plans", unit="run"):

        def compute(source=source):
            queries, labels, rows, row_labels = _arrays(source)
            half = len(queries) // 2
            learn, judge = slice(min(most, half)), slice(half, half + most)
            index = NestedIndex.build(rows, study.dims)
            found = tune(index, queries[learn], labels=(labels[learn], row_labels), options=options)

            def judged(plan):
                indices = index.search(queries[judge], plan).indices
                relevance = labels_at(indices, row_labels) == labels[judge][:, None]
                return average_precision(relevance, 10)

            plan = found.best
            return {
                "values": [judged(plan), judged(SearchPlan((index.width,)))],
                "costs": [found.chosen.mflops, found.full_width.mflops],
                "dims": plan.dims, "sizes": np.array(plan.sizes, int),
            }  # fmt: skip

        seed, found = source.seed, study.arrays(source, key, compute)
        chosen[seed], full[seed] = found["values"]
        ratio[seed] = float(found["costs"][0] / found["costs"][1])
        shown[seed] = [found["dims"].tolist(), found["sizes"].tolist(), *found["costs"].tolist()]
    header = ["seed", "dims", "sizes", "MFLOPs", "of full width", "mAP@10", "mAP@10 of full width"]
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
        f"{prefix}tuned", "The cheapest plan within a tenth of a point",
        f"`tune` chose the plan on at most {study.options.plan_queries:,} {queries} of one half; "
        "it and exact search are judged on as many of the other half.", header, table, records,
    )  # fmt: skip
    return part, claims.fraction_of_the_cost(
        "Shortlist and rerank equal the full width with a fraction of the MFLOPs (mAP@10, plan "
        "chosen on other queries)",
        Measured.of_examples(chosen), Measured.of_examples(full), Measured(ratio),
    )  # fmt: skip
