"""Retrieval of training images: exact, adaptive, funnels, shortlist lengths, corrupted queries."""

from __future__ import annotations

import numpy as np

from mrl_keras.data.image.corruptions import CORRUPTIONS
from mrl_keras.evaluation import Outputs, RetrievalEvaluator
from mrl_keras.evaluation.retrieval.tables import PAPER_KS
from mrl_keras.retrieval import SearchPlan, mflops_per_query
from recipes.report.pages.plans import plan_parts, plan_tables, tuned
from recipes.report.parts import claims
from recipes.report.parts.page import Page, Table, dims_figure, dims_table
from recipes.report.parts.paper import SETTING, paper_table
from recipes.report.parts.study import SEVERITIES, Source

SEVERITY = 3


def page(study) -> Page:
    rows = len(study.first["train_labels"])
    ks = lengths_of(rows)
    exact = exact_search(study, ks)
    parts = [
        *exact_parts(study, exact, rows, f"mAP@{ks[0]}"),
        *plan_parts(study, plan_tables(study, study.sources("MRL"), rows, ks), ks),
    ]
    claim = "MRL retrieves at least as well as FF at every dim, within the noise "
    verdicts = claims.mrl_against_ff(f"{claim}(mAP@{ks[0]})", exact[f"mAP@{ks[0]}"])
    left_out = []
    if study.options.tuning and rows >= 2 * max(ks):
        part, verdict = tuned(study, study.sources("MRL"))
        parts.append(part)
        verdicts.append(verdict)
    else:
        left_out.append("the tuned plan wants more training images, and --tuning.")
    if study.task.test_images() is None:
        left_out.append("corrupted queries want a data set in memory (`data.in_memory`).")
    else:
        more, verdict = _outside(study, min(PAPER_KS[0], rows))
        parts += more
        verdicts += verdict
    return Page(
        "retrieval",
        "Retrieval (Tables 8 to 14, 30, 31; Figure 8)",
        f"Test images are queries, the {rows:,} training images the database; a row is relevant "
        "if its class is the query's; cosine of prefixes. mAP@k is divided by k, as in the "
        "paper's code. Plans (shortlists, funnels) are measured on the first "
        f"{study.options.plan_queries:,} of the queries. MFLOPs are multiply-adds for each query, "
        "counted as the paper counts.",
        parts,
        verdicts,
        left_out,
    )


def lengths_of(rows):
    """The paper's k that a database of so many rows can answer."""
    return [k for k in PAPER_KS if k <= rows] or [min(rows, PAPER_KS[0])]


def exact_search(study, ks, sources=None):
    """{metric: {system: {dim: `Measured`}}} of exact search; `sources` as in `Study.measured`."""
    found = study.measured(RetrievalEvaluator(ks), sources)
    return {name.removeprefix("retrieval/"): systems for name, systems in found.items()}


def exact_parts(study, exact, rows, top, prefix=""):
    """Tables and a figure of `exact_search`; their names begin with `prefix`."""
    for metric, columns in exact.items():
        if metric.startswith(("mAP", "P@")):
            paper = _paper_exact(prefix, metric) if metric == top else ""
            yield dims_table(
                f"{prefix}exact_{metric.replace('@', '_')}",
                f"{metric} of exact search (Tables 8, 9, 10)",
                f"{metric} (%) of exact search with each prefix alone; ~ marks interpolated dims.",
                columns, study.dims, paper=paper,
            )  # fmt: skip
    costs = {d: mflops_per_query(rows, SearchPlan((d,))) for d in study.dims}
    yield Table(
        f"{prefix}exact_cost", "MFLOPs of exact search",
        "What a query costs with each prefix: multiply-adds with every row.",
        ["dims", "MFLOPs"], [[d, f"{cost:.3f}"] for d, cost in costs.items()],
        [{"dims": d, "MFLOPs": cost} for d, cost in costs.items()],
    )  # fmt: skip
    yield dims_figure(
        f"{prefix}exact_figure", f"{top} of exact search over the dims",
        "How well each prefix ranks the database by itself, beside models trained at one dim.",
        f"{prefix}exact_{top.replace('@', '_')}", {"exact search": exact[top]}, study.dims,
        f"{top} (%)",
    )  # fmt: skip


def _paper_exact(prefix, metric):
    """The paper's mAP or P of exact search by MRL, with its MFLOPs."""
    number, setting = (10, "ResNet50, ImageNet-4K, 4.2 million rows") if prefix else (8, SETTING)
    kind, k = metric.split("@")
    shown = {"D_s": "Ds", "MFLOPs": "mflops", f"MRL, {metric}": f"{kind.lower()}{k}"}
    return paper_table(number, shown, setting, {"model": "MRL"})


def _outside(study, k):
    """Corrupted queries against the clean database (Table 9's question)."""
    sources = [_corrupted_queries(study, run) for run in study.prefix_runs]
    columns = study.measured(RetrievalEvaluator((k,)), sources)[f"retrieval/mAP@{k}"]
    says = (
        f"mAP@{k} (%) of exact search when queries are corrupted (all kinds, severity "
        f"{SEVERITY}) and the database is clean: queries of another domain."
    )
    parts = [
        dims_table("outside", "Queries of another domain (Table 9)", says, columns, study.dims,
                   paper=paper_table(9, {"D_s": "Ds", "MRL, mAP@10": "map10"},
                                     "ResNet50, queries of ImageNet-V2", {"model": "MRL"})),
        dims_figure(
            "outside_figure", f"mAP@{k} of corrupted queries over the dims", says, "outside",
            {"corrupted queries": columns}, study.dims, f"mAP@{k} (%)",
        ),
    ]  # fmt: skip
    claim = "MRL retrieves at least as well as FF for queries of another domain, within the noise"
    return parts, claims.mrl_against_ff(claim, columns)


def _corrupted_queries(study, run):
    """The corrupted test images of one severity as queries, the training images as database."""
    corrupted = study.corrupted(run)

    def outputs():
        found, clean = corrupted.outputs(), study.outputs(run)
        order = np.arange(len(found["labels"])).reshape(len(CORRUPTIONS), len(SEVERITIES), -1)
        rows = order[:, SEVERITIES.index(SEVERITY)].reshape(-1)
        queries = {name: found[name][rows] for name in ("embeddings", "labels")}
        database = {name: clean[name] for name in ("train_embeddings", "train_labels")}
        return Outputs(run.dims, queries | database)

    return Source(run.method, run.seed, {**corrupted.key, "severity": SEVERITY}, outputs)
