"""Retrieval of training images: exact, adaptive, funnels, shortlist lengths, corrupted queries."""

from __future__ import annotations

import numpy as np
import tqdm

from mrl_keras.evaluation.retrieval.tables import PAPER_KS
from mrl_keras.retrieval import (
    SearchPlan,
    exact_search,
    mflops_per_query,
    ranking_metrics,
)
from mrl_keras.retrieval.metrics import average_precision
from recipes.report.pages.plans import plan_parts, plan_tables, tuned
from recipes.report.parts import claims
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, Table, dims_figure, dims_table

SEVERITY = 3
EACH = "each query's AP"


def page(study) -> Page:
    rows = len(study.of_test(study.runs[0])["train_labels"])
    exact = exact_tables(study)
    plans = plan_tables(study, rows, _ks(rows))
    parts = list(_exact_parts(study, exact, rows))
    parts += plan_parts(study, plans, _ks(rows))
    verdicts, left_out = _exact_verdicts(exact), []
    if study.options.tuning and rows >= 2 * max(_ks(rows)):
        part, verdict = tuned(study)
        parts.append(part)
        verdicts.append(verdict)
    else:
        left_out.append("the tuned plan wants more training images, and --tuning.")
    outside = _outside(study)
    if outside is None:
        left_out.append("corrupted queries want a data set in memory (`data.in_memory`).")
    else:
        parts += outside[0]
        verdicts += outside[1]
    return Page(
        "retrieval",
        "Retrieval (Tables 8 to 14, 30, 31; Figure 8)",
        f"Test images are queries, the {rows:,} training images the database; a row is relevant "
        "if its class is the query's; cosine of prefixes. mAP@k is divided by k, as in the "
        "paper's code. Plans (shortlists, funnels) are measured on the first "
        f"{study.options.plan_queries:,} of the queries. MFLOPs are multiply-adds for each query, "
        "counted as the paper counts. The paper's counts (ImageNet-1K, 1,281,167 rows): 2,624 for "
        "2048 dims; 20.91 for a shortlist of 200 by 16 dims reranked by 2048; 20.54 for the funnel "
        "from 16 dims, 128 times less than the full width.",
        parts,
        verdicts,
        left_out,
    )


def _ks(rows):
    return [k for k in PAPER_KS if k <= rows] or [min(rows, PAPER_KS[0])]


def exact_tables(study) -> dict[str, dict[str, dict[int, Measured]]]:
    """{metric: {system: {dim: `Measured`}}} of exact search, at all measured dims.

    `EACH` is mAP at the smallest k with each query's value.
    """
    found = {}
    for run in study.runs:
        if run.method not in study.systems():
            continue
        neighbours, labels = study.neighbours(run), study.of_test(run)["labels"]
        ks = _ks(neighbours.shape[-1])

        def compute(neighbours=neighbours, labels=labels, ks=ks):
            rows = [ranking_metrics(one, labels, ks) for one in neighbours]
            each = [average_precision(one == labels[:, None], ks[0]) for one in neighbours]
            found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
            return {**found, EACH: np.array(each)}

        table = study.values("ranking", run, {"dims": list(study.dims_of(run)), "ks": ks}, compute)
        for name, values in table.items():
            for dim, value in zip(study.dims_of(run), values, strict=True):
                by_dim = found.setdefault(name, {}).setdefault(run.method, {})
                by_dim.setdefault(dim, {})[run.seed] = value
    return {
        name: {
            system: {
                dim: Measured.of_examples(by_dim[dim]) if name == EACH else Measured(by_dim[dim])
                for dim in sorted(by_dim)
            }
            for system, by_dim in systems.items()
        }
        for name, systems in found.items()
    }


def _exact_parts(study, exact, rows):
    top = f"mAP@{_ks(rows)[0]}"
    for metric, columns in exact.items():
        if metric.startswith(("mAP", "P@")):
            yield dims_table(
                f"exact_{metric.replace('@', '_')}", f"{metric} of exact search (Tables 8, 9, 10)",
                f"{metric} (%) of exact search with each prefix alone; ~ marks interpolated dims.",
                columns, study.dims,
            )  # fmt: skip
    costs = {d: mflops_per_query(rows, SearchPlan((d,))) for d in study.dims}
    yield Table(
        "exact_cost", "MFLOPs of exact search",
        "What a query costs with each prefix: multiply-adds with every row.",
        ["dims", "MFLOPs"], [[d, f"{cost:.3f}"] for d, cost in costs.items()],
        [{"dims": d, "MFLOPs": cost} for d, cost in costs.items()],
    )  # fmt: skip
    yield dims_figure(
        "exact_figure", f"{top} of exact search over the dims",
        "How well each prefix ranks the database by itself, beside models trained at one dim.",
        f"exact_{top.replace('@', '_')}", {"exact search": exact[top]}, study.dims, f"{top} (%)",
    )  # fmt: skip


def _outside(study):
    """Corrupted queries against the clean database (Table 9's question)."""
    if study.images() is None:
        return None
    found = {}
    runs = [run for run in study.runs if run.method in study.systems()]
    for run in tqdm.tqdm(runs, desc="Corrupted queries", unit="run"):
        arrays = study.of_test(run)

        def compute(run=run, arrays=arrays):
            queries = study.of_corrupted(run)["embeddings"][:, SEVERITY - 1]
            labels = np.tile(arrays["labels"][: queries.shape[1]], len(queries))
            flat = queries.reshape(-1, queries.shape[-1])
            nearest = exact_search(flat, arrays["train"], run.dims, k=_outside_k(arrays))
            found = arrays["train_labels"][nearest.indices] == labels[:, None]
            return {"values": [average_precision(one, _outside_k(arrays)) for one in found]}

        key = {"severity": SEVERITY, "count": study.options.corruption_examples}
        values = study.values("outside", run, key, compute)["values"]
        for dim, value in zip(run.dims, values, strict=True):
            by_dim = found.setdefault(run.method, {}).setdefault(dim, {})
            by_dim[run.seed] = value
    k = _outside_k(study.of_test(runs[0]))
    columns = {
        system: {dim: Measured.of_examples(v) for dim, v in sorted(by_dim.items())}
        for system, by_dim in found.items()
    }
    says = (
        f"mAP@{k} (%) of exact search when queries are corrupted (all kinds, severity "
        f"{SEVERITY}) and the database is clean: queries of another domain."
    )
    parts = [
        dims_table("outside", "Queries of another domain (Table 9)", says, columns, study.dims),
        dims_figure(
            "outside_figure", f"mAP@{k} of corrupted queries over the dims", says, "outside",
            {"corrupted queries": columns}, study.dims, f"mAP@{k} (%)",
        ),
    ]  # fmt: skip
    if "FF" not in columns:
        return parts, []
    verdict = claims.at_least_as_accurate(
        "MRL retrieves at least as well as FF for queries of another domain, within the noise",
        columns["MRL"], columns["FF"],
    )  # fmt: skip
    return parts, [verdict]


def _outside_k(arrays):
    return min(10, len(arrays["train_labels"]))


def _exact_verdicts(exact):
    metric = next(name for name in exact if name.startswith("mAP"))
    if "FF" not in exact[EACH]:
        return []
    return [
        claims.at_least_as_accurate(
            f"MRL retrieves at least as well as FF at every dim, within the noise ({metric})",
            exact[EACH]["MRL"],
            exact[EACH]["FF"],
        )
    ]
