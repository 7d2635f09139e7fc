"""Results by content: the same is computed once, anything else anew, and damage is repaired."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_keras.evaluation import FewShotEvaluator, few_shot_accuracy
from recipes.report.parts import cache
from recipes.report.parts.cache import ResultCache, _content_key, call_content

PARTS = {
    "weights": [np.arange(6.0).reshape(2, 3), np.ones(3, "float32")],
    "split": "test",
    "preprocessing": {"crop": 0.875, "resolution": (32, 32)},
    "seed": 0,
}


class Counted:
    """A computation that counts how often it ran."""

    def __init__(self, result):
        self.result, self.calls = result, 0

    def __call__(self):
        self.calls += 1
        return self.result


def changed(**change):
    return {**PARTS, **change}


@pytest.mark.parametrize(
    "other",
    [
        changed(weights=[PARTS["weights"][0] + 1e-12, PARTS["weights"][1]]),
        changed(weights=[PARTS["weights"][0].reshape(3, 2), PARTS["weights"][1]]),
        changed(weights=PARTS["weights"][:1]),
        changed(weights=[PARTS["weights"][0], np.ones(3, "float64")]),
        changed(split="train"),
        changed(preprocessing={"crop": 0.876, "resolution": (32, 32)}),
        changed(seed=1),
        changed(seed=0.0),
        changed(seed=False),
        changed(seed=None),
        {**PARTS, "more": 1},
    ],
)
def test_any_other_content_is_another_key(other):
    assert _content_key("values", other) != _content_key("values", PARTS)


def test_kind_and_version_are_in_the_key(monkeypatch):
    key = _content_key("values", PARTS)
    assert _content_key("arrays", PARTS) != key
    assert len(key) == 64
    monkeypatch.setattr(cache, "__version__", "0.0.0")
    assert _content_key("values", PARTS) != key


json_parts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(json_parts, json_parts)
def test_keys_are_equal_exactly_where_the_content_is(one, other):
    same = repr(one) == repr(other) or json.dumps(one, sort_keys=True) == json.dumps(
        other, sort_keys=True
    )
    assert (_content_key("values", {"x": one}) == _content_key("values", {"x": other})) == same


def test_arrays_are_computed_once(tmp_path):
    made = Counted({"logits": np.random.default_rng(0).random((3, 2)), "labels": np.arange(3)})
    first = ResultCache(tmp_path / "new").arrays(PARTS, made)
    again = ResultCache(tmp_path / "new").arrays(dict(reversed(PARTS.items())), made)
    assert made.calls == 1
    for name, value in made.result.items():
        for found in (first, again):
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype
    ResultCache(tmp_path / "new").arrays(changed(seed=1), made)
    assert made.calls == 2
    assert sorted(path.suffix for path in (tmp_path / "new").iterdir()) == [
        ".json", ".json", ".npz", ".npz",
    ]  # fmt: skip


def test_values_come_back_as_they_were(tmp_path):
    value = {"top1/linear/8": 0.1 + 0.2, "rows": [1, None, True, "x"], "nan": float("nan")}
    made = Counted({**value, "numpy": np.float32(0.5), "pair": (np.int64(1), 2)})
    first, again = (ResultCache(tmp_path).values(PARTS, made) for _ in range(2))
    assert made.calls == 1
    for found in (first, again):
        assert np.isnan(found.pop("nan"))
        assert found.pop("numpy") == 0.5
        assert found.pop("pair") == [1, 2]
        assert found == {name: value[name] for name in ("top1/linear/8", "rows")}


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "removed", "other json"])
@pytest.mark.parametrize("ending", ["npz", "json"])
def test_a_damaged_file_is_computed_anew(tmp_path, damage, ending):
    made = Counted({"x": np.arange(1000.0)})
    ResultCache(tmp_path).arrays(PARTS, made)
    (path,) = tmp_path.glob(f"*.{ending}")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(
        {"cut": content[:-7], "emptied": b"", "other json": b"[1]"}.get(damage, content)
    )
    if damage == "removed":
        path.unlink()
    np.testing.assert_array_equal(ResultCache(tmp_path).arrays(PARTS, made)["x"], np.arange(1000.0))
    calls = made.calls
    assert calls == 2 or (ending, damage) == ("json", "flipped")  # a bit of the description
    ResultCache(tmp_path).arrays(PARTS, made)
    assert made.calls == calls


@pytest.mark.parametrize("text", ["", "{", "[]", '{"value": 1}', '{"value": 2, "sha256": "x"}'])
def test_a_damaged_value_is_computed_anew(tmp_path, text):
    made = Counted(1)
    ResultCache(tmp_path).values(PARTS, made)
    (path,) = tmp_path.glob("*.json")
    path.write_text(text)
    assert ResultCache(tmp_path).values(PARTS, made) == 1
    assert ResultCache(tmp_path).values(PARTS, made) == 1
    assert made.calls == 2


def test_a_failed_computation_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        ResultCache(tmp_path).values(PARTS, lambda: 1 // 0)
    with pytest.raises(ValueError, match=r"`x` must be an array of numbers.*dtype object"):
        ResultCache(tmp_path).arrays(PARTS, lambda: {"x": np.array([{}])})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"x": {8: 0.5}}, r"The names in `parts.x` must be strings. Received \[8\]"),
        ({"x": [object]}, r"`parts.x\[0\]` must be None, .* of type type"),
        ({"x": np.array([None])}, "`parts.x` must be an array of numbers"),
    ],
)
def test_refused_parts(parts, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        ResultCache(tmp_path).values(parts, lambda: 1)


def test_the_content_of_a_call_is_its_name_and_its_arguments():
    evaluator = call_content(FewShotEvaluator(shots=(1,)))
    assert evaluator["called"] == "mrl_keras.evaluation.evaluators.FewShotEvaluator"
    assert evaluator["options"] == {"shots": (1,), "ways": None, "repeats": 10, "seed": 0}
    calls = [
        evaluator,
        call_content(FewShotEvaluator(shots=(1,), seed=1)),
        call_content(few_shot_accuracy, shots=1),
        call_content(few_shot_accuracy, shots=2),
        call_content(call_content, shots=1),
    ]
    assert len({_content_key("values", call) for call in calls}) == len(calls)
    with pytest.raises(ValueError, match="a name of its own.*lambda"):
        call_content(lambda: 1)


def test_refused_values(tmp_path):
    with pytest.raises(ValueError, match=r"`the value` must be None, .* dict with string names"):
        ResultCache(tmp_path).values(PARTS, lambda: {8: 0.5})
