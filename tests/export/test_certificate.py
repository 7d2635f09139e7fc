"""What a certified plan says in the graph, against `NestedIndex.search` and brute force."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_keras.export import load_manifest
from mrl_keras.export.graph.search import NestedSearch
from mrl_keras.export.graph.shortlists import (
    ExactShortlist,
    PartitionShortlist,
    SignShortlist,
)
from mrl_keras.retrieval import IndexOptions, NestedIndex, SearchPlan
from tests.export import cases
from tests.retrieval.oracle import assert_top_k, scores_at

WIDTH = cases.DIMS[-1]


def index_of(rows, metric="cosine", storage="float32"):
    return NestedIndex.build(rows, cases.DIMS, options=IndexOptions(metric, storage))


def plan_of(size=60, k=3, dim=8):
    return SearchPlan((dim, WIDTH), (size,), k=k, certified=True)


def answer(index, queries, plan, row_numbers=None):
    search = NestedSearch(index, plan, ExactShortlist)
    queries = tf.constant(queries, tf.float32)
    found = search.search(queries, plan.k, plan.shortlist_size, 1, row_numbers)
    return {name: part.numpy() for name, part in found.items()}


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 300),
    size=st.integers(3, 60),
    count=st.integers(0, 40),
    dim=st.sampled_from([4, 16]),
    metric=st.sampled_from(["cosine", "dot"]),
    storage=st.sampled_from(["float32", "bfloat16", "int8"]),
    kind=st.sampled_from(["near", "noise", "ties"]),
    seed=st.integers(0, 1000),
)
def test_the_graph_certifies_what_the_index_does(
    rows, size, count, dim, metric, storage, kind, seed
):
    table, queries = cases.vectors(rows, seed), cases.vectors(count, seed + 1)
    if kind != "noise":
        near = np.resize(table, (count, WIDTH))
        queries = near + (0.02 if kind == "near" else 0.0) * queries
    if kind == "ties":
        table = table[np.arange(rows) // 3]
    index = index_of(table, metric, storage)
    stored = np.concatenate([np.asarray(block, "float32") for block in index.blocks], axis=1)
    plan = plan_of(size, dim=dim)
    found, expected = answer(index, queries, plan), index.search(queries, plan)
    np.testing.assert_array_equal(found["certified"], expected.certified)
    np.testing.assert_allclose(found["scores"], expected.scores, rtol=1e-4, atol=1e-5)
    sure = found["certified"]
    truth = scores_at(queries[sure], stored, WIDTH, metric)
    assert_top_k(found["scores"][sure], found["indices"][sure], truth, 3)
    assert sure.all() or size < rows


def test_near_neighbours_are_certified_and_noise_is_not():
    """The property above is not one of nothing but true or nothing but false."""
    found = answer(index_of(cases.vectors()), cases.queries(40), plan_of())["certified"]
    assert 0.3 < found.mean() < 0.9
    noise = np.random.default_rng(0).standard_normal((800, WIDTH)).astype("float32")
    assert not answer(index_of(noise), noise[::-20] + noise[::20], plan_of())["certified"].any()


@pytest.mark.parametrize("count", [5, 30])
def test_bad_queries_and_few_rows(count):
    queries = cases.queries(count)
    queries[1, 3], queries[2] = np.nan, 0.0
    few = answer(index_of(cases.vectors(20)), queries, plan_of(25, k=22))
    expected = np.arange(count) != 1
    np.testing.assert_array_equal(few["certified"], expected)
    assert (few["indices"][:, 20:] == -1).all()
    many = answer(index_of(cases.vectors(200)), queries, plan_of(199, k=1))["certified"]
    assert not many[1:3].any()
    assert many.any()


def test_each_row_is_certified_for_its_own_numbers():
    queries = cases.queries(24)
    ks, sizes = (np.resize(one, 24).astype("int32") for one in ([1, 5, 2, 3], [20, 700, 40, 900]))
    index = index_of(cases.vectors())
    numbers = tf.constant(ks), tf.constant(sizes)
    found = answer(index, queries, plan_of(900, k=5), numbers)
    for row, (k, size) in enumerate(zip(ks.tolist(), sizes.tolist(), strict=True)):
        alone = index.search(queries[row : row + 1], plan_of(size, k))
        assert found["certified"][row] == alone.certified[0]
        assert found["indices"][row].tolist() == [*alone.indices[0], *[-1] * (5 - k)]
    assert set(found["certified"][ks == 2].tolist()) == {True, False}


@pytest.mark.parametrize("shortlist_class", [PartitionShortlist, SignShortlist])
def test_a_shortlist_that_is_not_exact_certifies_nothing(shortlist_class):
    signs = IndexOptions(shortlist_dim=8, signs=True)
    index = cases.index()
    if shortlist_class is SignShortlist:
        index = NestedIndex.build(cases.vectors(), cases.DIMS, options=signs)
    plan = plan_of(cases.ROWS)
    search = NestedSearch(index, plan, shortlist_class)
    for count in (3, 20):
        found = search.search(tf.constant(cases.queries(count)), 3, cases.ROWS, 25)
        assert found["certified"].numpy().tolist() == [False] * count
    assert not index.search(cases.queries(3), plan).certified.any()


@pytest.mark.slow
def test_certificates_are_served(tiny):
    index, plan = cases.index(scann=False, storage="bfloat16"), plan_of()
    path = tiny(index=index, plan=plan, warmup_batch_sizes=())
    assert load_manifest(path)["retrieval"]["plan"]["certified"] is True
    signatures = tf.saved_model.load(path).signatures
    queries = cases.queries(20)
    expected = index.search(queries, plan).certified
    assert 0.3 < expected.mean() < 0.9
    inputs = {"embedding": tf.constant(queries)}
    more = {"k": tf.constant(3), "shortlist": tf.constant(60), "leaves": tf.constant(1)}
    each = {name: tf.repeat(value, 20) for name, value in more.items()}
    for ending, numbers in (("", {}), ("_dynamic", more), ("_batch", each)):
        found = signatures[f"retrieve_embeddings{ending}"](**inputs, **numbers)["certified"]
        np.testing.assert_array_equal(found, expected, err_msg=ending)
    whole = more | {"shortlist": tf.constant(cases.ROWS)}
    for count in (2, 20):
        few = {"embedding": tf.constant(queries[:count])}
        assert signatures["retrieve_embeddings_dynamic"](**few, **whole)["certified"].numpy().all()


def test_other_plans_have_none_of_it(monkeypatch):
    monkeypatch.setattr("mrl_keras.export.graph.search.Certificate", None)
    plan = SearchPlan((8, WIDTH), (60,), k=3)
    for count in (2, 20):
        found = answer(cases.index(scann=False), cases.queries(count), plan)
        assert set(found) == {"ids", "indices", "scores"}
