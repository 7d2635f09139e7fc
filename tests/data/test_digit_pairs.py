"""The numbers 00 to 99, made of digits of one split alone."""

import numpy as np
import pytest

from mrl_keras.data import digit_pairs, load_images

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def pairs():
    return load_images("digit_pairs")


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def halves(split):
    """The bytes of the left and of the right image of each pair."""
    left, right = split.images[:, :, :8], split.images[:, :, 8:]
    return [one.tobytes() for one in left], [one.tobytes() for one in right]


def test_shapes_and_balance(pairs):
    assert (pairs.image_shape, pairs.max_value, pairs.name) == ((8, 16, 1), 16, "digit_pairs")
    assert pairs.class_names == tuple(f"{number:02}" for number in range(100))
    for split, count in zip(SPLITS, (40, 10, 20), strict=True):
        found = getattr(pairs, split)
        assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(np.bincount(found.labels), [count] * 100)
        assert (np.diff(found.labels) < 0).any()  # shuffled


@pytest.mark.parametrize("split", SPLITS)
def test_pairs_are_distinct_and_show_the_digits_of_their_label(pairs, digits, split):
    source, made = getattr(digits, split), getattr(pairs, split)
    digit_of = {
        image.tobytes(): label for image, label in zip(source.images, source.labels, strict=True)
    }
    left, right = halves(made)
    numbers = [10 * digit_of[tens] + digit_of[ones] for tens, ones in zip(left, right, strict=True)]
    np.testing.assert_array_equal(numbers, made.labels)
    assert len(set(zip(left, right, strict=True))) == len(made)
    # Nearly every image of the split is used.
    assert len({*left, *right}) > 0.99 * len(source)


def test_no_image_is_in_two_splits(pairs):
    train, validation, test = ({*left, *right} for left, right in map(halves, splits_of(pairs)))
    assert not train & validation
    assert not train & test
    assert not validation & test


def splits_of(data):
    return [getattr(data, split) for split in SPLITS]


def test_the_seed_decides(pairs):
    same, other = load_images("digit_pairs"), load_images("digit_pairs", seed=1)
    for split in SPLITS:
        first, again, another = (getattr(one, split) for one in (pairs, same, other))
        np.testing.assert_array_equal(first.images, again.images)
        np.testing.assert_array_equal(first.labels, again.labels)
        assert (first.images != another.images).any()


def test_fewer_pairs_stay_balanced():
    few = load_images("digit_pairs", max_examples=250)
    assert [len(split) for split in splits_of(few)] == [200, 200, 200]
    np.testing.assert_array_equal(np.bincount(few.test.labels), [2] * 100)


def test_sources_name_the_rows():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 9, (30, 2, 3, 1)), np.arange(30) % 10
    pairs, numbers, sources = digit_pairs(images, labels, per_class=9, seed=3)
    assert (pairs.shape, sources.shape) == ((900, 2, 6, 1), (900, 2))
    np.testing.assert_array_equal(pairs[:, :, :3], images[sources[:, 0]])
    np.testing.assert_array_equal(pairs[:, :, 3:], images[sources[:, 1]])
    np.testing.assert_array_equal(labels[sources] @ [10, 1], numbers)
    assert len(np.unique(sources, axis=0)) == 900  # all 3 x 3 pairs of each number


IMAGES, LABELS = np.zeros((20, 8, 8, 1)), np.arange(20) % 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGES[0], LABELS, 1), r"`images` must be \(examples, height, width, channels\)"),
        ((IMAGES, LABELS[:5], 1), r"Received \(20, 8, 8, 1\), and int64 \(5,\)"),
        ((IMAGES, LABELS / 1, 1), r"and float64 \(20,\)"),
        ((IMAGES, LABELS + 1, 1), "must be the digits 0 to 9, each of them at least once"),
        ((IMAGES, LABELS % 9, 1), r"at least once\. Received \[4, 2, .* 0\] examples"),
        ((IMAGES, LABELS, 0), "`per_class` must be at least 1"),
        ((IMAGES, LABELS, 5), "must not exceed the 4 pairs that 2 images .* Received 5"),
    ],
)
def test_wrong_digits(arguments, message):
    with pytest.raises(ValueError, match=message):
        digit_pairs(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_examples": 99}, "at least 100 for 'digit_pairs', a pair of each number"),
        ({"image_size": 4}, "`image_size` is for TFDS sets; 'digit_pairs' keeps its pixels"),
        ({"validation_fraction": 1.0}, "`validation_fraction` must lie between 0 and 1"),
        (
            {"validation_fraction": 0.01},
            "The validation split needs 10 pairs .* digit give 1. Choose",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_images("digit_pairs", **arguments)
