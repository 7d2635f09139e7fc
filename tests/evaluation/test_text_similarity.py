import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from mrl_keras.evaluation import (
    ndcg,
    pair_recall,
    prompts,
    spearman,
    zero_shot_accuracy,
)
from mrl_keras.evaluation.text.similarity import prefix_cosines

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.standard_normal((2, 40, 8))
SCORES = RNG.integers(0, 6, 40) / 1.0  # with ties


def cosines(one, other):
    return (one @ other.T) / np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))


def test_spearman_with_ties_agrees_with_scipy():
    found = spearman(FIRST, SECOND, SCORES, [1, 3, 8])
    for dim, value in found.items():
        expected = np.diag(cosines(FIRST[:, :dim], SECOND[:, :dim]))
        np.testing.assert_allclose(prefix_cosines(FIRST, SECOND, [dim])[0], expected)
        # At one dim all cosines are 1 or -1: ties in both.
        rounded = np.round(expected, 12)
        assert value == pytest.approx(spearmanr(rounded, SCORES)[0], abs=1e-9)


def test_spearman_by_hand():
    # Cosines 1, 0, 0.6, and -1 rank 4, 2, 3, 1; the scores 2.5, 2.5, 4, 1: the centred products
    # are (1.5, -.5, .5, -1.5) and (0, 0, 1.5, -1.5): 3 / sqrt(5 * 4.5).
    first = np.tile([1.0, 0.0], (4, 1))
    second = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0], [-1.0, 0.0]])
    assert spearman(first, second, [3, 3, 5, 0], [2])[2] == pytest.approx(3 / np.sqrt(22.5))
    assert np.isnan(spearman(np.ones((2, 2)), np.ones((2, 2)), [1, 2], [2])[2])
    assert prefix_cosines([[0.0, 0.0]], [[1.0, 1.0]], [2])[0, 0] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": SCORES[:-1]}, r"must be 40 finite numbers.* Received shape \(39,\)"),
        ({"scores": [np.nan, *SCORES[1:]]}, "40 finite numbers"),
        ({"scores": np.ones(40)}, "must differ for a rank correlation. All 40 are 1.0"),
        ({"second": SECOND[:-1]}, r"Received \(40, 8\) and \(39, 8\)"),
        ({"first": np.where(np.arange(40)[:, None] == 3, np.inf, FIRST)}, "NaN or inf in row 3"),
        ({"dims": [9]}, "d at least 9"),
    ],
)
def test_spearman_errors(change, message):
    arguments = {"first": FIRST, "second": SECOND, "scores": SCORES, "dims": [8]}
    with pytest.raises(ValueError, match=message):
        spearman(**{**arguments, **change})


def test_ndcg_agrees_with_an_oracle():
    degrees = RNG.integers(0, 4, (40, 12))
    degrees[:, 0] += 1
    documents = RNG.standard_normal((12, 8))
    relevance = [{i: int(g) for i, g in enumerate(row)} for row in degrees]
    for k in (3, 10):
        found = ndcg(FIRST, documents, relevance, [2, 8], k=k)
        for dim in (2, 8):
            order = cosines(FIRST[:, :dim], documents[:, :dim])
            assert found[dim] == pytest.approx(ndcg_score(degrees, order, k=k))


def test_ndcg_by_hand():
    """Rows 2, 1, 0 come in this order; a query without relevant documents is left out."""
    documents = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    queries = np.array([[1.0, 0.1], [1.0, 0.0]])
    found = ndcg(queries, documents, [{0: 3, 1: 1}, {2: 0}], [2], k=2)
    assert found[2] == pytest.approx((1 / np.log2(3)) / (3 + 1 / np.log2(3)))
    # More slots than documents: the empty ones hold nothing.
    whole = ndcg(queries, documents, [{0: 3, 1: 1}, {2: 1}], [2], k=9)
    first = (1 / np.log2(3) + 3 / 2) / (3 + 1 / np.log2(3))
    assert whole[2] == pytest.approx((first + 1) / 2)


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        ([{0: 1}], "must be 2 dicts, one for each query. Received 1"),
        ([{0: 1}, {3: 1}], "must name rows 0 to 2 of `documents`. Query 1 names 3"),
        ([{0: -1}, {1: 1}], "Query 0 has -1.0 for document 0"),
        ([{}, {1: 0}], "a relevant document for at least one query"),
    ],
)
def test_ndcg_errors(relevance, message):
    with pytest.raises(ValueError, match=message):
        ndcg(np.eye(3)[:2], np.eye(3), relevance, [3])


def test_pair_recall_agrees_with_an_oracle():
    ids, documents = RNG.integers(0, 10, 40), RNG.standard_normal((25, 8))
    own = np.arange(25) % 10
    found = pair_recall(FIRST, ids, documents, own, [3, 8], ks=(1, 4))
    for dim in (3, 8):
        order = np.argsort(-cosines(FIRST[:, :dim], documents[:, :dim]), axis=1)
        for k in (1, 4):
            hits = [ids[q] in own[order[q, :k]] for q in range(40)]
            assert found[dim][k] == pytest.approx(np.mean(hits))
    assert found[8][1] <= found[8][4]
    with pytest.raises(ValueError, match="1 have none, such as 10"):
        pair_recall(FIRST, np.r_[ids[:-1], 10], documents, own, [8])
    with pytest.raises(ValueError, match=r"at most the 25 documents. Received \[26\]"):
        pair_recall(FIRST, ids, documents, own, [8], ks=(26,))


def test_zero_shot_by_hand():
    """Prompts of differing length count alike, and the answer differs between the prefixes."""
    texts = np.array([[[9.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 1.0, 4.0], [0.0, 1.0, 4.0]]])
    images = np.array([[1.0, 0.9, 0.0], [0.1, 1.0, 3.0]])
    # With two dims class 0 lies at 45 degrees and class 1 at 90, image 0 at 42 and image 1 at 84;
    # a mean of prompts that are not normalised would put class 0 at 6 degrees.
    assert zero_shot_accuracy(texts, images, [0, 1], [2, 3]) == {2: 1.0, 3: 1.0}
    assert zero_shot_accuracy(texts, images, [0, 0], [2, 3]) == {2: 0.5, 3: 0.5}
    wide = np.array([[0.3, 1.0, 1.0]])  # 73 degrees in two dims: class 1
    assert zero_shot_accuracy(texts, wide, [1], [2]) == {2: 1.0}
    # unnormalised over the prefix of three: class 0 is (.71, .71, 0), class 1 (0, .24, .97)
    assert zero_shot_accuracy(texts, [[1.0, 0.2, 0.9]], [0], [2, 3]) == {2: 1.0, 3: 0.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(40, 3)}, "between 0 and 2, for 3 classes. Received 3 to 3"),
        ({"prompt_embeddings": FIRST[:3]}, r"\(classes, templates, d\). Received shape \(3, 8\)"),
        ({"dims": [9]}, "d at least 9"),
        ({"labels": SCORES}, "must be 40 ints"),
    ],
)
def test_zero_shot_errors(change, message):
    arguments = {
        "prompt_embeddings": FIRST[:6].reshape(3, 2, 8),
        "embeddings": FIRST,
        "labels": np.arange(40) % 3,
        "dims": [8],
    }
    with pytest.raises(ValueError, match=message):
        zero_shot_accuracy(**{**arguments, **change})


def test_prompts():
    assert prompts(["a_b"], ["{}s", "the {}"]) == ["a bs", "the a b"]
    for names, templates in (([], ["{}"]), (["a"], []), (["a"], ["{} {}"]), (["a"], ["no"])):
        with pytest.raises(ValueError, match='templates with one "{}" each'):
            prompts(names, templates)
