import numpy as np
import pytest

from mrl_keras.data.image.corruptions import CORRUPTIONS, corrupt

IMAGES = np.random.default_rng(0).integers(40, 200, (4, 32, 32, 3), dtype="uint8")


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_severities_go_further_from_the_image(kind):
    far = []
    for severity in range(1, 6):
        changed = corrupt(IMAGES, kind, severity, seed=3)
        np.testing.assert_array_equal(changed, corrupt(IMAGES, kind, severity, seed=3))
        assert changed.shape == IMAGES.shape
        assert changed.dtype == np.uint8
        far.append(np.abs(changed.astype(float) - IMAGES).mean())
    assert far[0] > 0
    assert far == sorted(far)


def test_known_values():
    flat = np.full((1, 8, 8, 3), 100, "uint8")
    for kind in ("gaussian_blur", "contrast", "pixelate"):
        np.testing.assert_array_equal(corrupt(flat, kind, 5), flat)
    noise = corrupt(np.full((8, 32, 32, 3), 128, "uint8"), "gaussian_noise", 3).astype(float)
    assert noise.std() == pytest.approx(20, rel=0.03)
    hit = corrupt(np.full((8, 32, 32, 3), 128, "uint8"), "impulse_noise", 5) != 128
    assert hit.mean() == pytest.approx(0.17, rel=0.1)


def test_errors():
    with pytest.raises(ValueError, match="must be uint8"):
        corrupt(IMAGES / 255.0, "contrast", 1)
    with pytest.raises(ValueError, match=r"of shape \(0, 32, 32, 3\)"):
        corrupt(IMAGES[:0], "contrast", 1)
    with pytest.raises(ValueError, match="`kind` must be one of"):
        corrupt(IMAGES, "snow", 1)
    with pytest.raises(ValueError, match="between 1 and 5. Received 6"):
        corrupt(IMAGES, "contrast", 6)
