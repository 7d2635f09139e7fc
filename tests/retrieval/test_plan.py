import dataclasses

import numpy as np
import pytest

from mrl_keras.retrieval import SearchPlan


def test_adaptive_names_its_stages():
    plan = SearchPlan.adaptive(shortlist_dim=16, shortlist=200, rerank_dim=2048, k=20, leaves=7)
    assert plan == SearchPlan((16, 2048), (200,), 20, 7)
    assert (plan.shortlist_dim, plan.shortlist_size) == (16, 200)
    assert (plan.rerank_dims, plan.rerank_sizes) == ((2048,), ())


def test_funnel_default_is_the_papers():
    plan = SearchPlan.funnel((16, 32, 64, 128, 256, 2048))
    assert plan.sizes == (200, 100, 50, 25, 10)
    assert plan.rerank_dims == (32, 64, 128, 256, 2048)
    assert plan.rerank_sizes == (100, 50, 25, 10)


@pytest.mark.parametrize(
    ("dims", "shortlist", "k", "sizes"),
    [
        ((8,), 200, 10, ()),
        ((8, 16), 200, 10, (200,)),
        ((8, 16, 32), 200, 10, (200, 10)),
        ((8, 16, 32, 64), 16, 10, (16, 10, 10)),
    ],
)
def test_funnel_sizes_never_fall_below_k(dims, shortlist, k, sizes):
    assert SearchPlan.funnel(dims, shortlist, k).sizes == sizes


def test_single_stage_finds_k():
    plan = SearchPlan((2048,), k=5)
    assert plan.shortlist_size == 5
    assert plan.rerank_dims == ()


def test_values_become_plain_tuples_of_ints_and_the_plan_is_frozen():
    plan = SearchPlan(np.array([8, 16]), [np.int64(20)], np.int32(10))
    assert plan.dims == (8, 16)
    assert all(type(value) is int for value in (*plan.dims, *plan.sizes, plan.k))
    assert hash(plan) == hash(SearchPlan((8, 16), (20,)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.k = 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dims": ()}, "must hold at least one dim"),
        ({"dims": (16, 8), "sizes": (20,)}, "must ascend. Received 8 after 16"),
        ({"dims": (8, 16)}, r"must hold one number fewer than `dims`: 1 .* Received 0"),
        ({"dims": (8,), "sizes": (20,)}, "must hold one number fewer than `dims`: 0"),
        ({"dims": (8, 16, 32), "sizes": (20, 30)}, "must not grow .* Received 30 after 20"),
        ({"dims": (8, 16), "sizes": (5,)}, "must be at least k=10"),
        (
            {"dims": (8, 16), "sizes": (0,), "k": 1},
            "Each of `sizes` must be at least 1. Received 0",
        ),
        ({"dims": (8, 16), "sizes": (20.0,)}, "Each of `sizes` must be an int. Received 20.0"),
        ({"dims": (8, 16), "sizes": 20}, "`sizes` must be a sequence of ints. Received 20"),
        ({"dims": (8,), "k": 0}, "`k` must be at least 1. Received 0"),
        ({"dims": (8,), "k": -5}, "`k` must be at least 1. Received -5"),
        ({"dims": (8,), "k": True}, "`k` must be an int. Received the boolean True"),
        ({"dims": (8, 16), "sizes": (20,), "leaves": 0}, "`leaves` must be at least 1"),
        ({"dims": (8,), "leaves": 4}, "a plan of the single dim 8 is exact"),
    ],
)
def test_bad_plans(arguments, text):
    with pytest.raises(ValueError, match=text):
        SearchPlan(**arguments)


def test_check_dims_names_the_unknown_ones():
    with pytest.raises(ValueError, match=r"nesting dims of the index, \[8, 16\]. Received \[12\]"):
        SearchPlan((8, 12), (20,)).check_dims((8, 16))
