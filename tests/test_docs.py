"""Docstring examples run, documented defaults are real, README's Python code runs."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest

import mrl_keras

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(mrl_keras.__path__, prefix="mrl_keras.")
)
PACKAGES = ["mrl_keras", *(name for name in MODULES if name.count(".") == 1)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    keras.utils.set_random_seed(0)
    module = importlib.import_module(name)
    globs = {**vars(module), "np": np}
    found = doctest.testmod(module, extraglobs=globs, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0


def public_objects():
    for name in PACKAGES:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            if not public.startswith("__"):
                yield pytest.param(getattr(module, public), id=f"{name}.{public}")


@pytest.mark.parametrize("thing", list(public_objects()))
def test_public_objects_are_documented(thing):
    if isinstance(thing, (int, float, str, tuple)):
        return
    text = inspect.getdoc(thing)
    assert text, "no docstring"
    assert len(text.splitlines()[0]) <= 100
    if isinstance(thing, type) and issubclass(thing, (Exception, tuple)):
        return
    target = thing.__init__ if inspect.isclass(thing) else thing
    for name, parameter in inspect.signature(target).parameters.items():
        if name in ("self", "args", "kwargs"):
            continue
        assert re.search(rf"\b{name}\b", text), f"the argument {name!r} is not documented"
        check_default(text, name, parameter.default)


def check_default(text, name, default):
    """A default that the text states ("Default 8", "Defaults to `True`") is the signature's."""
    entry = re.search(rf"^\s*{name}: (.*?)(?=^\s*\w+(, \w+)*: |\n\n|\Z)", text, re.M | re.S)
    stated = entry and re.search(
        r"Defaults?(?: to)? `?(True|False|\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)\b", entry[1]
    )
    if stated and isinstance(default, (bool, int, float)):
        said = ast.literal_eval(stated[1].replace(",", ""))
        assert said == default, f"{name}: the text says {said}, the signature {default!r}"


def test_python_code_of_the_readme(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks, "README shows no Python code"
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, code in enumerate(blocks):  # later blocks go on from the earlier ones
        exec(compile(code, f"README block {number}", "exec"), names)
