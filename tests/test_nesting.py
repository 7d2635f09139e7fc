import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_keras import NestingDims


def test_halving_gives_the_dims_of_the_paper():
    assert NestingDims.halving(2048) == (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert NestingDims.halving(768, smallest=12) == [12, 24, 48, 96, 192, 384, 768]
    assert NestingDims.halving(100, smallest=10) == (12, 25, 50, 100)
    assert NestingDims.halving(8, smallest=8) == (8,)


def test_uniform_gives_table_29():
    assert NestingDims.uniform(2048)[:4] == (8, 212, 416, 620)
    assert NestingDims.uniform(2048).width == 2048
    assert NestingDims.uniform(10, smallest=1, count=4) == (1, 4, 7, 10)
    assert NestingDims.uniform(5, smallest=5, count=1) == (5,)


def test_interpolated_dims():
    dims = NestingDims.halving(2048)
    assert dims.interpolated() == (12, 24, 48, 96, 192, 384, 768, 1536)
    assert NestingDims([1, 2, 6]).interpolated(3) == (3, 4, 5)
    assert NestingDims([2, 4]).with_interpolated() == (2, 3, 4)


def test_blocks_cover_the_width_once():
    dims = NestingDims([3, 5, 9])
    assert dims.block_edges == (0, 3, 5, 9)
    assert dims.blocks == ((0, 3), (3, 5), (5, 9))


def test_a_sequence_of_plain_ints():
    dims = NestingDims(np.array([8, 16]))
    assert all(type(dim) is int for dim in dims)
    assert (len(dims), dims[0], dims[-1], dims.index(16), 8 in dims) == (2, 8, 16, 1, True)
    assert NestingDims(dims) == dims == NestingDims((8, 16))
    assert hash(dims) == hash(NestingDims([8, 16]))
    assert dims != [8]
    assert repr(dims) == "NestingDims([8, 16])"
    assert pickle.loads(pickle.dumps(dims)) == dims


def test_immutable():
    dims = NestingDims([8, 16])
    with pytest.raises(AttributeError, match="immutable"):
        dims.width = 3
    with pytest.raises(TypeError):
        dims[0] = 3


def test_relative_importance_of_table_27():
    dims = NestingDims([8, 16, 32])
    assert dims.relative_importance() == (1.0, 1.0, 1.0)
    assert dims.relative_importance({8: 2.0}) == (2.0, 1.0, 1.0)
    assert dims.relative_importance({8: 2.0, 16: 1.5}) == (2.0, 1.5, 1.0)
    assert dims.relative_importance([1, 0, 3]) == (1.0, 0.0, 3.0)


@given(st.sets(st.integers(1, 10_000), min_size=1, max_size=12))
def test_any_ascending_list_is_accepted_and_kept(numbers):
    ascending = sorted(numbers)
    dims = NestingDims(ascending)
    assert list(dims) == ascending
    assert sum(stop - start for start, stop in dims.blocks) == ascending[-1]
    assert not set(dims.interpolated(3)) & numbers
    assert list(dims.with_interpolated()) == sorted(numbers | set(dims.interpolated()))


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_halving_and_uniform_end_at_the_width(a, b):
    width, smallest = max(a, b), min(a, b)
    assert NestingDims.halving(width, smallest)[0] >= smallest
    assert NestingDims.halving(width, smallest).width == width
    uniform = NestingDims.uniform(width, smallest, count=min(7, width - smallest + 1))
    assert (uniform[0], uniform.width) == (smallest if width > smallest else width, width)


@pytest.mark.parametrize(
    ("dims", "width", "message"),
    [
        ([], None, "at least one dim.* Received an empty list"),
        ([0, 8], None, r"at least 1\. Received 0 in \[0, 8\]"),
        ([-4, 8], None, r"at least 1\. Received -4"),
        ([8, 8, 16], None, r"must not repeat a dim\. Received 8 more than once in \[8, 8, 16\]"),
        ([8, 16, 8], None, "must not repeat a dim. Received 8"),
        ([16, 8], None, r"must ascend\. Received 8 after 16.*did you mean \[8, 16\]"),
        ([8.0, 16], None, r"must be an int\. Received 8\.0 of type float"),
        (["8"], None, r"must be an int\. Received '8' of type str"),
        ([True, 2], None, "must be an int. Received the boolean True"),
        ([np.bool_(True), 2], None, "must be an int. Received the boolean"),
        ("8,16", None, "must be an iterable of ints .* of type str"),
        (8, None, "must be an iterable of ints .* of type int"),
        ([8, 32], 16, r"must not exceed the embedding width 16\. Received 32"),
        ([8, 16], 32, r"must end at the embedding width 32.*did you mean \[8, 16, 32\]"),
        ([8, 16], 0, "`width` must be at least 1"),
    ],
)
def test_bad_lists_have_their_own_texts(dims, width, message):
    with pytest.raises(ValueError, match=message):
        NestingDims(dims, width)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NestingDims.halving(8, smallest=16), "must not exceed the embedding width 8"),
        (lambda: NestingDims.halving(8.5), "must be an int. Received 8.5"),
        (lambda: NestingDims.uniform(9, 8, count=3), "`count` must lie between 2 and 2"),
        (lambda: NestingDims.uniform(9, 8, count=1), "`count` must lie between 2 and 2"),
        (lambda: NestingDims([8]).interpolated(0), "`per_gap` must be at least 1"),
        (lambda: NestingDims([8, 16]).index(9), r"trained prefixes \[8, 16\]\. Received 9"),
        (
            lambda: NestingDims([8, 16]).relative_importance([1]),
            "each of the 2 prefixes. Received 1",
        ),
        (lambda: NestingDims([8]).relative_importance({9: 1}), r"trained prefixes \[8\]"),
        (lambda: NestingDims([8]).relative_importance([float("nan")]), "finite numbers"),
        (lambda: NestingDims([8]).relative_importance(3), "a sequence of 1 numbers"),
    ],
)
def test_errors_of_the_methods(call, message):
    with pytest.raises(ValueError, match=message):
        call()
