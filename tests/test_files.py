"""Atomic files and folders, and text, JSON and CSV written so."""

import csv
import json
import os

import pytest

from mrl_keras.files import (
    atomic_directory,
    atomic_file,
    read_manifest,
    write_csv,
    write_json,
    write_text,
)


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "new" / "table.csv"
    with atomic_file(target) as temporary:
        assert temporary.endswith("-table.csv")
        with open(temporary, "w") as file:
            file.write("one")
        assert not target.exists()
    assert target.read_text() == "one"
    with atomic_file(target) as temporary, open(temporary, "w") as file:
        file.write("two")
    assert target.read_text() == "two"
    assert os.listdir(target.parent) == ["table.csv"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_file(target) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise OSError("disk full")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "models" / "1"
    with pytest.raises(OSError, match="disk full"), atomic_directory(target) as temporary:
        open(os.path.join(temporary, "half"), "w").close()
        raise OSError("disk full")
    assert os.listdir(target.parent) == []
    with atomic_directory(target) as temporary:
        open(os.path.join(temporary, "whole"), "w").close()
        assert not target.exists()
    assert os.listdir(target) == ["whole"]
    assert os.listdir(target.parent) == ["1"]


def test_a_directory_is_never_overwritten(tmp_path):
    with (
        pytest.raises(ValueError, match="exists, and nothing is ever overwritten"),
        atomic_directory(tmp_path),
    ):
        raise AssertionError("the body must not run")
    target = tmp_path / "1"
    with pytest.raises(ValueError, match="nothing is ever overwritten"), atomic_directory(target):
        target.mkdir()
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"format_version": 2}', '{"format_version": 1}']
)
def test_manifests_of_another_kind_are_refused(tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"the manifest of a thing with format version 1.* Go\."):
        read_manifest(path, "a thing", 1, "Go.", needs="rows")
    path.write_text('{"format_version": 1, "rows": 3}')
    assert read_manifest(path, "a thing", 1, "Go.", needs="rows")["rows"] == 3


def test_text_is_utf_8(tmp_path):
    path = tmp_path / "new" / "page.md"
    write_text(path, "ünï\n")
    assert path.read_bytes() == "ünï\n".encode()
    write_text(path, "")
    assert path.read_bytes() == b""


def test_json_is_sorted_and_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": None})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": None, "b": [1, 2.5]}
    assert text.startswith('{\n  "a": null,')
    assert text.endswith("}\n")


def test_a_table_has_the_first_rows_keys_as_header(tmp_path):
    rows = [{"dim": 8, "name": 'a "b", c'}, {"name": "ü", "dim": 0.1}]
    write_csv(tmp_path / "a.csv", (row for row in rows))
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert read == [{"dim": "8", "name": 'a "b", c'}, {"dim": "0.1", "name": "ü"}]


def test_a_table_of_nothing_or_of_unlike_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a.csv needs at least one row. Received none"):
        write_csv(tmp_path / "a.csv", [])
    for other in ({"dim": 1}, {"dim": 1, "name": 2, "more": 3}):
        with pytest.raises(ValueError, match=r"needs the keys \['dim', 'name'\] in every row"):
            write_csv(tmp_path / "a.csv", [{"dim": 8, "name": "x"}, other])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("write", "content"),
    [(write_text, "new"), (write_json, {"a": 1}), (write_csv, [{"a": 1}])],
)
def test_a_failed_write_leaves_the_old_file(write, content, tmp_path, monkeypatch):
    def fail(*paths):
        raise OSError("disk full")

    path = tmp_path / "old"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, content)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["old"]


def test_what_json_does_not_hold_writes_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert os.listdir(tmp_path) == []
