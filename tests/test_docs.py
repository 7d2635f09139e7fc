"""Examples, README and guides run, documented defaults are real, the API index builds.

A Markdown file runs as one test, in a folder of its own: each Python block, and each bash block
after the comment `<!-- run -->`, in order; later Python blocks see the names of earlier ones. A
Python block after `<!-- do not run -->` is left out. `<!-- slow -->` on a line of its own puts the
file into the slow tier.
"""

import ast
import doctest
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import mrl_keras
from tests.support.memory import free_models

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(mrl_keras.__path__, prefix="mrl_keras.")
)
PACKAGES = ["mrl_keras", *(name for name in MODULES if name.count(".") == 1)]


# Modules whose examples train or load a network for more than 5 seconds.
SLOW = (
    "mrl_keras.models.adaptor",
    "mrl_keras.models.chunked_encoder",
    "mrl_keras.models.dual_encoder",
    "mrl_keras.models.embedders",
    "mrl_keras.models.garden.image",
    "mrl_keras.models.hub",
    "mrl_keras.models.image_text_embedder",
    "mrl_keras.models.masked_lm",
)


def modules():
    assert set(SLOW) <= set(MODULES)
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODULES]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name):
    keras.utils.set_random_seed(0)
    module = importlib.import_module(name)
    globs = {**vars(module), "np": np}
    found = doctest.testmod(module, extraglobs=globs, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0
    if found.attempted:
        free_models()


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


BLOCK = re.compile(r"(?:<!-- ((?:do not )?run) -->\n)?```(python|bash)\n(.*?)```", re.S)


def pages():
    for path in [ROOT / "README.md", *sorted((ROOT / "recipes" / "guides").glob("*.md"))]:
        slow = re.search(r"^<!-- slow -->$", path.read_text(), re.M)
        yield pytest.param(path, id=path.name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("path", list(pages()))
def test_the_code_of_a_page_runs(path, tmp_path, monkeypatch):
    blocks = BLOCK.findall(path.read_text())
    assert any(language == "python" for _, language, _ in blocks), "no Python code"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")  # commands name files there
    shutil.copytree(ROOT / "saved_models", tmp_path / "saved_models")  # and may write here
    names = {"__name__": "__main__"}
    for number, (mark, language, code) in enumerate(blocks):
        if language == "python" and mark != "do not run":
            exec(compile(code, f"{path.name} block {number}", "exec"), names)
        elif language == "bash" and mark == "run":
            run_shell(code)


def run_shell(code):
    """Run lines of a shell with this Python and this checkout first."""
    found = {
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        env=os.environ | found,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, f"{code}\n{process.stdout[-2000:]}{process.stderr[-4000:]}"
    return process


@pytest.mark.slow
def test_the_api_index_builds_without_warnings(tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    command = re.search(r"<!-- api-index-command -->\n```bash\n(.*?)```", text, re.S)[1]
    monkeypatch.chdir(tmp_path)
    process = run_shell(command)
    assert "warn" not in (process.stdout + process.stderr).lower()
    pages = {path.relative_to("docs").as_posix() for path in pathlib.Path("docs").rglob("*.html")}
    rooms = [name for name in PACKAGES if hasattr(importlib.import_module(name), "__path__")]
    assert pages >= {f"{name.replace('.', '/')}.html" for name in rooms} | {"index.html"}
