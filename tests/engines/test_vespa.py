"""Vespa's texts: schema, feed and request. No Vespa server is in reach of these tests."""

import json

import numpy as np
import pytest

from mrl_keras.engines import VespaApplication
from mrl_keras.retrieval import NestedIndex, SearchPlan

PLAN = SearchPlan((2, 4, 16), (60, 20), k=5)
CERTIFIED = SearchPlan((2, 16), (60,), k=5, certified=True)


def table(rows=200, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, 16)) / np.sqrt(1 + np.arange(16))).astype("float32")


@pytest.mark.backends
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_the_schema_is_what_pyvespa_writes(metric):
    package = pytest.importorskip("vespa.package", reason='pip install -e ".[backends]"')
    plain = {"indexing": ["summary", "attribute"], "attribute": ["fast-search"]}
    paged = {"indexing": ["attribute"], "attribute": ["paged"]}
    graph = package.HNSW(
        distance_metric={"cosine": "prenormalized-angular", "dot": "dotproduct"}[metric],
        max_links_per_node=24,
        neighbors_to_explore_at_insert=99,
    )
    fields = [
        package.Field("d2", "tensor<float>(x[2])", indexing=["attribute", "index"], ann=graph),
        package.Field("d4", "tensor<float>(x[4])", **paged),
        package.Field("d16", "tensor<float>(x[16])", **paged),
        package.Field("id", "long", **plain),
        package.Field("lang", "string", **plain),
    ]
    profile = package.RankProfile(
        "nested",
        first_phase="closeness(field, d2)",
        second_phase=package.SecondPhaseRanking("sum(query(d4) * attribute(d4))", 60),
        global_phase=package.GlobalPhaseRanking("sum(query(d16) * attribute(d16))", 20),
        inputs=[(f"query(d{dim})", f"tensor<float>(x[{dim}])") for dim in (2, 4, 16)],
    )
    theirs = package.Schema("docs", package.Document(fields), rank_profiles=[profile])
    ours = VespaApplication("docs", PLAN, metric, "int64", {"lang": "string"}, 24, 99)
    assert tokens(ours.schema()) == tokens(theirs.schema_to_text)


def tokens(text):
    """Words of a schema; `expression: a` and `expression { a }` are the same."""
    words = text.replace("expression:", "expression").split()
    found, inside = [], False
    for word in words:
        if word == "{" and found and found[-1] == "expression":
            inside = True
        elif word == "}" and inside:
            inside = False
        else:
            found.append(word)
    return found


def answer(documents, request, plan):
    """Runs a request as its phases say, over what was fed: an interpreter of the texts."""
    vectors = {name[12:-1]: np.array(v) for name, v in request.items() if name.startswith("input")}

    def best(found, dim, keep):
        field = f"d{dim}"
        scores = {one["id"]: np.dot(one[field]["values"], vectors[field]) for one in found}
        order = sorted(found, key=lambda one: -scores[one["id"]])[:keep]
        return order, [scores[one["id"]] for one in order]

    found = documents
    for dim, keep in zip(plan.dims, (*plan.sizes, request["hits"]), strict=True):
        found, scores = best(found, dim, keep)
    return [one["id"] for one in found], scores


@pytest.mark.parametrize("plan", [PLAN, SearchPlan((2, 16), (60,), k=5)])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_fed_vectors_and_requests_give_the_answers_of_an_index(plan, metric):
    rows, queries = table(), table(4, seed=1)
    ids = [f"row{row}" for row in range(len(rows))]
    application = VespaApplication("docs", plan, metric)
    documents = [json.loads(line)["fields"] for line in application.feed(rows, ids)]
    from mrl_keras.retrieval import IndexOptions

    index = NestedIndex.build(rows, [2, 4, 16], ids, IndexOptions(metric=metric))
    expected = index.search(queries, plan)
    for query, scores, names in zip(queries, expected.scores, expected.ids, strict=True):
        found, products = answer(documents, application.request(query), plan)
        assert found == names.tolist()
        np.testing.assert_allclose(products, scores, rtol=1e-5)


def test_the_feed_puts_and_removes_documents_with_their_payload():
    application = VespaApplication("docs", PLAN, fields={"lang": "string"})
    put = json.loads(next(application.feed(table(1), ["a/1"], [{"lang": "en"}])))
    assert put["put"] == "id:docs:docs::a/1"
    assert put["fields"]["lang"] == "en"
    assert put["fields"]["id"] == "a/1"
    assert [json.loads(line) for line in application.removals(["a/1"])] == [
        {"remove": "id:docs:docs::a/1"}
    ]


def test_requests_hold_the_shortlist_and_the_filters():
    fields = {"lang": "string", "year": "int", "new": "bool"}
    application = VespaApplication("docs", PLAN, fields=fields)
    filters = {"lang": ["en", 'd"e'], "year": 2020, "new": True}
    request = application.request(table(1)[0], filters, exact=True)
    assert request["yql"] == (
        "select id from docs where ({targetHits:60, approximate:false}nearestNeighbor(d2, d2)) "
        'and (lang contains "en" or lang contains "d\\"e") and year = 2020 and new = true'
    )
    assert request["hits"] == 5
    assert application.request(table(1)[0], "year > 2000")["yql"].endswith(" and (year > 2000)")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: VespaApplication("docs", SearchPlan((4,))), "two or three dims"),
        (lambda: VespaApplication("docs", CERTIFIED), "can't certify its answers"),
        (lambda: VespaApplication("Docs", PLAN), "lower-case letters"),
        (lambda: VespaApplication("docs", PLAN, fields={"d4": "int"}), "not be one of"),
        (lambda: VespaApplication("docs", PLAN, fields={"a": "float"}), "of the types"),
        (lambda: VespaApplication("docs", PLAN, id_dtype="str"), "`id_dtype` must be one of"),
        (lambda: VespaApplication("docs", PLAN, m=0), "`m` must be at least 1"),
        (lambda: VespaApplication("docs", PLAN).request(np.ones(8)), "at least 16 finite"),
        (lambda: VespaApplication("docs", PLAN).request(np.zeros(16)), "must not be zero"),
        (
            lambda: VespaApplication("docs", PLAN).request(np.ones(16), {"a": 1}),
            "one of the fields",
        ),
        (lambda: next(VespaApplication("docs", PLAN).feed(table(1), [3])), "id of the kind string"),
        (
            lambda: next(VespaApplication("docs", PLAN).feed(table(2), ["a", "b"], [{}])),
            "a dict for each of the 2 rows. Received 1",
        ),
        (
            lambda: next(VespaApplication("docs", PLAN).feed(table(1), ["a"], [{"b": 1}])),
            "a payload of",
        ),
    ],
)
def test_errors(call, text):
    with pytest.raises(ValueError, match=text):
        call()
