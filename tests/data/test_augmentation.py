import numpy as np
import pytest
import tensorflow as tf

from mrl_keras.data.image.augmentation import (
    centre_crop,
    decode_image,
    pad_crop_flip,
    random_resized_crop,
    resolution_stages,
)


def seeds_of(count, seed=3, epoch=0):
    columns = np.full(count, seed), np.full(count, epoch), np.arange(count)
    return tf.constant(np.stack(columns, axis=1).astype("int64"))


def test_pad_crop_flip_is_reflection_padding_a_crop_and_a_flip():
    images = np.arange(64 * 6 * 7 * 2).reshape(64, 6, 7, 2) % 251
    out = pad_crop_flip(images.astype("uint8"), seeds_of(64), padding=2).numpy()
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    found = set()
    for one, image in zip(out, padded, strict=True):
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (1, -1)
            if (image[top : top + 6, left : left + 7][:, ::flip] == one).all()
        ]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) > 30
    assert {flip for *_, flip in found} == {1, -1}
    assert {top for top, *_ in found} == {left for _, left, _ in found} == set(range(5))


def test_pad_crop_flip_follows_from_an_examples_seed_alone():
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3)).astype("uint8")
    seeds = seeds_of(8)
    whole = pad_crop_flip(images, seeds, 2).numpy()
    np.testing.assert_array_equal(pad_crop_flip(images[5:], seeds[5:], 2).numpy(), whole[5:])
    with pytest.raises(ValueError, match="`padding` must be below .* 6 x 6. Received 6"):
        pad_crop_flip(images, seeds, 6)


def gradient_image(height=40, width=60):
    """The pixel values tell the place: red grows downwards, green to the right."""
    red, green = np.mgrid[0:height, 0:width]
    return np.stack([4 * red, 4 * green, np.zeros_like(red)], axis=-1).astype("uint8")


@pytest.mark.parametrize("encode", [tf.io.encode_png, lambda x: tf.io.encode_jpeg(x, quality=100)])
def test_random_resized_crop_shows_a_part_of_the_wanted_size(encode):
    encoded = encode(gradient_image())
    areas, flips = [], []
    for i in range(40):
        image = random_resized_crop(encoded, tf.constant([i, 0]), 16).numpy()
        assert image.shape == (16, 16, 3)
        rows, columns = image[..., 0].mean(axis=1) / 4, image[..., 1].mean(axis=0) / 4
        height, width = (abs(line[-1] - line[0]) * 16 / 15 for line in (rows, columns))
        areas.append(height * width / (40 * 60))
        flips.append(columns[-1] < columns[0])
        assert rows[-1] > rows[0]
    assert min(areas) > 0.2
    assert max(areas) < 1.05
    assert np.std(areas) > 0.1
    assert 5 < sum(flips) < 35
    again = random_resized_crop(encoded, tf.constant([39, 0]), 16).numpy()
    np.testing.assert_array_equal(again, image)


def test_centre_crop_keeps_the_middle():
    image = gradient_image()
    np.testing.assert_allclose(centre_crop(image, 40, 1.0), image[:, 10:50], atol=0.01)
    half = centre_crop(tf.constant(image), 20, 0.5).numpy()
    np.testing.assert_allclose(half, image[10:30, 20:40], atol=0.01)
    with pytest.raises(ValueError, match=r"`fraction` must be in \(0, 1\]"):
        centre_crop(image, 4, 0.0)


def test_every_format_decodes_to_three_channels():
    image = gradient_image()
    for encoded in (tf.io.encode_png(image), tf.io.encode_png(image[..., :1])):
        assert decode_image(encoded).shape == (40, 60, 3)


def test_resolution_stages():
    # FFCV: round(interp(epoch, [29, 34], [160, 192]) / 32) * 32 first gives 192 after 31.5 of 40.
    assert resolution_stages(40, 160, 192) == [(0, 160), (32, 192)]
    few = resolution_stages(10, 160, 224)
    assert len({step for step, _ in few}) == len(few)
    assert few[-1][1] == 224
    assert resolution_stages(40_000, 160, 192) == [(0, 160), (31_500, 192)]
    assert resolution_stages(100, 64, 64) == [(0, 64)]
    stages = resolution_stages(1000, 128, 224, ramp=(0.0, 1.0))
    assert stages == [(0, 128), (167, 160), (500, 192), (833, 224)]
    with pytest.raises(ValueError, match="`largest` must be at least 160"):
        resolution_stages(10, 160, 128)
    with pytest.raises(ValueError, match="`ramp` must ascend"):
        resolution_stages(10, 160, 192, ramp=(0.9, 0.1))
