"""Saved models load after `import mrl_keras` alone."""

import ast
import pathlib
import subprocess
import sys

import keras
import pytest

import mrl_keras
from mrl_keras import MatryoshkaDense
from mrl_keras.cascade import AdaptiveClassifier, CascadePolicy
from mrl_keras.models import dual_encoder, sentence_pairs
from mrl_keras.registry import _LATER

ROOT = pathlib.Path(mrl_keras.__file__).parent
IMPORTED = {"layers", "losses", "metrics"}


def test_every_class_that_is_imported_later_is_listed():
    found = {}
    for path in ROOT.rglob("*.py"):
        module = path.relative_to(ROOT).with_suffix("")
        if module.parts[0] in IMPORTED:
            continue
        for node in ast.parse(path.read_text()).body:
            named = [ast.unparse(one) for one in getattr(node, "decorator_list", ())]
            assert not any(one.startswith("register_as") for one in named), "list its name"
            if "register" in named:
                found[node.name] = ".".join(module.parts)
    assert found == _LATER


def test_a_class_takes_its_own_name():
    found = keras.saving.get_registered_object("mrl_keras>AdaptiveClassifier")
    assert found is AdaptiveClassifier


def cascade():
    head = MatryoshkaDense(3, [2, 4])
    inputs = keras.Input((4,))
    answers = AdaptiveClassifier(head, CascadePolicy([2, 4], [0.5]))(inputs)
    return keras.Model(inputs, answers)


def towers():
    one, other = (keras.Input((4,), name=name) for name in ("image", "text"))
    one, other = (keras.Model(x, keras.layers.Dense(4)(x)) for x in (one, other))
    return dual_encoder(one, other, [2, 4])


def pairs():
    words = {"words": keras.Input((4,), name="words")}
    return sentence_pairs(keras.Model(words, keras.layers.Dense(4)(words["words"])), [2, 4])


MODELS = {"cascade": cascade, "dual encoder": towers, "sentence pairs": pairs}
PROGRAM = """
import sys, keras, mrl_keras
assert not {"mrl_keras.models", "mrl_keras.cascade"} & set(sys.modules)
for path in sys.argv[1:]:
    model = keras.saving.load_model(path)
    again = type(model).from_config(model.get_config())
    assert len(again.weights) == len(model.weights)
"""


@pytest.mark.slow
def test_models_load_in_a_fresh_process(tmp_path):
    paths = [str(tmp_path / f"{name}.keras") for name in MODELS]
    for path, make in zip(paths, MODELS.values(), strict=True):
        make().save(path)
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *paths]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]


def test_a_module_that_cannot_be_imported_is_named(monkeypatch):
    from mrl_keras import registry

    monkeypatch.setitem(sys.modules, "mrl_keras.models.text_tokens", None)
    stand_in = registry._stand_in("BertTokens", "mrl_keras.models.text_tokens")
    with pytest.raises(ImportError, match="needs mrl_keras.models.text_tokens.BertTokens"):
        stand_in.from_config({})
