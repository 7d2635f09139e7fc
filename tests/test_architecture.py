"""The import rules of the house, read from the source without importing it.

The tables of CONTRIBUTING.md are the rules; these tests hold the code to them.
"""

import ast
import dataclasses
import fnmatch
import functools
import graphlib
import itertools
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

# Modules that may use TensorFlow; all others use keras.ops or NumPy. Of these the rooms that are
# TensorFlow's own import it at once, the others when they run, in functions or lazily.
TENSORFLOW_AT_ONCE = ("mrl_keras/distribution/*", "mrl_keras/export/*")
TENSORFLOW = (
    *TENSORFLOW_AT_ONCE,
    "mrl_keras/files.py",
    "mrl_keras/recording.py",
    "mrl_keras/data/*",
    "mrl_keras/retrieval/scann/*",
    "mrl_keras/scale/encoder.py",
    "mrl_keras/scale/records.py",
    "mrl_keras/models/garden/*",
    "mrl_keras/models/chunked_encoder.py",
    "mrl_keras/models/chunks.py",
    "mrl_keras/models/contrastive_scores.py",
    "mrl_keras/models/text_tokens.py",
    "mrl_keras/models/mask_filling.py",
    "mrl_keras/cascade/adaptive_classifier.py",
    "mrl_keras/evaluation/analysis/grad_cam.py",
)
OPTIONAL = {
    "apache_beam",
    "faiss",
    "keras_hub",
    "matplotlib",
    "official",
    "pgvector",
    "psycopg",
    "pyarrow",
    "qdrant_client",
    "scann",
    "sklearn",
    "tensorflow_datasets",
    "tensorflow_text",
    "tf_keras",
}
WITHOUT_KERAS = (
    "mrl_keras/checks.py",
    "mrl_keras/files.py",
    "mrl_keras/nesting.py",
    "mrl_keras/plots.py",
    "mrl_keras/version.py",
    "mrl_keras/retrieval/*",
    "mrl_keras/evaluation/*",
    "mrl_keras/data/*",
    "mrl_keras/engines/*",
)
# Files of more than 400 lines of code that are one thing all the same: {path: reason}.
LONG_FILES = {}


@dataclasses.dataclass(frozen=True)
class Room:
    """A row of CONTRIBUTING's tables: a folder or a module, and the rooms that it may import."""

    path: str
    inner: frozenset
    anywhere: frozenset
    in_functions: frozenset


def _rooms():
    text = CONTRIBUTING[CONTRIBUTING.index("## Where a line belongs") :]
    ground = re.search(r'"ground" is (.*?)\.\s', text, re.S)[1]
    ground = re.findall(r"`(\w+)`", ground)
    for path, holds, may in re.findall(r"^\| `([^`]+)` \| (.*) \| (.*) \|$", text, re.M):
        top, _, _ = path.partition("/")
        listed = re.findall(r"`([\w/]+)`( in functions)?", may)
        plain = {name for name, lazily in listed if not lazily}
        yield Room(
            path,
            frozenset(path + name for name in re.findall(r"`(\w+/)`", holds)),
            frozenset(f"{top}/{name}" for name in plain | set(ground if "ground" in may else ())),
            frozenset(f"{top}/{name}" for name, lazily in listed if lazily),
        )


ROOMS = {room.path: room for room in _rooms()}
GROUND = {f"mrl_keras/{name}" for name in ("version", "checks", "files", "plots", "nesting")}


def room_of(path):
    """The row for a module: the longest that begins its path."""
    rooms = [room for room in ROOMS if path == room or (room[-1] == "/" and path.startswith(room))]
    assert rooms, f"CONTRIBUTING.md has no row for {path}"
    return max(rooms, key=len)


def name_of(room):
    """ "mrl_keras/files" for "mrl_keras/files.py"; "recipes/tasks" for "recipes/tasks/"."""
    return room.removesuffix("/").removesuffix(".py")


def _modules():
    for top in ("mrl_keras", "recipes"):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix()


PATHS = list(_modules())
PACKAGE = [path for path in PATHS if path.startswith("mrl_keras/")]
MODULES = {
    path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in PATHS
}


@functools.cache
def imports(path):
    """(dotted name, whether at the top level) of everything that a module imports."""
    tree = ast.parse((ROOT / path).read_text())
    return list(_imports(path, tree, True))


def _imports(path, node, top_level):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, top_level) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{path}: imports are absolute"
            yield from ((f"{child.module}.{alias.name}", top_level) for alias in child.names)
        else:
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports(path, child, top_level and not function)


def imported_modules(path):
    """(path, whether at the top level) of the modules of this repository that a module imports."""
    for name, top_level in imports(path):
        found = MODULES.get(name) or MODULES.get(name.rpartition(".")[0])
        if found and found != path:
            yield found, top_level


@pytest.mark.parametrize("path", PATHS)
def test_a_room_imports_what_its_row_allows(path):
    row = ROOMS[room_of(path)]
    for found, top_level in imported_modules(path):
        there = room_of(found)
        if there == row.path or (path.startswith("recipes/") and found.startswith("mrl_keras/")):
            continue
        allowed = row.anywhere if top_level else row.anywhere | row.in_functions
        assert name_of(there) in allowed, f"{row.path} must not import {found}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_row_names_no_room_that_is_not_imported(room):
    used = {
        name_of(room_of(found))
        for path in PATHS
        if room_of(path) == room
        for found, _ in imported_modules(path)
    }
    listed = ROOMS[room].anywhere - GROUND if room.endswith("/") else set()
    assert listed <= used, "CONTRIBUTING.md lists imports that do not exist"


def test_no_circle_of_imports():
    graph = {path: {found for found, _ in imported_modules(path)} for path in PATHS}
    graphlib.TopologicalSorter(graph).prepare()  # a CycleError names the circle


def test_every_folder_has_a_row_and_every_row_exists():
    folders = {
        f"{path.parent.relative_to(ROOT).as_posix()}/"
        for top in ("mrl_keras", "recipes")
        for path in (ROOT / top).rglob("*.py")
    } - {"mrl_keras/"}
    ground = {path for path in PACKAGE if path.count("/") == 1}
    rows = set(ROOMS) | {inner for room in ROOMS.values() for inner in room.inner}
    assert rows == folders | ground
    named = {name_of(room) for room in ROOMS}
    assert {name for room in ROOMS.values() for name in room.anywhere | room.in_functions} <= named


@pytest.mark.parametrize("path", PACKAGE)
def test_packages_are_imported_only_where_they_are_needed(path):
    names = {name for name, _ in imports(path)}
    roots = {name.split(".")[0] for name in names}
    assert not roots & {"recipes", "tests"}
    if not _matches(path, TENSORFLOW):
        assert "tensorflow" not in roots
        assert "mrl_keras.lazy_tensorflow" not in names
    if _matches(path, WITHOUT_KERAS):
        assert "keras" not in roots
    at_the_top = {name.split(".")[0] for name, top_level in imports(path) if top_level}
    assert not at_the_top & OPTIONAL
    if not _matches(path, TENSORFLOW_AT_ONCE):
        assert "tensorflow" not in at_the_top


def _matches(path, patterns):
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def test_long_files_have_a_reason():
    long = {path for path in PATHS if lines_of_code(path) > 400}
    assert long == set(LONG_FILES)
    assert all(LONG_FILES.values())


def lines_of_code(path):
    """How many lines a file has without docstrings, comments and blank lines."""
    text = (ROOT / path).read_text()
    lines = {
        number
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


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


@pytest.mark.slow
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


def test_the_way_of_a_batch_is_as_contributing_lists_it():
    way = CONTRIBUTING.split("## From a data set to a served query")[1]
    visits = re.findall(r"`((?:mrl_keras|recipes)/[\w/]+\.py)`", way)
    assert all((ROOT / path).is_file() for path in visits)
    changes = sum(one != other for one, other in itertools.pairwise(visits))
    assert f"{len(visits)} visits, so {changes} changes" in way.replace("\n", " ")
    assert changes <= 30
