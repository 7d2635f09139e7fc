import os

import pytest

from mrl_keras.files import atomic_directory, atomic_file, read_manifest


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
