import numpy as np
import pytest

from mrl_keras.evaluation.robustness import RobustnessRow, robustness_accuracy

# An "image" is its logits at two prefixes, so that the answer is known.
CLEAN = np.array(
    [[[3, 1, 0], [3, 1, 0]], [[1, 0, 2], [0, 2, 1]], [[0, 1, 2], [0, 1, 2]]], "float32"
)
SHIFTED = np.array([[[0, 1, 5], [2, 1, 5]], [[0, 1, 5], [2, 1, 5]]], "float32")


def run(clean_labels=(0, 1, 2), labels=(10, 11), mapping=((10, 0), (11, 1)), **change):
    sets = [("other", change.get("images", SHIFTED), np.array(labels, int), dict(mapping))]
    clean = (CLEAN, np.array(clean_labels))
    return robustness_accuracy(change.get("predict", np.asarray), clean, sets, dims=[2, 4])


def test_worked_by_hand():
    # Class 2 is not in the other set: its logits and its clean example are left out.
    found = run()["other"]
    assert found == {2: RobustnessRow(0.5, 0.5), 4: RobustnessRow(0.5, 1.0)}


def test_errors():
    with pytest.raises(ValueError, match=r"lacks the labels \[12\]"):
        run(labels=(10, 12))
    with pytest.raises(ValueError, match=r"clean set lacks the classes \[1\]"):
        run(clean_labels=(0, 0, 2))
    with pytest.raises(ValueError, match=r"between 0 and 2. Received 0 ... 3"):
        run(mapping=((10, 0), (11, 3)))
    with pytest.raises(ValueError, match="holds no image"):
        run(images=SHIFTED[:0], labels=())
    with pytest.raises(ValueError, match="NaN logits"):
        run(images=SHIFTED * np.nan)
    with pytest.raises(ValueError, match="prefixes, classes"):
        run(predict=lambda x: x[:, 0])
