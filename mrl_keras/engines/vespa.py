"""Vespa, as text: the schema of a plan, the feed of its rows and the request of a query.

No server is needed or spoken to. The texts are for Vespa's own tools: `vespa deploy`, `vespa feed`,
`POST /search/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.engines.engine import ID_DTYPES, check_plain_filter, check_uncertified
from mrl_keras.retrieval.arrays import as_float32, check_matrix, check_metric
from mrl_keras.retrieval.index.build import check_ids
from mrl_keras.retrieval.plan import SearchPlan

FIELD_TYPES = ("string", "int", "long", "bool")
PROFILE = "nested"
"""The rank profile that runs the plan."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_DISTANCES = {"cosine": "prenormalized-angular", "dot": "dotproduct"}


@dataclass(frozen=True)
class VespaApplication:
    """A Vespa document type for one plan of two or three dims.

    Each dim is a tensor field of its own, L2-normalised for "cosine": the first with an HNSW index
    in memory, the others paged, since only a rerank reads them. The first phase orders the
    shortlist by the first dim; the second phase, in each content node, reranks by the next dim; a
    third dim reranks the merged hits in the global phase. Vespa counts `targetHits` and the second
    phase's `rerank-count` in each content node, so no shortlist is shorter than the plan's.

    Args:
        name: str, of the schema and of its documents.
        plan: `SearchPlan` of two or three dims, which the rank profile holds.
        metric: "cosine" or "dot". Defaults to "cosine".
        id_dtype: "string" or "int64". Defaults to "string".
        fields: mapping from names of payload fields to "string", "int", "long" or "bool"; filters
            may use these. Defaults to none.
        m: int, links of a node of the graph. Defaults to 16.
        ef_construct: int, candidates while the graph is built. Defaults to 128.

    Raises:
        ValueError: a plan of one dim, of more than three, or a certified one; names that Vespa does
            not take; an unknown metric, kind of ids or type of field; a number below 1.

    Example:

    >>> plan = SearchPlan.adaptive(shortlist_dim=8, shortlist=200, rerank_dim=64)
    >>> docs = VespaApplication("docs", plan, fields={"lang": "string"})
    >>> print(docs.request(np.ones(64), {"lang": "en"})["yql"])
    select id from docs where ({targetHits:200}nearestNeighbor(d8, d8)) and lang contains "en"

    Source: arXiv 2205.13147, Section 4.3.1; phased ranking is Vespa's.
    """

    name: str
    plan: SearchPlan
    metric: str = "cosine"
    id_dtype: str = "string"
    fields: Mapping[str, str] = field(default_factory=dict)
    m: int = 16
    ef_construct: int = 128

    def __post_init__(self):
        check_metric(self.metric)
        check_uncertified(self.plan)
        for name in ("m", "ef_construct"):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"`{name}`"))
        if self.id_dtype not in ID_DTYPES:
            raise ValueError(f"`id_dtype` must be one of {ID_DTYPES}. Received {self.id_dtype!r}.")
        if not 2 <= len(self.plan.dims) <= 3:
            raise ValueError(
                "`plan` must have two or three dims: Vespa ranks in a first, a second and a global "
                f"phase. Received {list(self.plan.dims)}."
            )
        object.__setattr__(self, "fields", dict(self.fields))
        own = {"id", *(f"d{dim}" for dim in self.plan.dims)}
        for name in (self.name, *self.fields):
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in own:
                raise ValueError(
                    "Names must be of lower-case letters, digits and _, begin with a letter, and "
                    f"not be one of {sorted(own)}. Received {name!r}."
                )
        wrong = set(self.fields.values()) - set(FIELD_TYPES)
        if wrong:
            raise ValueError(f"`fields` must be of the types {FIELD_TYPES}. Received {wrong}.")

    def schema(self) -> str:
        """The text of schemas/NAME.sd."""
        first, *others = self.plan.dims
        sizes = self.plan.sizes
        fields = [
            _block(
                f"field d{first} type tensor<float>(x[{first}])",
                ["indexing: attribute | index"],
                _block("attribute", [f"distance-metric: {_DISTANCES[self.metric]}"]),
                _block(
                    "index",
                    _block(
                        "hnsw",
                        [
                            f"max-links-per-node: {self.m}",
                            f"neighbors-to-explore-at-insert: {self.ef_construct}",
                        ],
                    ),
                ),
            )
        ]
        paged = _block("attribute", ["paged"])
        fields += [
            _block(f"field d{dim} type tensor<float>(x[{dim}])", ["indexing: attribute"], paged)
            for dim in others
        ]
        plain = {"id": "string" if self.id_dtype == "string" else "long", **self.fields}
        searched = _block("attribute", ["fast-search"])
        for name, kind in plain.items():
            attribute = [] if kind == "bool" else searched
            fields.append(
                _block(f"field {name} type {kind}", ["indexing: summary | attribute"], attribute)
            )
        phases = [_block("first-phase", [f"expression: closeness(field, d{first})"])]
        for phase, dim, size in zip(("second-phase", "global-phase"), others, sizes, strict=False):
            product = f"expression: sum(query(d{dim}) * attribute(d{dim}))"
            phases.append(_block(phase, [product, f"rerank-count: {size}"]))
        inputs = [f"query(d{dim}) tensor<float>(x[{dim}])" for dim in self.plan.dims]
        profile = _block(f"rank-profile {PROFILE}", _block("inputs", inputs), *phases)
        document = _block(f"document {self.name}", *fields)
        return "\n".join(_block(f"schema {self.name}", document, profile)) + "\n"

    def feed(
        self, rows: np.ndarray, ids: Sequence, payload: Sequence[Mapping] | None = None
    ) -> Iterator[str]:
        """Lines of JSON that `vespa feed` puts; a put of an id that is there replaces it.

        Args:
            rows: (rows, the plan's last dim or more) embeddings.
            ids: int64 or str (rows,), unique.
            payload: for each row a dict of some of `fields`. Defaults to `None`, empty ones.

        Raises:
            ValueError: rows that are too narrow or not finite; for "cosine", rows with a zero
                prefix; ids that repeat or are of another kind; a payload with other fields.
        """
        rows = check_matrix(rows, "`rows`")
        ids = check_ids(ids, len(rows)).tolist()
        if payload is not None and len(payload) != len(rows):
            raise ValueError(
                f"`payload` must hold a dict for each of the {len(rows)} rows. Received "
                f"{len(payload)}."
            )
        for row, (name, vector) in enumerate(zip(ids, rows, strict=True)):
            of = {} if payload is None else payload[row]
            unknown = sorted(set(of) - set(self.fields))
            if unknown or isinstance(name, str) != (self.id_dtype == "string"):
                raise ValueError(
                    f"Row {name!r} must have an id of the kind {self.id_dtype} and a payload of "
                    f"{sorted(self.fields)}. Its payload has {sorted(of)}."
                )
            vectors = {one: {"values": values} for one, values in self._vectors(vector).items()}
            yield json.dumps({"put": self._document(name), "fields": {"id": name, **of, **vectors}})

    def removals(self, ids: Sequence) -> Iterator[str]:
        """Lines of JSON that `vespa feed` removes documents by."""
        for name in check_ids(ids, len(ids)).tolist():
            yield json.dumps({"remove": self._document(name)})

    def request(self, embedding: np.ndarray, filters=None, exact: bool = False) -> dict:
        """The body of `POST /search/` that answers one query; a hit's `relevance` is its score.

        Args:
            embedding: float (the plan's last dim or more,).
            filters: {field: value, or list of values}, or a condition in YQL. Defaults to `None`.
            exact: bool, whether the shortlist scans all documents. Defaults to `False`.

        Raises:
            ValueError: an embedding that is too narrow, not finite or zero; a filter of fields
                that the schema lacks.
        """
        first, options = self.plan.shortlist_dim, f"targetHits:{self.plan.shortlist_size}"
        options += ", approximate:false" if exact else ""
        condition = self._condition(filters)
        found = f"({{{options}}}nearestNeighbor(d{first}, d{first}))"
        vectors = self._vectors(np.asarray(embedding))
        return {
            "yql": f"select id from {self.name} where {found}{condition}",
            "ranking": PROFILE,
            "hits": self.plan.k,
            **{f"input.query({name})": values for name, values in vectors.items()},
        }

    def _vectors(self, vector):
        vector = as_float32(vector)
        if vector.ndim != 1 or len(vector) < self.plan.dims[-1] or not np.isfinite(vector).all():
            raise ValueError(
                f"An embedding must hold at least {self.plan.dims[-1]} finite numbers. Received "
                f"the shape {vector.shape}."
            )
        found = {}
        for dim in self.plan.dims:
            prefix = vector[:dim]
            if self.metric == "cosine":
                norm = np.linalg.norm(prefix)
                if norm == 0:
                    raise ValueError(
                        f"An embedding must not be zero in its first {dim} dims, where a cosine is "
                        "not defined."
                    )
                prefix = prefix / norm
            found[f"d{dim}"] = prefix.tolist()
        return found

    def _condition(self, filters):
        if filters is None or isinstance(filters, str):
            return f" and ({filters})" if filters else ""
        text = ""
        for name, wanted in check_plain_filter(filters).items():
            if name not in self.fields:
                raise ValueError(
                    f"A filter must name one of the fields {sorted(self.fields)}. "
                    f"Received {name!r}."
                )
            operator = "contains" if self.fields[name] == "string" else "="
            tests = [f"{name} {operator} {json.dumps(one)}" for one in wanted]
            text += f" and {tests[0]}" if len(tests) == 1 else f" and ({' or '.join(tests)})"
        return text

    def _document(self, name):
        return f"id:{self.name}:{self.name}::{name}"


def _block(head, *parts):
    """Lines of `head { ... }`."""
    inside = [f"    {line}" for part in parts for line in part]
    return [f"{head} {{", *inside, "}"]
