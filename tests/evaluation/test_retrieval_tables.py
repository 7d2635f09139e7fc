import numpy as np
import pytest
from sklearn.preprocessing import normalize

from mrl_keras.evaluation import (
    adaptive_grid,
    exact_retrieval_table,
    plan_retrieval_table,
    shortlist_lengths,
)
from mrl_keras.retrieval import SearchPlan

RNG = np.random.default_rng(0)
ROW_LABELS, LABELS = np.arange(90) % 6, np.arange(30) % 6
CENTRES = RNG.standard_normal((6, 8))
ROWS = CENTRES[ROW_LABELS] + RNG.standard_normal((90, 8))
QUERIES = CENTRES[LABELS] + RNG.standard_normal((30, 8))
DATA = (QUERIES, LABELS, ROWS, ROW_LABELS)


def test_exact_table_against_an_oracle():
    table = exact_retrieval_table(*DATA, dims=[2, 8], ks=[5])
    for dim, row in table.items():
        order = np.argsort(-normalize(QUERIES[:, :dim]) @ normalize(ROWS[:, :dim]).T, axis=1)
        right = ROW_LABELS[order[:, :5]] == LABELS[:, None]
        ranks = np.arange(1, 6)
        assert row["P@5"] == pytest.approx(right.mean())
        assert row["top5"] == pytest.approx(right.any(axis=1).mean())
        assert row["mAP@5"] == pytest.approx((right.cumsum(1) / ranks * right).mean())
        assert row["MFLOPs"] == pytest.approx(90 * dim / 1e6)


def test_a_shortlist_of_everything_is_exact():
    exact = exact_retrieval_table(*DATA, dims=[8], ks=[5])[8]
    plans = [*adaptive_grid([2, 4, 8], 90, 5), *shortlist_lengths(2, 8, [5, 90], 5)]
    plans.append(SearchPlan.funnel((2, 4, 8), 90, 5))
    table = plan_retrieval_table(*DATA, plans, ks=[5])
    full = table[SearchPlan((2, 8), (90,), 5)]
    assert full["mAP@5"] == pytest.approx(exact["mAP@5"])
    assert full["MFLOPs"] == pytest.approx((90 * 2 + 90 * 8) / 1e6)
    # Five rows found with two dims: reranking changes their order, not which they are.
    short = table[SearchPlan((2, 8), (5,), 5)]
    assert short["P@5"] == pytest.approx(exact_retrieval_table(*DATA, dims=[2], ks=[5])[2]["P@5"])


@pytest.mark.parametrize(
    ("data", "ks", "message"),
    [
        ((QUERIES, LABELS + 1, ROWS, ROW_LABELS), [5], r"Absent: \[6\]"),
        ((QUERIES, LABELS - 1, ROWS, ROW_LABELS), [5], "must not be negative"),
        (DATA, [91], "must not exceed the 90 rows. Received 91"),
        ((QUERIES[:0], LABELS[:0], ROWS, ROW_LABELS), [5], r"Received shape \(0, 8\)"),
    ],
)
def test_errors(data, ks, message):
    with pytest.raises(ValueError, match=message):
        exact_retrieval_table(*data, dims=[8], ks=ks)
    with pytest.raises(ValueError, match=r"at least max\(ks\)=5"):
        plan_retrieval_table(*DATA, [SearchPlan((8,), k=4)], ks=[5])
