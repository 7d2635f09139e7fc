"""Evaluators over batches: one pass, each example once, values equal to the array functions'."""

import dataclasses

import numpy as np
import pytest

from mrl_keras.evaluation import (
    Cascade,
    Disagreement,
    FewShot,
    LinearHead,
    LinearProbe,
    NearestNeighbours,
    ResultCache,
    Retrieval,
    Superclasses,
    collect,
    evaluate,
    exact_retrieval_table,
    few_shot_accuracy,
    head_accuracy,
    knn_accuracy,
    linear_probe_accuracy,
    superclass_accuracy,
)

RNG = np.random.default_rng(0)
CENTRES = 2 * RNG.standard_normal((3, 8))
TRAIN_LABELS, LABELS = np.arange(60) % 3, np.arange(31) % 3
TRAIN = CENTRES[TRAIN_LABELS] + RNG.standard_normal((60, 8))
TEST = CENTRES[LABELS] + RNG.standard_normal((31, 8))
LOGITS = RNG.standard_normal((31, 2, 3)) + 2 * np.eye(3)[LABELS][:, None]
DIMS = [2, 8]


class Embed:
    """Twice its input; counts its calls and the rows that it has seen."""

    def __init__(self):
        self.calls, self.rows = 0, 0

    def __call__(self, rows):
        self.calls, self.rows = self.calls + 1, self.rows + len(rows)
        return 2 * rows


def batches(rows, labels, size=8):
    return [(rows[i : i + size], labels[i : i + size]) for i in range(0, len(rows), size)]


TRAIN_BATCHES, TEST_BATCHES = batches(TRAIN, TRAIN_LABELS), batches(TEST, LABELS)
EMBEDDING = (
    NearestNeighbours(ks=(1, 5), tops=(1, 2)),
    LinearProbe(),
    FewShot(shots=(2,), repeats=3),
    Retrieval(ks=(5,)),
)


def test_embeddings_in_one_pass():
    embed = Embed()
    pairs = list(evaluate(embed, TEST_BATCHES, DIMS, EMBEDDING, TRAIN_BATCHES, seed=5))
    assert (embed.calls, embed.rows) == (8 + 4, 60 + 31)  # the last batches hold 4 and 7 rows
    values = dict(pairs)
    assert len(values) == len(pairs)
    data = (TRAIN, TRAIN_LABELS, TEST, LABELS)
    few = few_shot_accuracy(*data, DIMS, shots=2, repeats=3, seed=5)
    table = exact_retrieval_table(TEST, LABELS, TRAIN, TRAIN_LABELS, DIMS, ks=(5,))
    probe = linear_probe_accuracy(*data, DIMS)
    expected = {"seed": 5}
    for dim in DIMS:
        expected[f"top1/1nn/{dim}"] = knn_accuracy(*data, DIMS)[dim]
        for top in (1, 2):
            expected[f"top{top}/5nn/{dim}"] = knn_accuracy(*data, DIMS, k=5, top=top)[dim]
        expected[f"top1/probe/{dim}"] = probe[dim]
        expected[f"2shot/mean/{dim}"] = few[dim].mean
        expected[f"2shot/half_width/{dim}"] = few[dim].half_width
        for name, value in table[dim].items():
            expected[f"{name}/{dim}"] = value
    assert values == pytest.approx(expected)


def test_logits_in_one_pass():
    groups = ("pet", "pet", None)
    evaluators = (LinearHead((1, 2)), Disagreement(), Superclasses(groups), Cascade(splits=3))
    values = dict(evaluate(np.asarray, batches(LOGITS, LABELS), DIMS, evaluators))
    for top in (1, 2):
        for dim, value in head_accuracy(LOGITS, LABELS, DIMS, top).items():
            assert values[f"top{top}/linear/{dim}"] == value
    guesses = LOGITS.argmax(axis=-1)
    for name, expected in superclass_accuracy(guesses, LABELS, groups).items():
        assert [values[f"superclass/{name}/{dim}"] for dim in DIMS] == expected.tolist()
    shares = [value for name, value in values.items() if name.startswith("first_right/")]
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(1.0)
    assert values["oracle/8"] == pytest.approx(1.0 - values["first_right/none"])
    trends = [value for name, value in values.items() if name.startswith("classes/")]
    assert sum(trends) == pytest.approx(1.0)
    for policy in ("greedy", "joint"):
        assert values[f"cascade/{policy}/expected_dim/2"] == 2.0
        assert 2.0 <= values[f"cascade/{policy}/expected_dim/8"] <= 8.0
        assert values[f"cascade/{policy}/accuracy_std/8"] >= 0.0


def test_the_seed_decides_what_is_drawn():
    def run(seed):
        return list(evaluate(Embed(), TEST_BATCHES, [8], [FewShot((1,))], TRAIN_BATCHES, seed))

    assert run(1) == run(1)
    assert run(1)[:-1] != run(2)[:-1]
    assert run(2)[-1] == ("seed", 2)


def test_order_of_test_examples_does_not_matter():
    order = RNG.permutation(31)
    plain = dict(evaluate(Embed(), TEST_BATCHES, DIMS, EMBEDDING, TRAIN_BATCHES))
    moved = batches(TEST[order], LABELS[order], size=5)
    assert dict(evaluate(Embed(), moved, DIMS, EMBEDDING, TRAIN_BATCHES)) == pytest.approx(plain)


def test_a_cached_run_asks_nothing_again(tmp_path):
    content = {"weights": [np.eye(2)], "split": ["train", "test"], "preprocessing": "none"}

    def run(embed, evaluators=EMBEDDING, **change):
        cache = ResultCache(tmp_path)
        found = evaluate(
            embed,
            TEST_BATCHES,
            DIMS,
            evaluators,
            TRAIN_BATCHES,
            cache=cache,
            content={**content, **change},
        )
        return dict(found)

    first, again, other = Embed(), Embed(), Embed()
    plain = dict(evaluate(Embed(), TEST_BATCHES, DIMS, EMBEDDING, TRAIN_BATCHES))
    assert run(first) == plain
    assert run(again) == plain
    assert (first.calls, again.calls) == (12, 0)
    # Another argument is another value, but of the same embeddings.
    wider = run(again, [NearestNeighbours(ks=(3,))])
    assert "top1/3nn/8" in wider
    assert again.calls == 0
    run(other, weights=[np.eye(2) + 1])
    assert other.calls == 12


def test_collect_takes_any_iterable_of_batches():
    outputs, labels = collect(Embed(), iter(TEST_BATCHES))
    np.testing.assert_array_equal(outputs, 2 * TEST)
    np.testing.assert_array_equal(labels, LABELS)
    with pytest.raises(ValueError, match="no example to evaluate"):
        collect(Embed(), [])
    with pytest.raises(ValueError, match="no example to evaluate"):
        collect(Embed(), [(TEST[:0], LABELS[:0])])
    with pytest.raises(ValueError, match=r"outputs \(1,\) and labels \(8,\)"):
        collect(lambda rows: rows.sum(keepdims=True)[0], TEST_BATCHES)


@dataclasses.dataclass(frozen=True)
class Mine:
    """An evaluator of one's own."""

    scale: float = 2.0

    def __call__(self, outputs):
        yield "mean", self.scale * outputs.test.mean()


def test_an_evaluator_of_ones_own(tmp_path):
    found = list(evaluate(Embed(), TEST_BATCHES, DIMS, [Mine(), lambda x: [("n", len(x.test))]]))
    assert found == [("mean", pytest.approx(4 * TEST.mean())), ("n", 31), ("seed", 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluators": []}, "at least one evaluator"),
        ({"evaluators": [NearestNeighbours()]}, "learns from training data: give `train`"),
        ({"cache": True}, r"Missing: \['weights', 'split', 'preprocessing'\]"),
        ({"cache": True, "content": {"weights": 1, "split": 2}}, r"Missing: \['preprocessing'\]"),
        (
            {
                "cache": True,
                "content": dict.fromkeys(("weights", "split", "preprocessing")),
                "evaluators": [len],
            },
            "must be a dataclass",
        ),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"function": lambda x: x * np.nan}, "not NaN"),
        ({"dims": [1, 2, 3]}, "3 prefixes"),
        ({"test": batches(LOGITS, LABELS + 1)}, "`labels` must lie from 0 to 2"),
    ],
)
def test_errors(change, message, tmp_path):
    arguments = {
        "function": np.asarray,
        "test": batches(LOGITS, LABELS),
        "dims": DIMS,
        "evaluators": [LinearHead()],
        **change,
    }
    if "cache" in change:
        arguments["cache"] = ResultCache(tmp_path)
    with pytest.raises(ValueError, match=message):
        list(evaluate(**arguments))
