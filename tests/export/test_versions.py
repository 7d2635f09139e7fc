"""NAME/VERSION/ folders and the models.config that lists them."""

import os

import pytest

from mrl_keras.export import models_config, write_models_config
from mrl_keras.export.versions import model_versions, version_directory, version_to_write


@pytest.fixture
def base(tmp_path):
    for child in ("b/2", "b/10", "b/.tmp-11-x", "a/1", "notes", "b/11.old"):
        (tmp_path / child).mkdir(parents=True)
    (tmp_path / "README.md").write_text("")
    return tmp_path


def test_versions_are_the_children_that_are_integers(base):
    assert model_versions(str(base / "b")) == (2, 10)
    assert model_versions(str(base / "absent")) == ()
    assert version_to_write([str(base / "a"), str(base / "b")], None) == 11
    assert version_to_write([str(base / "a")], 7) == 7
    with pytest.raises(ValueError, match="Version 10 exists in .*/b, and a version is never"):
        version_to_write([str(base / "a"), str(base / "b")], 10)


def test_the_highest_version_is_taken(base):
    assert version_directory(str(base / "b")) == str(base / "b" / "10")
    (base / "b" / "saved_model.pb").write_bytes(b"")
    assert version_directory(str(base / "b")) == str(base / "b")
    with pytest.raises(ValueError, match="has neither saved_model.pb nor a child"):
        version_directory(str(base / "notes"))


def test_models_config_names_every_model_and_label(base):
    path = write_models_config(str(base), "/models/", {"b": {"stable": 2, "canary": 10}})
    assert path == str(base / "models.config")
    text = (base / "models.config").read_text()
    assert text == models_config(str(base), "/models", {"b": {"stable": 2, "canary": 10}})
    assert "notes" not in text
    config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    parsed = text_format.Parse(text, config_pb2.ModelServerConfig()).model_config_list.config
    assert [(c.name, c.base_path, c.model_platform) for c in parsed] == [
        ("a", "/models/a", "tensorflow"),
        ("b", "/models/b", "tensorflow"),
    ]
    assert parsed[0].model_version_policy.latest.num_versions == 1
    assert list(parsed[1].model_version_policy.specific.versions) == [2, 10]
    assert dict(parsed[1].version_labels) == {"stable": 2, "canary": 10}


def test_the_base_path_is_the_folder_itself_by_default(base):
    assert f'base_path: "{os.path.abspath(base)}/a"' in models_config(str(base))


def test_models_config_lists_the_models_that_are_named(base):
    text = models_config(str(base), "/models", names=["b"])
    assert 'name: "b"' in text
    assert 'name: "a"' not in text
    with pytest.raises(ValueError, match="`names` must be models in .* It has no .'notes'."):
        models_config(str(base), names=["b", "notes"])


@pytest.mark.parametrize("labels", [{"b": {"stable": 3}}, {"c": {"stable": 1}}])
def test_labels_must_name_versions(base, labels):
    with pytest.raises(ValueError, match="Labels must name versions that exist"):
        models_config(str(base), labels=labels)


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold NAME/VERSION/ folders. It has none"):
        models_config(str(tmp_path))
