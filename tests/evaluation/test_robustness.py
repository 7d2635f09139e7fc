import numpy as np
import pytest

from mrl_keras.data import class_names
from mrl_keras.evaluation import (
    RobustnessRow,
    class_mapping,
    exact_retrieval_table,
    mapped_labels,
    robustness_accuracy,
)

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


def test_a_label_of_several_classes_by_hand():
    # Label 10 stands for the classes 0 and 2, label 11 for 1; the guesses are 2, 2 at both dims.
    found = run(mapping=((10, (0, 2)), (11, 1)))["other"]
    # Clean guesses are 0, 2, 2 at the first dim and 0, 1, 2 at the second.
    assert found == {
        2: RobustnessRow(0.5, pytest.approx(2 / 3)),
        4: RobustnessRow(0.5, 1.0),
    }


def test_the_same_labels_and_the_same_classes_are_plain_accuracy():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((40, 2, 5)), np.arange(40) % 5
    order = rng.permutation(40)
    sets = [("again", logits[order], labels[order], None)]
    found = robustness_accuracy(np.asarray, (logits, labels), sets, dims=[2, 4])["again"]
    for i, dim in enumerate([2, 4]):
        expected = pytest.approx((logits[:, i].argmax(axis=-1) == labels).mean())
        assert found[dim] == RobustnessRow(expected, expected)


def test_mapping_by_name():
    wnids = ["n01", "n02", "n03", "n04"]
    assert class_mapping(["n04", "n02"], wnids) == {0: 3, 1: 1}
    assert class_mapping(["n04", "cow"], wnids) == {0: 3}
    objects = class_mapping(["chair", "n02"], wnids, {"chair": ["n01", "n03"]})
    assert objects == {0: (0, 2), 1: 1}
    for arguments, message in (
        ((["a"], ["b"]), "no class name in common"),
        ((["a", "a"], ["a"]), r"`set_classes` must not repeat a name. Received \['a'\]"),
        ((["a"], ["a"], {"x": "a"}), r"Unknown: \['x'\]"),
        ((["a"], ["a"], {"a": "y"}), r"Unknown: \['y'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            class_mapping(*arguments)


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch"])
def test_sets_of_tfds_are_mapped_by_their_label_names(name, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    there, model = (
        class_names(tfds.builder(one, data_dir=tmp_path)) for one in (name, "imagenet2012")
    )
    backwards = model[::-1]  # a model with another numbering
    mapping = class_mapping(there, backwards)
    assert len(mapping) == len(there)
    assert all(backwards[mapping[label]] == wnid for label, wnid in enumerate(there))


def test_queries_of_another_domain_against_the_database():
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((4, 6))
    row_labels, sketch_labels = np.arange(40) % 4, np.array([0, 1, 2, 2])
    rows = centres[row_labels] + 0.1 * rng.standard_normal((40, 6))
    mapping = class_mapping(["n04", "cow", "n02"], ["n01", "n02", "n03", "n04"])
    kept, labels = mapped_labels(sketch_labels, mapping)
    assert (kept.tolist(), labels.tolist()) == ([True, False, True, True], [3, 1, 1])
    queries = centres[[3, 0, 1, 1]] + 0.1 * rng.standard_normal((4, 6))
    table = exact_retrieval_table(queries[kept], labels, rows, row_labels, [6], ks=[5])
    assert table[6]["P@5"] == 1.0
    with pytest.raises(ValueError, match="No example has a label"):
        mapped_labels([1, 1], mapping)
    with pytest.raises(ValueError, match=r"Labels with several: \[0\]"):
        mapped_labels([0], {0: (1, 2)})


def test_errors():
    with pytest.raises(ValueError, match=r"lacks the labels \[12\]"):
        run(labels=(10, 12))
    with pytest.raises(ValueError, match="Two labels of 'other' stand for the class 0: 10 and 11"):
        run(mapping=((10, 0), (11, (0, 1))))
    with pytest.raises(ValueError, match=r"'other' is compared with lacks .* labels \[11\]"):
        run(clean_labels=(0, 0, 2))
    with pytest.raises(ValueError, match=r"between 0 and 2. Received 3 ... 3"):
        run(mapping=((10, 0), (11, 3)))
    with pytest.raises(ValueError, match="holds no image"):
        run(images=SHIFTED[:0], labels=())
    with pytest.raises(ValueError, match="NaN logits"):
        run(images=SHIFTED * np.nan)
    with pytest.raises(ValueError, match="prefixes, classes"):
        run(predict=lambda x: x[:, 0])
