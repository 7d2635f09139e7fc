"""Search plans on judged documents: tuned on some queries, judged on others, with their times."""

from __future__ import annotations

import dataclasses

import numpy as np

from mrl_keras.evaluation.retrieval.graded import gains_at, ndcg_of_queries
from mrl_keras.retrieval import (
    NestedIndex,
    SearchPlan,
    TuningOptions,
    TuningSpace,
    mflops_per_query,
    tune,
)
from mrl_keras.retrieval.exact.threads import available_cores
from recipes.common.timing import interleaved_times
from recipes.report.parts import claims
from recipes.report.parts.cache import call_content
from recipes.report.parts.measured import Measured
from recipes.report.parts.page import Page, Table, record
from recipes.report.text.study import FIRST, JUDGE, LEARN, index_dims

K, TOLERANCE, ROUNDS = 10, 0.01, 9
FULL, TUNED, ADAPTIVE, FUNNEL = "full width", "tuned", "shortlist and rerank", "funnel"


@dataclasses.dataclass(frozen=True)
class JudgedPlan:
    """A plan on the judging queries.

    Args:
        kind: str, one of the names above.
        plan: `SearchPlan`.
        mflops: float, the paper's count.
        ndcg, recall: `Measured` over the queries.
        faster: float64 (rounds,), full width's processor time over the plan's, in the same
            round.
    """

    kind: str
    plan: SearchPlan
    mflops: float
    ndcg: Measured
    recall: Measured
    faster: np.ndarray


def page(study) -> Page:
    systems = [(encoder, FIRST) for encoder in study.encoders]
    systems += [(study.plain, "PCA")] if study.plain else []
    header = ["encoder", "plan", "rows and dims", "nDCG@10", "recall@10", "MFLOPs",
              "times as fast (least to most)"]  # fmt: skip
    rows, records, verdicts = [], [], []
    for encoder, system in systems:
        name = f"{encoder.name}, {system}"
        found = judged_plans(study, encoder, system)
        full = found[0]
        for one in found:
            shown = plan_text(one.plan)
            speed = (
                f"{np.median(one.faster):.2f} ({one.faster.min():.2f} to {one.faster.max():.2f})"
            )
            rows.append([name, one.kind, shown, one.ndcg.text(), one.recall.text(),
                         f"{one.mflops:.3f}", "1" if one is full else speed])  # fmt: skip
            records.append(
                {"encoder": encoder.name, "system": system, "kind": one.kind, "plan": shown,
                 "MFLOPs": one.mflops, "recall@10": one.recall.mean,
                 "times_as_fast": np.median(one.faster), "least": one.faster.min(),
                 "most": one.faster.max()} | record(one.ndcg)
            )  # fmt: skip
        for one in found[1:]:
            if one.kind in (TUNED, FUNNEL):
                verdicts.append(
                    claims.fraction_of_the_cost(
                        f"{_CLAIMS[one.kind]} ({name}, nDCG@10)",
                        one.ndcg,
                        full.ndcg,
                        Measured({0: one.mflops / full.mflops}),
                    )
                )
    table = Table(
        "plans", "Plans against full width",
        "“32 → 200×256” finds 200 rows by 32 dims and orders them by 256. Times are those of one "
        "search of all judging queries by `NestedIndex` in this process, in turns, "
        f"{ROUNDS} rounds: the median of full width's processor time over the plan's in the same "
        "round.",
        header, rows, records,
    )  # fmt: skip
    return Page(
        "plans",
        "Tuned plans and funnels",
        f"`tune` chose each tuned plan on the {len(study.texts.queries[LEARN]):,} other queries: "
        f"the fewest MFLOPs that surely lose at most {100 * TOLERANCE:.0f} point of recall@{K} "
        "there. All plans are judged on the judging queries. MFLOPs are multiply-adds, counted as "
        "the paper counts. A small database favours full width: a call's own cost is a large part "
        "of each time. Speed is to be judged on a larger one (`--rows`).",
        [table],
        verdicts,
    )


_CLAIMS = {
    TUNED: "A shortlist and rerank tuned on other queries equals the full width with a fraction "
    "of the MFLOPs",
    FUNNEL: "The paper's funnel equals the full width with a fraction of the MFLOPs",
}


def judged_plans(study, encoder, system) -> list[JudgedPlan]:
    """`JudgedPlan`s of one encoder, full width first, cached with their times."""
    how = {"system": system, "cores": available_cores()}
    how |= call_content(_judged_plans, k=K, tolerance=TOLERANCE, rounds=ROUNDS)
    found = study.cache.values(
        {**study.key(encoder), **how}, lambda: list(_judged_plans(study, encoder, system))
    )
    return [
        JudgedPlan(
            one["kind"], SearchPlan(one["dims"], one["sizes"], K), one["mflops"],
            Measured.of_examples({0: one["ndcg"]}), Measured.of_examples({0: one["recall"]}),
            np.array(one["faster"]),
        )
        for one in found
    ]  # fmt: skip


def _judged_plans(study, encoder, system):
    """What `judged_plans` keeps, dicts that JSON can hold."""
    arrays, dims = study.reduced(encoder, system), index_dims(encoder.width)
    index = NestedIndex.build(arrays["documents"], dims)
    shortlist, start = min(200, len(index)), dims[min(1, len(dims) - 2)]
    plans = {
        FULL: SearchPlan((encoder.width,), k=K),
        TUNED: _tuned(index, arrays[LEARN], study.texts.gains(LEARN)),
        ADAPTIVE: SearchPlan((start, encoder.width), (shortlist,), K),
        FUNNEL: SearchPlan.funnel(dims[dims.index(start) :], shortlist, K),
    }
    queries, gains = arrays[JUDGE], study.texts.gains(JUDGE)
    calls = {kind: lambda plan=plan: index.search(queries, plan) for kind, plan in plans.items()}
    times = interleaved_times(calls, ROUNDS)
    some, judged = [bool(gain) for gain in gains], [gain for gain in gains if gain]
    for kind, plan in plans.items():
        indices = calls[kind]().indices[some]
        hits = (gains_at(indices, judged) > 0).sum(axis=1)
        yield {
            "kind": kind,
            "dims": plan.dims,
            "sizes": plan.sizes,
            "mflops": mflops_per_query(len(index), plan),
            "ndcg": ndcg_of_queries(indices, judged, K).tolist(),
            "recall": (hits / [len(gain) for gain in judged]).tolist(),
            "faster": (times[FULL][:, 1] / times[kind][:, 1]).tolist(),
        }


def _tuned(index, queries, gains):
    """The cheapest plan that surely keeps recall on these queries."""
    sizes = [size for size in (25, 50, 100, 200, 400, 800) if size < len(index)]
    options = TuningOptions(f"recall@{K}", tolerance=TOLERANCE, space=TuningSpace(shortlists=sizes))
    return tune(index, queries, [list(gain) for gain in gains], options=options).best


def plan_text(plan) -> str:
    """Such as "32 → 200×256", with the leaves of a ScaNN tree where the plan names them."""
    if not plan.sizes:
        return f"exact, {plan.dims[0]} dims"
    stages = zip(plan.sizes, plan.dims[1:], strict=True)
    shown = " → ".join([f"{plan.dims[0]}", *(f"{size}×{dim}" for size, dim in stages)])
    return shown if plan.leaves is None else f"{shown}, {plan.leaves} leaves"
