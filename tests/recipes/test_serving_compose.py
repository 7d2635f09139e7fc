"""The files that write_compose.py writes for the stock image."""

import json
import re

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from recipes.serving import write_compose


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """models/ with `plain_ops` (versions 1 and 2), `fast` with a twin, `lonely` without one."""
    add_model(tmp_path, "plain_ops", [1, 2])
    add_model(tmp_path, "fast", [1], ["Scann", "TFText"])
    add_model(tmp_path, "fast_plain", [1], ["TFText"])
    add_model(tmp_path, "lonely", [1], ["Scann"])
    add_model(tmp_path, "odd", [1], ["Odd"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add_model(base, name, versions, custom_ops=()):
    for version in versions:
        path = base / "models" / name / str(version)
        (path / "assets.extra").mkdir(parents=True)
        (path / "saved_model.pb").write_bytes(b"")
        manifest = {"format_version": 1, "name": name, "custom_ops": list(custom_ops)}
        (path / "assets.extra" / "manifest.json").write_text(json.dumps(manifest))


def written(*arguments):
    """(the compose file, the models' configs) of a command."""
    write_compose.main([*arguments, "--output=out"])
    with open("out/compose.yaml") as file:
        compose = yaml.safe_load(file)
    with open("out/models.config") as file:
        config = text_format.Parse(file.read(), model_server_config_pb2.ModelServerConfig())
    return compose["services"], list(config.model_config_list.config)


def test_a_model_and_a_twin(folder, capsys):
    services, models = written("models/plain_ops", "models/fast/")
    assert [(m.name, m.base_path) for m in models] == [
        ("plain_ops", "/models/plain_ops"),
        ("fast_plain", "/models/fast_plain"),
    ]
    assert models[0].model_version_policy.latest.num_versions == 1
    assert services["serving"]["image"] == "tensorflow/serving:2.20.0"
    assert services["serving"]["volumes"] == ["../models:/models:ro", "./:/config:ro"]
    named = [flag.split("=/config/")[1] for flag in services["serving"]["command"] if "/c" in flag]
    assert all((folder / "out" / name).is_file() for name in named)
    assert not any("batching" in flag for flag in services["serving"]["command"])
    with open("out/prometheus.yml") as file:
        (scraped,) = yaml.safe_load(file)["scrape_configs"]
    assert f'path: "{scraped["metrics_path"]}"' in (folder / "out/monitoring.config").read_text()
    assert "docker compose -f out/compose.yaml up" in capsys.readouterr().out


def test_labels_name_the_versions_that_are_served(folder):
    services, (model,) = written(
        "models/plain_ops", "--label=stable=1", "--label=plain_ops:canary=2"
    )
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}
    assert list(model.model_version_policy.specific.versions) == [1, 2]
    flag = "--allow_version_labels_for_unavailable_models=true"
    assert flag in services["serving"]["command"]
    assert flag not in written("models/plain_ops")[0]["serving"]["command"]
    _, (twin,) = written("models/fast", "--label=stable=1")
    assert (twin.name, dict(twin.version_labels)) == ("fast_plain", {"stable": 1})


def test_batching_goes_without_warm_up(folder):
    services, _ = written("models/plain_ops", "--batching", "--max_batch_size=8")
    flags = services["serving"]["command"]
    assert {"--enable_batching=true", "--enable_model_warmup=false"} <= set(flags)
    assert "max_batch_size { value: 8 }" in (folder / "out/batching.config").read_text()


def test_an_image_with_scann_serves_the_model_itself(folder):
    services, (model,) = written("models/lonely", "--scann", "--image=mine")
    assert (model.name, services["serving"]["image"]) == ("lonely", "mine")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["models/lonely"], "lonely needs the custom ops of Scann, .* no twin lonely_plain of .*1"),
        (["models/odd", "--scann"], "odd needs the custom ops of Odd, which the image does not"),
        (["models/absent"], "must be the folder of an exported model, .* It has none"),
        (["models/plain_ops/1"], "a version itself, give the folder above it"),
        (["models/plain_ops", "models/plain_ops"], "must be different folders beside one another"),
        (["models/plain_ops", "--label=stable=3"], "has the versions .1, 2.. Received 3"),
        (["models/plain_ops", "--label=stable"], "A label is LABEL=VERSION, .* Received 'stable'"),
        (["models/plain_ops", "--label=other:stable=1"], "The models are plain_ops. Received"),
        (["models/plain_ops", "models/fast", "--label=a=1"], "NAME:LABEL=VERSION for one of"),
        (["models/plain_ops", "--label=1=1"], "A label is not a number"),
        (["gs://bucket/model"], "must be of the local file system"),
        (["models/plain_ops", "--max_batch_size=0"], "--max_batch_size must be at least 1"),
    ],
)
def test_what_cannot_be_served_is_one_line(folder, capsys, arguments, text):
    with pytest.raises(SystemExit):
        write_compose.main([*arguments, "--output=out"])
    error = capsys.readouterr().err
    assert re.search(text, error)
    assert len(error.splitlines()) == 1
    assert not (folder / "out").exists()
