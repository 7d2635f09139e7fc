import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrl_keras.retrieval.metrics import (
    labels_at,
    mean_average_precision,
    precision_at_k,
    ranking_metrics,
    recall_at_k,
    top_k_accuracy,
)


def test_map_divides_by_k_not_by_the_hits():
    # Hits at ranks 2 and 4 of 5: precisions 1/2 and 2/4, so (0.5 + 0.5) / 5 = 0.2.
    relevance = np.array([[False, True, False, True, False]])
    assert mean_average_precision(relevance, 5) == pytest.approx(0.2)
    # Cut at 3: only the hit at rank 2 counts, 0.5 / 3.
    assert mean_average_precision(relevance, 3) == pytest.approx(0.5 / 3)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 12))), st.data())
def test_metrics_equal_loops(relevance, data):
    k = data.draw(st.integers(1, relevance.shape[1]))
    average, precision, top = [], [], []
    for row in relevance:
        hits, total = 0, 0.0
        for rank in range(1, k + 1):
            if row[rank - 1]:
                hits += 1
                total += hits / rank
        average.append(total / k)
        precision.append(hits / k)
        top.append(hits > 0)
    assert mean_average_precision(relevance, k) == pytest.approx(np.mean(average))
    assert precision_at_k(relevance, k) == pytest.approx(np.mean(precision))
    assert top_k_accuracy(relevance, k) == pytest.approx(np.mean(top))


@pytest.mark.parametrize("strings", [False, True])
def test_ranking_metrics_by_name_with_empty_slots_irrelevant(strings):
    database, queries = np.array([3, 4, 3]), np.array([3, 4])
    if strings:
        database, queries = database.astype(str), queries.astype(str)
    indices = np.array([[1, 0, 2, -1], [1, -1, -1, -1]])
    metrics = ranking_metrics(labels_at(indices, database), queries, ks=(2, 4))
    assert list(metrics) == ["top1", "mAP@2", "P@2", "top2", "mAP@4", "P@4", "top4"]
    assert metrics["top1"] == 0.5
    # Query 0 hits at ranks 2 and 3, query 1 at rank 1.
    assert metrics["mAP@4"] == pytest.approx(((1 / 2 + 2 / 3) / 4 + 1 / 4) / 2)
    assert metrics["P@4"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert metrics["top4"] == 1.0


def test_an_empty_slot_is_irrelevant_even_to_a_query_labelled_minus_one():
    assert ranking_metrics(np.array([[-1, -1]]), np.array([-1]), ks=(2,))["P@2"] == 0.0


def test_recall_ignores_order_and_empty_slots():
    found = np.array([[5, 3, -1], [-1, -1, -1], [7, 8, 9]])
    true = np.array([[3, 4], [1, -1], [-1, -1]])
    # 1 of 2, 0 of 1, and the third query wants nothing.
    assert recall_at_k(found, true) == pytest.approx((0.5 + 0.0) / 2)
    as_text = [np.where(ids == -1, "", ids.astype(str)) for ids in (found, true)]
    assert recall_at_k(*as_text) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mean_average_precision(np.ones((2, 3), bool), 4), "not exceed the 3 retrieved"),
        (lambda: mean_average_precision(np.ones((2, 3), bool), 0), "`k` must be at least 1"),
        (lambda: precision_at_k(np.ones((2, 3)), 2), "must be bool .* Received float64"),
        (lambda: top_k_accuracy(np.ones((0, 3), bool), 2), "at least one query"),
        (lambda: recall_at_k(np.ones((2, 3), int), np.ones((1, 3), int)), "same number of rows"),
        (lambda: recall_at_k(np.ones((1, 3), int), np.array([["a"]])), "same kind of ids"),
        (lambda: recall_at_k(np.ones((1, 3), int), -np.ones((1, 3), int)), "at least one id"),
        (lambda: recall_at_k(np.ones((1, 3)), np.ones((1, 3), int)), "ints or strings with 2"),
        (lambda: ranking_metrics(np.ones((2, 3), int), np.ones(3, int)), "one row for each query"),
        (lambda: labels_at(np.ones((2, 3), int), np.ones((2, 2), int)), "with 1 axes"),
        (lambda: labels_at([[0]], np.array([2**63], np.uint64)), "must lie within int64"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_empty_slots_are_no_label_of_unsigned_ones():
    labels = np.array([255, 3], np.uint8)
    found = labels_at(np.array([[1, -1]]), labels)
    assert found.tolist() == [[3, -1]]
    assert ranking_metrics(found, labels[:1], ks=(2,))["P@2"] == 0.0
