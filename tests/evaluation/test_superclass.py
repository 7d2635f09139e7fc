import numpy as np
import pytest

from mrl_keras.evaluation import (
    hypernyms_at,
    read_hierarchy,
    superclass_accuracy,
    superclasses_of,
)

GROUPS = ["cat", "cat", "dog", None]
PAIRS = [("tabby", "cat"), ("cat", "pet"), ("pet", "animal"), ("wolf", "dog"), ("dog", "animal")]


def test_by_hand():
    labels = [0, 1, 2, 3]
    predictions = [[1, 2], [0, 1], [0, 2], [3, 0]]
    found = superclass_accuracy(predictions, labels, GROUPS)
    assert found["cat"].tolist() == [1.0, 0.5]
    assert found["dog"].tolist() == [0.0, 1.0]
    assert found["all"].tolist() == [0.75, 0.5]
    assert list(superclass_accuracy(predictions, labels, GROUPS, names=["dog"])) == ["dog", "all"]


def test_every_class_alone_is_plain_accuracy():
    rng = np.random.default_rng(0)
    predictions, labels = rng.integers(0, 5, (50, 3)), rng.integers(0, 5, 50)
    found = superclass_accuracy(predictions, labels, [None] * 5)
    np.testing.assert_allclose(found["all"], (predictions == labels[:, None]).mean(axis=0))
    everything = superclass_accuracy(predictions, labels, ["one"] * 5)
    assert everything["one"].tolist() == [1.0] * 3


def test_the_nearest_superclass_counts():
    assert superclasses_of(["tabby", "wolf", "oak"], PAIRS, ["animal", "cat"]) == [
        "cat", "animal", None,
    ]  # fmt: skip
    assert superclasses_of(["dog"], PAIRS, ["dog"]) == ["dog"]
    several = [*PAIRS, ("tabby", "dog")]
    assert superclasses_of(["tabby"], several, ["dog", "cat"]) == ["dog"]


def test_levels_of_the_hierarchy_by_hand():
    classes = ["tabby", "wolf", "pet", "animal"]
    assert hypernyms_at(classes, PAIRS, 0) == ["animal"] * 4
    assert hypernyms_at(classes, PAIRS, 1) == ["pet", "dog", "pet", "animal"]
    assert hypernyms_at(classes, PAIRS, 2) == ["cat", "wolf", "pet", "animal"]
    # By a second parent tabby is two steps below the root, not three.
    assert hypernyms_at(["tabby"], [*PAIRS, ("tabby", "dog")], 1) == ["dog"]


def test_a_hierarchy_file_gives_the_same_superclasses(tmp_path):
    lines = ["# parent child", "", *(f"{parent} {child}" for child, parent in PAIRS)]
    (tmp_path / "is_a.txt").write_text("\n".join(lines))
    assert read_hierarchy(tmp_path / "is_a.txt") == PAIRS
    swapped = read_hierarchy(tmp_path / "is_a.txt", order="child parent")
    assert swapped == [(parent, child) for child, parent in PAIRS]
    groups = hypernyms_at(["tabby", "wolf"], read_hierarchy(tmp_path / "is_a.txt"), 1)
    assert superclass_accuracy([[1], [1]], [0, 1], groups)["all"].tolist() == [0.5]
    for text, message in (
        ("a b c", "Line 1 holds 3"),
        ("a b\n\na", "Line 3 holds 1"),
        ("# nothing", "holds no pair"),
    ):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_hierarchy(tmp_path / "bad.txt")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: superclass_accuracy([[4]], [0], GROUPS), "`predictions` must be classes of the"),
        (lambda: superclass_accuracy([[0.0]], [0], GROUPS), "must be ints. Received float64"),
        (lambda: superclass_accuracy([[0]], [-1], GROUPS), "`labels` must be .* Received -1 to -1"),
        (lambda: superclass_accuracy([[0]], [0], GROUPS, ["cow"]), "no superclass 'cow'. There ar"),
        (lambda: superclass_accuracy([[0]], [0], GROUPS, ["dog"]), "No example has .* 'dog'"),
        (lambda: superclass_accuracy(np.zeros((0, 1)), [], GROUPS), "at least one example"),
        (lambda: hypernyms_at(["cow", "cat"], PAIRS, 1), r"lacks 1 of 2 classes, .*\['cow'\]"),
        (lambda: hypernyms_at(["cat"], PAIRS, -1), "`level` must be at least 0"),
        (lambda: hypernyms_at(["a"], [("a", "b"), ("b", "a")], 1), "a cycle above 'a'"),
        (lambda: read_hierarchy("x", "up"), '"parent child" or "child parent". Received .up'),
        (lambda: superclasses_of(["a"], PAIRS, ["cow"]), r"Received unknown \['cow'\]"),
        (lambda: superclasses_of(["a"], PAIRS, []), "at least one name"),
        (lambda: superclasses_of(["a"], [("a", "b"), ("b", "a"), ("d", "c")], ["c"]), "a cycle th"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()
