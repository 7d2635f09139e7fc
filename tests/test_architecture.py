"""The import rules of the house, read from the source without importing it."""

import ast
import fnmatch
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "mrl_keras"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What a part of the package may import from the package; everybody may use these:
BASE = {"checks", "files", "nesting", "plots", "version"}
ALLOWED = {
    "checks": set(),
    "files": set(),
    "plots": {"files"},
    "version": set(),
    "nesting": {"checks"},
    "registry": set(),
    "replicas": {"distribution"},
    "layers": BASE | {"registry", "replicas"},
    "losses": BASE | {"registry", "replicas"},
    "metrics": BASE | {"registry", "replicas"},
    "retrieval": BASE,
    "data": BASE,
    "distribution": BASE | {"registry"},
    "models": BASE
    | {"registry", "layers", "losses", "metrics", "retrieval", "data", "distribution"},
    "cascade": BASE | {"registry"},
    "baselines": BASE | {"registry", "layers", "losses", "metrics"},
    "evaluation": BASE | {"retrieval", "metrics", "cascade"},
    "export": BASE | {"registry", "layers", "models", "retrieval", "cascade"},
}
TENSORFLOW = {
    "data",
    "distribution",
    "export",
    "retrieval/scann/shortlist.py",
    "models/garden/*.py",
}
TENSORFLOW |= {"models/text_tokens.py", "models/mask_filling.py"}
TENSORFLOW |= {"cascade/adaptive_classifier.py", "evaluation/analysis/grad_cam.py"}
OPTIONAL = {
    "faiss",
    "matplotlib",
    "official",
    "scann",
    "sklearn",
    "tensorflow_datasets",
    "tensorflow_text",
    "tf_keras",
}
KERAS_FREE = {
    "checks",
    "files",
    "nesting",
    "progress",
    "version",
    "retrieval",
    "evaluation",
    "data",
}


def part(path):
    """The first folder (or the module) below the package: "layers", "nesting"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path, top_level_only=False):
    """The dotted names that a module imports."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestModule:
    def test_imports_point_one_way(self, path):
        here = part(path)
        if here == "__init__":
            return
        for name in imports(path):
            root, _, rest = name.partition(".")
            if root == "mrl_keras":
                there = rest.split(".")[0]
                assert there == here or there in ALLOWED[here], f"{here} must not import {name}"
            assert root not in ("recipes", "tests")

    def test_tensorflow_only_where_it_is_needed(self, path):
        relative = str(path.relative_to(PACKAGE))
        roots = {name.split(".")[0] for name in imports(path)}
        if not any(fnmatch.fnmatch(relative, p) or part(path) == p for p in TENSORFLOW):
            assert "tensorflow" not in roots
        if part(path) in KERAS_FREE:
            assert "keras" not in roots

    def test_optional_packages_are_imported_where_they_are_used(self, path):
        roots = {name.split(".")[0] for name in imports(path, top_level_only=True)}
        assert not roots & OPTIONAL

    def test_no_file_has_grown_too_long(self, path):
        assert len(path.read_text().splitlines()) <= 350


def test_every_part_is_listed():
    assert {part(path) for path in MODULES} - {"__init__"} <= set(ALLOWED)


def test_the_top_level_holds_what_it_should():
    tracked = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode != 0:
        pytest.skip("no git checkout")
    expected = "mrl_keras recipes saved_models tests setup.cfg pyproject.toml README.md LICENSE "
    expected += "CHANGELOG.md CONTRIBUTING.md .gitignore .ci"
    assert set(tracked.stdout.split()) <= set(expected.split())


def test_importing_the_package_needs_keras_alone_and_changes_nothing():
    code = (
        "import sys, os, keras; before = dict(os.environ), keras.config.floatx();"
        "loaded = set(sys.modules); import mrl_keras;"
        "assert before == (dict(os.environ), keras.config.floatx());"
        f"print(sorted({OPTIONAL!r} & (set(sys.modules) - loaded)))"
    )
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
