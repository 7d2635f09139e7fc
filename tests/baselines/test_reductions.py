import numpy as np
import pytest
import sklearn.decomposition

from mrl_keras.baselines import (
    PCA,
    SVD,
    ClassifierSVD,
    ClassifierTruncation,
    RandomFeatures,
    RandomProjection,
    Truncation,
)

RNG = np.random.default_rng(0)
TRAIN = RNG.standard_normal((60, 6)) * [1, 2, 3, 4, 5, 6] + 1.0
TEST = RNG.standard_normal((20, 6)) + 3.0
ALL = [PCA, SVD, RandomFeatures, RandomProjection, Truncation]


@pytest.mark.parametrize("dim", [1, 3, 6])
def test_pca_and_svd_agree_with_scikit_learn(dim):
    peer = sklearn.decomposition.PCA(dim).fit(TRAIN).transform(TEST)
    found = PCA().fit(TRAIN).transform(TEST, dim)
    np.testing.assert_allclose(np.abs(found), np.abs(peer), atol=1e-4)
    values, vectors = np.linalg.eigh(TRAIN.T @ TRAIN)
    expected = TEST @ vectors[:, np.argsort(-values)][:, :dim]
    np.testing.assert_allclose(
        np.abs(SVD().fit(TRAIN).transform(TEST, dim)), np.abs(expected), atol=1e-4
    )


def test_truncation_and_random_features_choose_components():
    np.testing.assert_allclose(Truncation().fit(TRAIN).transform(TEST, 4), TEST[:, :4], rtol=1e-6)
    features = RandomFeatures(seed=1).fit(TRAIN)
    order = np.random.default_rng(1).permutation(6)
    np.testing.assert_allclose(features.transform(TEST, 6), TEST[:, order], rtol=1e-6)
    np.testing.assert_array_equal(features.transform(TEST, 2), features.transform(TEST, 6)[:, :2])


def test_random_projection_keeps_squared_lengths_on_average():
    x = np.ones((1, 6))
    lengths = [
        (RandomProjection(seed).fit(TRAIN).transform(x, 3) ** 2).sum() for seed in range(2000)
    ]
    assert np.mean(lengths) == pytest.approx(6.0, rel=0.06)


@pytest.mark.parametrize("dim", [1, 5, 6])
def test_classifier_of_the_first_rows(dim):
    kernel, bias = RNG.standard_normal((6, 8)), RNG.standard_normal(8)
    cut = ClassifierTruncation().fit(kernel, bias)
    expected = TEST[:, :dim] @ kernel[:dim] + bias
    np.testing.assert_allclose(cut.logits(TEST, dim), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cut.transform(TEST, dim), TEST[:, :dim], rtol=1e-6)


def test_classifier_of_low_rank():
    kernel, bias = RNG.standard_normal((6, 4)), RNG.standard_normal(4)
    svd = ClassifierSVD().fit(kernel, bias)
    np.testing.assert_allclose(svd.logits(TEST, 4), TEST @ kernel + bias, rtol=1e-4, atol=1e-4)
    u, s, v = np.linalg.svd(kernel)
    expected = TEST @ (u[:, :2] * s[:2] @ v[:2]) + bias
    np.testing.assert_allclose(svd.logits(TEST, 2), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="must not exceed the 4 fitted dims. Received 5"):
        svd.logits(TEST, 5)
    with pytest.raises(ValueError, match="`bias` must be 4 finite numbers"):
        svd.fit(kernel, [1.0])


@pytest.mark.parametrize("kind", ALL)
def test_what_is_transformed_changes_nothing(kind):
    reduction = kind().fit(TRAIN)
    alone = reduction.transform(TEST[:1], 3)
    np.testing.assert_allclose(reduction.transform(TEST, 3)[:1], alone, rtol=1e-5)
    np.testing.assert_array_equal(kind().fit(TRAIN).transform(TEST[:1], 3), alone)


@pytest.mark.parametrize("kind", ALL)
def test_errors(kind):
    with pytest.raises(ValueError, match="is not fitted. Call `fit` first"):
        kind().transform(TEST, 2)
    with pytest.raises(ValueError, match=r"at least one example. Received shape \(0, 6\)"):
        kind().fit(TRAIN[:0])
    bad = TRAIN.copy()
    bad[7, 2] = np.nan
    with pytest.raises(ValueError, match="the first is row 7"):
        kind().fit(bad)
    fitted = kind().fit(TRAIN)
    with pytest.raises(ValueError, match="must not exceed the 6 fitted dims. Received 7"):
        fitted.transform(TEST, 7)
    with pytest.raises(ValueError, match=r"\(examples, 6\)"):
        fitted.transform(TEST[:, :5], 2)
