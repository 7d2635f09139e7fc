"""Shortlists by sign bits against distances counted bit by bit."""

import numpy as np
import pytest

from mrl_keras.retrieval import (
    IndexOptions,
    NestedIndex,
    ScannParameters,
    SearchPlan,
    SignSearcher,
    TuningOptions,
    TuningSpace,
    tune,
)
from mrl_keras.retrieval.bulk.fingerprints import index_fingerprint
from mrl_keras.retrieval.signs import packed_signs
from tests.retrieval.oracle import LOWEST, clustered, funnel

RNG = np.random.default_rng(0)
OPTIONS = IndexOptions(shortlist_dim=32, signs=True, chunk_rows=100)


def distances(rows, queries, dim):
    """int (queries, rows): components on different sides of the rows' mean."""
    means = rows[:, :dim].astype("float64").mean(axis=0).astype("float32")
    above = [part[:, :dim] > means for part in (queries, rows)]
    return (above[0][:, None] != above[1][None]).sum(axis=2)


@pytest.mark.parametrize("dim", [1, 3, 64, 65, 200])
def test_shortlists_are_the_rows_with_the_fewest_differing_bits(dim):
    rows = (RNG.standard_normal((300, dim)) + RNG.standard_normal(dim)).astype("float32")
    queries = rows[:20] + RNG.standard_normal((20, dim)).astype("float32")
    searcher = SignSearcher.build(lambda: (rows[i : i + 70] for i in range(0, 300, 70)))
    scores, indices = searcher.search(queries, k=25)
    true = distances(rows, queries, dim)
    expected = np.argsort(true, axis=1, kind="stable")[:, :25]  # ties by ascending index
    np.testing.assert_array_equal(indices, expected)
    wanted = 1 - 2 * np.take_along_axis(true, expected, 1) / dim
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    words = -(-dim // 64)
    assert searcher.memory_bytes() == 300 * 8 * words + 4 * dim
    assert (packed_signs(np.ones((1, dim)), np.zeros(dim)).view(np.uint8) != 0).sum() == -(
        -dim // 8
    )


def test_an_index_reranks_what_the_bits_find(tmp_path):
    rows, queries, *_ = clustered(500, 64, 12)
    index = NestedIndex.build(rows, [8, 32, 64], options=OPTIONS)
    plan = SearchPlan((32, 64), (60,), k=7)
    found = index.search(queries, plan)
    nearest = np.argsort(distances(rows, queries, 32), axis=1, kind="stable")[:, :60]
    for query, candidates, indices in zip(queries, nearest, found.indices, strict=True):
        best = funnel(query[None], rows[candidates], SearchPlan((64,), k=7))[0]
        np.testing.assert_array_equal(indices, candidates[best])
    index.save(tmp_path / "index")
    loaded = NestedIndex.load(tmp_path / "index")
    np.testing.assert_array_equal(loaded.search(queries, plan).indices, found.indices)
    assert index_fingerprint(loaded) == index_fingerprint(index)
    assert index_fingerprint(loaded)["shortlist"]["kind"] == "signs"
    exact = index.search(queries, SearchPlan((8, 64), (60,), k=7))  # another dim: exact
    np.testing.assert_array_equal(
        exact.indices, funnel(queries, rows, SearchPlan((8, 64), (60,), k=7))
    )


def test_more_rows_than_there_are_and_queries_that_are_no_numbers():
    rows, queries, *_ = clustered(30, 64, 4)
    queries[1, 3], queries[2, 50] = np.nan, np.inf
    index = NestedIndex.build(rows, [8, 32, 64], options=OPTIONS)
    assert (index.find_shortlist(queries, 32, 40)[1] == -1).all()
    assert (index.find_shortlist(queries, 32, 40)[0, 30:] == -1).all()
    found = index.search(queries, SearchPlan((32, 64), (40,), k=35))
    assert (found.indices[1:3] == -1).all()
    assert (found.scores[1:3] == LOWEST).all()
    assert sorted(found.indices[0, :30]) == list(range(30))
    assert (found.indices[0, 30:] == -1).all()


def test_tune_chooses_among_shortlists_by_bits():
    rows, queries, *_ = clustered(600, 64, 30)
    index = NestedIndex.build(rows, [8, 32, 64], options=OPTIONS)
    options = TuningOptions(metric="recall@10", tolerance=0.05, space=TuningSpace())
    result = tune(index, queries, options=options)
    assert {point.plan.shortlist_dim for point in result.points} == {32, 64}
    assert result.best.shortlist_dim == 32
    found = index.search(queries, result.best).indices
    best = index.search(queries, SearchPlan((64,))).indices
    kept = np.mean([np.isin(*pair).mean() for pair in zip(best, found, strict=True)])
    assert kept == pytest.approx(result.chosen.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"signs": True}, "`signs` needs a `shortlist_dim`.*Received shortlist_dim=None"),
        (
            {"signs": True, "shortlist_dim": 8, "scann": ScannParameters(4, 2)},
            "takes the place of ScaNN",
        ),
    ],
)
def test_bad_options(arguments, text):
    with pytest.raises(ValueError, match=text):
        IndexOptions(**arguments)
