import numpy as np
import pytest

from mrl_keras import MatryoshkaPairwiseCosine, MatryoshkaSimilarity
from tests.support.contracts import run_layer_contract

RNG = np.random.default_rng(0)
DIMS = [2, 3, 8]
PAIR = [RNG.standard_normal((6, 8)).astype("float32") for _ in range(2)]


def test_contract():
    run_layer_contract(MatryoshkaPairwiseCosine, {"nesting_dims": DIMS}, PAIR)


def test_values_are_cosines_of_prefixes_and_the_diagonal_of_all_similarities():
    found = np.asarray(MatryoshkaPairwiseCosine(DIMS)(PAIR))
    assert found.shape == (6, 3, 1)
    for p, dim in enumerate(DIMS):
        one, two = (x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1, keepdims=True) for x in PAIR)
        np.testing.assert_allclose(found[:, p, 0], (one * two).sum(axis=1), atol=1e-6)
    every = np.asarray(MatryoshkaSimilarity(DIMS)(PAIR))
    np.testing.assert_allclose(found[..., 0], np.einsum("ipi->ip", every), atol=1e-6)
    zero = np.asarray(MatryoshkaPairwiseCosine(DIMS)([np.zeros((1, 8), "float32"), PAIR[1][:1]]))
    np.testing.assert_array_equal(zero, 0.0)


@pytest.mark.parametrize("shapes", [[(6, 8), (5, 8)], [(6, 8), (6, 7)], [(6, 8)], [(6, 8, 1)] * 2])
def test_errors(shapes):
    with pytest.raises(ValueError, match=r"needs a list of two tensors \(n, 8\).* Received shapes"):
        MatryoshkaPairwiseCosine(DIMS)([np.zeros(shape, "float32") for shape in shapes])
