"""What an export learns from held-out queries: the search plan, and the cascade's thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mrl_keras.cascade import learn_thresholds
from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    SearchPlan,
    TuningOptions,
    TuningResult,
    TuningSpace,
    measure_plans,
    tune,
)
from mrl_keras.retrieval.scann.parameters import uses_scann
from recipes.common.corpus import Corpus
from recipes.common.indexing import IndexedCorpus

RELEVANCE = ("auto", "judgements", "labels", "neighbours")
_HEAD_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Queries:
    """Embedded queries, of which a part is held out to learn from.

    Args:
        embeddings: float32 (queries, d).
        labels: int (queries,), or `None`.
        relevant: for each query the keys of its relevant rows, or `None`.
        keys: str (queries,), or `None`.
        class_names: names of the labels, or `None`.
        about: dict, where they come from.
        held_out: int rows to learn from.
        rest: int rows that measure what was learned.
    """

    embeddings: np.ndarray
    labels: np.ndarray | None
    relevant: Sequence[Sequence[str]] | None
    keys: np.ndarray | None
    class_names: tuple[str, ...] | None
    about: dict
    held_out: np.ndarray
    rest: np.ndarray


def read_queries(corpus: Corpus, share: float, least: int) -> Queries:
    """Embeds all queries of a corpus, and holds a part out, which no number is reported of.

    Args:
        corpus: `Corpus`.
        share: float in (0, 1], the part that is held out, drawn by a fixed seed.
        least: int, the fewest held-out queries that are enough.

    Raises:
        ValueError: a share out of range, or too few queries.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`held_out` must lie above 0 and at most 1. Received {share!r}.")
    embeddings, rows = [], []
    for found, batch in corpus.embedded():
        embeddings.append(np.asarray(found, np.float32))
        rows.append(batch)
    count = sum(map(len, embeddings))
    held = round(share * count)
    if held < least:
        where = f"{corpus.about['set']} {corpus.about.get('split', '')}".strip()
        raise ValueError(
            f"At least {least} held-out queries are needed to choose by, and {share:g} of the "
            f"{count} of {where} are {held}. Hold a larger part out, name a larger set of queries, "
            "give a plan by hand (and no cascade), or lower `least_queries`."
        )
    order = np.random.default_rng(0).permutation(count)

    def joined(name):
        parts = [getattr(batch, name) for batch in rows]
        return None if parts[0] is None else np.concatenate(parts)

    relevant = None
    if rows[0].relevant is not None:
        relevant = [keys for batch in rows for keys in batch.relevant]
    about = {**corpus.about, "held_out": held, "rest": count - held}
    return Queries(
        np.concatenate(embeddings), joined("labels"), relevant, joined("keys"), corpus.class_names,
        about, np.sort(order[:held]), np.sort(order[held:]),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ChosenPlan:
    """A plan, the index that it searches, and what is known of it.

    Args:
        index: `NestedIndex`, with a ScaNN shortlist where it is large.
        plan: `SearchPlan`.
        about: dict that JSON can hold.
        result: `TuningResult`, or `None` for a plan given by hand.
    """

    index: NestedIndex
    plan: SearchPlan
    about: dict
    result: TuningResult | None = None


def choose_plan(found: IndexedCorpus, queries: Queries, options, space=None) -> ChosenPlan:
    """Tunes a plan on the held-out queries, and measures it on the rest.

    A database of 20,000 rows or more gets a ScaNN shortlist at the D_s of the plan that is best
    with exact shortlists, and is tuned again with it.

    Args:
        found: `IndexedCorpus`.
        queries: `Queries`.
        options: `ExportOptions`: `relevance`, `metric`, `tolerance`, `cost`, `k`.
        space: `TuningSpace`, the plans to try. Default `None`, all of its defaults.

    Raises:
        ValueError: labels or judgements that are asked for and are not there.
    """
    index = found.index
    judged = _Judged(found, queries, options.relevance, by_ids=bool(options.relevant))
    k = min(options.k, len(index))
    metric = options.metric or f"{'mAP' if judged.by == 'labels' else 'recall'}@{k}"
    space = space or TuningSpace()
    settings = TuningOptions(metric, options.tolerance, space=space, cost=options.cost)

    def tuned(index):
        rows = judged.some(queries.held_out)
        least = min(options.least_queries, len(queries.held_out))
        if len(rows) < least:
            raise ValueError(
                f"At least {least} held-out queries must have relevant rows to tune by. "
                f"{len(rows)} of {len(queries.held_out)} have. Index the rows that they name, or "
                "set `relevance` to 'neighbours'."
            )
        return tune(
            index, queries.embeddings[rows], **judged.of(rows), options=settings, progress=True
        )

    result = tuned(index)
    if uses_scann("auto", len(index)) and result.best.rerank_dims:
        index = index.with_shortlist(IndexOptions(shortlist_dim=result.best.shortlist_dim))
        result = tuned(index)
    chosen = result.chosen
    about = {
        "by": "tuning",
        "metric": metric,
        "relevance": judged.by,
        "tolerance": options.tolerance,
        "confidence": result.confidence,
        "cost": options.cost,
        "queries": queries.about,
        "queries_in_corpus": judged.among_rows,
        "held_out": {"full_width": result.full_width.value, "plan": chosen.value},
        "mflops": {"full_width": result.full_width.mflops, "plan": chosen.mflops},
    }
    rest = judged.some(queries.rest)
    if len(rest):
        points = measure_plans(
            index, queries.embeddings[rest], [chosen.plan], **judged.of(rest), metric=metric
        )
        about["rest"] = dict(zip(("full_width", "plan"), (p.value for p in points), strict=True))
    return ChosenPlan(index, chosen.plan, about, result)


def given_plan(found: IndexedCorpus, plan: SearchPlan) -> ChosenPlan:
    """A plan by hand; a large database gets its ScaNN shortlist."""
    index = found.index
    plan.check_dims(index.nesting_dims)
    if uses_scann("auto", len(index)) and plan.rerank_dims:
        index = index.with_shortlist(IndexOptions(shortlist_dim=plan.shortlist_dim))
    return ChosenPlan(index, plan, {"by": "hand"})


def has_labels(queries: Queries, class_names) -> bool:
    """Whether queries have labels of these classes; labels without names are taken to be theirs."""
    names = queries.class_names
    return queries.labels is not None and names in (None, tuple(class_names))


def learn_cascade(head, dims, queries: Queries, class_names):
    """Adaptive classification's policy, learned on the held-out queries: (policy, about).

    Args:
        head: embeddings (rows, d) -> nested logits (rows, prefixes, classes).
        dims: `NestingDims`, the prefixes of the logits.
        queries: `Queries` with labels.
        class_names: of the head's classes.

    Raises:
        ValueError: queries without labels, or of other classes.
    """
    if not has_labels(queries, class_names):
        what = "no labels" if queries.labels is None else "other classes"
        raise ValueError(
            f"A cascade is learned on labelled examples of the model's classes. "
            f"{queries.about['set']} has {what}: name other queries, or leave the cascade out."
        )
    logits = np.concatenate(
        [
            np.asarray(head(queries.embeddings[low : low + _HEAD_ROWS]))
            for low in range(0, len(queries.embeddings), _HEAD_ROWS)
        ]
    )
    held, rest, labels = queries.held_out, queries.rest, queries.labels
    policy = learn_thresholds(logits[held], labels[held], dims)
    about = {"queries": queries.about}
    if len(rest):
        answer = policy.decide(logits[rest])
        about |= {
            "accuracy": float(np.mean(answer.classes == labels[rest])),
            "expected_dims": float(np.mean(answer.dims)),
            "full_width_accuracy": float(np.mean(logits[rest][:, -1].argmax(-1) == labels[rest])),
        }
    return policy, about


def parse_plan(text: str, k: int) -> SearchPlan:
    """A plan by hand: "D_s:ROWS,DIM:ROWS,...,D_r", such as "16:200,32:50,64".

    Raises:
        ValueError: another form, or a plan that `SearchPlan` refuses.

    >>> parse_plan("16:200,32:50,64", k=10)
    SearchPlan(dims=(16, 32, 64), sizes=(200, 50), k=10, leaves=None)
    """
    *stages, last = text.split(",")
    try:
        pairs = [tuple(map(int, stage.split(":"))) for stage in stages]
        dims, sizes = zip(*pairs, strict=True) if pairs else ((), ())
        return SearchPlan((*dims, int(last)), sizes, k)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "`plan` must be D_s:ROWS,DIM:ROWS,...,D_r, such as 16:200,64 (200 rows found with 16 "
            f"dims, reranked with 64). Received {text!r} ({error})."
        ) from error


class _Judged:
    """Which rows are relevant to which queries, as `tune` takes it; judged `by_ids` or by keys.

    Attributes:
        by: "judgements", "labels" or "neighbours".
        among_rows: int, how many queries are rows of the corpus too, and find themselves.
    """

    def __init__(self, found, queries, relevance, by_ids):
        if relevance not in RELEVANCE:
            raise ValueError(f"`relevance` must be one of {RELEVANCE}. Received {relevance!r}.")
        self._found, self._queries, self._rows_by_key = found, queries, {}
        keys = found.index.ids.astype(str) if by_ids else found.keys
        judgements = queries.relevant is not None and keys is not None
        labels = queries.labels is not None and found.labels is not None
        same = None in (queries.class_names, found.class_names)
        labels = labels and (same or queries.class_names == found.class_names)
        if judgements:
            for row, key in enumerate(keys.tolist()):
                self._rows_by_key.setdefault(key, []).append(row)
            judgements = any(self._relevant(query) for query in range(len(queries.relevant)))
        self.by = relevance
        if relevance == "auto":
            self.by = "judgements" if judgements else "labels" if labels else "neighbours"
        if not {"judgements": judgements, "labels": labels, "neighbours": True}[self.by]:
            raise ValueError(
                f"`relevance` {relevance!r} needs {relevance} of {queries.about['set']} for rows "
                f"of {found.about['set']}, and there are none. Take 'auto' or 'neighbours', or "
                "another set."
            )
        self.among_rows = 0
        if queries.relevant is None and queries.keys is not None and found.keys is not None:
            self.among_rows = int(np.isin(queries.keys, found.keys).sum())

    def some(self, queries):
        """Those of `queries` that have a relevant row."""
        if self.by != "judgements":
            return queries
        return np.array([q for q in queries if self._relevant(q)], np.int64)

    def of(self, queries):
        """`relevant` or `labels` of `tune`, for some queries."""
        if self.by == "judgements":
            ids = self._found.index.ids
            return {"relevant": [ids[self._relevant(query)] for query in queries]}
        if self.by == "labels":
            return {"labels": (self._queries.labels[queries], self._found.labels)}
        return {}

    def _relevant(self, query):
        rows = (self._rows_by_key.get(key, ()) for key in self._queries.relevant[query])
        return [row for one in rows for row in one]
