"""Remote files and folders on ram://: whole or absent, one clear line for each error."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mrl_keras import files
from tests.support.remote import Stopped, new_folder, stop_writes, tree


@pytest.fixture
def folder():
    return new_folder()


def test_a_file_is_written_read_and_removed(folder):
    path = files.join(folder, "new", "page.md")
    assert not files.exists(path)
    with files.atomic_file(path) as temporary:
        assert temporary.endswith("-page.md")
        pathlib.Path(temporary).write_text("ünï\n")
        assert not files.exists(path)
    assert not os.path.exists(os.path.dirname(temporary))
    assert files.read_text(path) == "ünï\n"
    with files.open_file(path, "rb") as file:
        assert file.read() == "ünï\n".encode()
    assert files.list_names(folder) == ["new"]
    assert files.is_directory(files.join(folder, "new"))
    files.remove(path)
    files.remove(path)
    assert not files.exists(path)
    assert files.list_names(files.join(folder, "no")) == []


def test_text_json_and_csv(folder):
    files.write_json(f"{folder}/a.json", {"format_version": 1, "a": [1]})
    assert files.read_json(f"{folder}/a.json") == {"format_version": 1, "a": [1]}
    assert files.read_manifest(f"{folder}/a.json", "a thing", 1, "Go.")["a"] == [1]
    files.write_csv(f"{folder}/a.csv", [{"a": 1}])
    assert files.read_text(f"{folder}/a.csv") == "a\n1\n"
    files.write_text(f"{folder}/a.json", "{")
    with pytest.raises(ValueError, match=r"a.json must hold JSON. It is damaged"):
        files.read_json(f"{folder}/a.json")
    with pytest.raises(ValueError, match="`atomic_file` writes. Received 'w'"):
        files.open_file(f"{folder}/a.json", "w").__enter__()


def test_a_directory_has_its_marker_last(folder, monkeypatch):
    path, copied, true = f"{folder}/models/1", [], tf.io.gfile.copy

    monkeypatch.setattr(files, "_RENAMING", set())  # one call for an object, as on gs://

    def copy(source, target, overwrite=False):
        copied.append(os.path.relpath(target, path))
        assert not files.directory_is_complete(path)
        true(source, target, overwrite)

    monkeypatch.setattr(tf.io.gfile, "copy", copy)
    with files.atomic_directory(path) as temporary:
        os.makedirs(f"{temporary}/variables")
        for name in ("variables/a", "fingerprint.pb", "saved_model.pb"):
            pathlib.Path(temporary, name).write_text(name)
        assert not files.exists(path)
    assert copied[1:] == ["variables/a", "fingerprint.pb", "saved_model.pb", files.MARKER]
    assert files.directory_is_complete(path)
    assert set(tree(path)) == set(copied[1:])
    assert tree(path)["variables/a"] == b"variables/a"


def test_a_directory_is_never_overwritten(folder):
    with files.atomic_directory(f"{folder}/1"):
        pass
    files.write_text(f"{folder}/others/notes.txt", "not ours")
    files.write_text(f"{folder}/file", "not ours")
    before = tree(folder)
    for name in ("1", "others", "file", ""):
        with (
            pytest.raises(ValueError, match="exists, and nothing is ever overwritten"),
            files.atomic_directory(files.join(folder, name)),
        ):
            raise AssertionError("the body must not run")
    assert tree(folder) == before


@pytest.mark.parametrize("for_good", [False, True])
def test_a_write_that_stops_leaves_the_old_state_or_the_new(for_good, folder):
    """Whichever of the writes fails: files are old or new, folders whole or passed over."""
    old, path = f"{folder}/page.md", f"{folder}/models/1"

    def write(text):
        files.write_text(old, text)
        with files.atomic_directory(path) as temporary:
            os.makedirs(f"{temporary}/variables")
            for name in ("variables/a", "b", "c"):
                pathlib.Path(temporary, name).write_text(name)

    at, stopped = -1, True
    while stopped:
        at += 1
        with pytest.MonkeyPatch.context() as patch:
            files.write_text(old, "old")
            stop_writes(patch, at, for_good)
            try:
                write("new")
                stopped = False
            except Stopped:
                pass
        assert files.read_text(old) in ("old", "new")
        if files.directory_is_complete(path):
            assert {"variables/a", "b", "c", files.MARKER} <= set(tree(path))
        else:
            write("again")  # over the remains
            assert set(tree(path)) == {"variables/a", "b", "c", files.MARKER}
        files.remove(path)
    assert at > 15


def test_local_copies(folder, capsys):
    for name in ("index/a.npy", "index/inner/b.npy"):
        with files.atomic_file(f"{folder}/{name}") as temporary:
            np.save(temporary, np.arange(3))
    with files.local_copy(f"{folder}/index") as local:
        mapped = np.load(f"{local}/inner/b.npy", mmap_mode="r")
    assert not os.path.exists(local)
    assert mapped.tolist() == [0, 1, 2]
    line = f"Copying {folder}/index into a temporary local folder first\n"
    assert capsys.readouterr().out == line
    with files.local_copy(f"{folder}/index/a.npy", verbose=False) as local:
        assert np.load(local).tolist() == [0, 1, 2]
    assert capsys.readouterr().out == ""
    with files.local_copy("plain") as local:
        assert local == "plain"
    changed = tf.io.gfile.stat(f"{folder}/index/a.npy").mtime_nsec
    with files.local_copy(f"{folder}/index", verbose=False) as local:
        assert os.stat(f"{local}/a.npy").st_mtime_ns == changed


def test_a_folder_that_vanishes_while_it_is_copied(folder, monkeypatch):
    files.write_text(f"{folder}/index/a", "a")
    files.write_text(f"{folder}/index/b", "b")
    true = tf.io.gfile.copy

    def copy(source, target, overwrite=False):
        true(source, target, overwrite)
        tf.io.gfile.rmtree(f"{folder}/index")

    monkeypatch.setattr(tf.io.gfile, "copy", copy)
    gone = f"{folder}/index does not exist, or vanished while it was used.*start again"
    with (
        pytest.raises(FileNotFoundError, match=gone),
        files.local_copy(f"{folder}/index", verbose=False),
    ):
        raise AssertionError("a part was yielded")


@pytest.mark.parametrize(
    ("error", "wanted", "text"),
    [
        (tf.errors.PermissionDeniedError, PermissionError, r"permission denied \(no way"),
        (tf.errors.UnauthenticatedError, PermissionError, "permission denied .*gcloud auth"),
        (tf.errors.NotFoundError, FileNotFoundError, "Check its name"),
        (tf.errors.UnavailableError, OSError, "UnavailableError .*Check the name and the network"),
    ],
)
def test_errors_of_gfile_are_one_line(error, wanted, text, folder, monkeypatch):
    def fail(*args, **kwargs):
        raise error(None, None, "no\nway")

    calls = {
        "exists": files.exists,
        "stat": files.list_names,
        "copy": lambda path: files.write_text(path, "a"),
    }
    for name, call in calls.items():
        with monkeypatch.context() as patch:
            patch.setattr(tf.io.gfile, name, fail)
            if name == "stat" and error is tf.errors.NotFoundError:
                assert call(f"{folder}/a") == []
                continue
            with pytest.raises(wanted, match=text) as raised:
                call(f"{folder}/a")
        assert str(raised.value).startswith(f"{folder}/a")
        assert "\n" not in str(raised.value)


def test_paths():
    remote = {"ram://a": True, b"gs://bucket/x": True, "runs/a": False, "./gs:/a": False}
    assert {path: files.is_remote(path) for path in remote} == remote
    assert files.absolute_path("gs://bucket/x//") == "gs://bucket/x"
    assert files.absolute_path("x") == os.path.abspath("x")
    assert files.join(pathlib.Path("a"), "b") == os.path.join("a", "b")
    for given, text in {
        pathlib.Path("gs://bucket/x"): "whole URL. .*give the str 'gs://bucket/x'",
        "file:///runs/a": "Give the plain path, '/runs/a'",
        "s3q://bucket/x": "a file system that TensorFlow knows. Received .* gs://, ram://",
    }.items():
        for call in (files.is_remote, files.absolute_path, files.exists):
            with pytest.raises(ValueError, match=text):
                call(given)


def test_local_files_need_no_tensorflow(tmp_path):
    code = (
        "import sys, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('files', {files.__file__!r})\n"
        "files = importlib.util.module_from_spec(spec); spec.loader.exec_module(files)\n"
        f"files.write_json({str(tmp_path / 'a' / 'b.json')!r}, [1])\n"
        f"assert files.read_json({str(tmp_path / 'a' / 'b.json')!r}) == [1]\n"
        f"with files.atomic_directory({str(tmp_path / 'c')!r}): pass\n"
        "assert 'tensorflow' not in sys.modules\n"
        "sys.modules['tensorflow'] = None\n"
        "try: files.exists('gs://bucket/x')\n"
        "except ImportError as error: print(error)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install tensorflow" in process.stdout, process.stderr
