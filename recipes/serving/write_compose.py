"""Writes what a person with Docker needs to serve exported models: then it is `docker compose up`.

    python recipes/serving/write_compose.py saved_models/digits --output=serving
    docker compose -f serving/compose.yaml up
    python recipes/serving/write_compose.py saved_models/digits --output=serving \
        --label stable=1 --label canary=2

Reads the models' manifests, and writes into the output folder

- compose.yaml: the stock TF Serving image, and Prometheus; both on this machine's ports only;
- models.config: the models, each with its newest version, or with the versions that labels name;
- batching.config: used with --batching;
- monitoring.config, prometheus.yml: the server's metrics, and who reads them.

A model that needs ScaNN's ops is served by its twin NAME_plain, since the stock image does not link
them. A running server looks for versions every second and reads models.config again every 10
seconds: run the command again to move a label, to a version that is served already (canary=2
first, then stable=2). The server knows no passwords: put a proxy of your own in front of it before
others may reach its ports.
"""

from __future__ import annotations

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

from mrl_keras.export import load_manifest, models_config
from mrl_keras.export.versions import model_versions
from mrl_keras.files import local_path, write_text
from recipes.common.arguments import ScriptParser

IMAGE, PROMETHEUS = "tensorflow/serving:2.20.0", "prom/prometheus:v2.53.0"
STOCK_OPS = {"TFText"}
"""Custom ops that the stock image links, by their names in a manifest's `custom_ops`."""

_METRICS = "/monitoring/prometheus/metrics"
_COMPOSE = """\
# Written by write_compose.py; `docker compose up` in this folder starts it.
services:
  serving:
    image: {image}
    command:
{command}
    ports:
      - "127.0.0.1:8500:8500"  # gRPC
      - "127.0.0.1:8501:8501"  # REST
    volumes:
      - "{models}:/models:ro"
      - "./:/config:ro"
    restart: unless-stopped
  prometheus:
    image: {prometheus}
    command:
      - "--config.file=/config/prometheus.yml"
    ports:
      - "127.0.0.1:9090:9090"
    volumes:
      - "./:/config:ro"
    restart: unless-stopped
"""
_MONITORING = f"""\
prometheus_config {{
  enable: true
  path: "{_METRICS}"
}}
"""
_PROMETHEUS = f"""\
scrape_configs:
  - job_name: tf_serving
    scrape_interval: 5s
    metrics_path: {_METRICS}
    static_configs:
      - targets: ["serving:8501"]
"""
# As many threads as the server has cores, its default.
_BATCHING = """\
max_batch_size {{ value: {size} }}
batch_timeout_micros {{ value: {timeout} }}
max_enqueued_batches {{ value: 100 }}
"""


def parse_arguments(arguments=None):
    parser = ScriptParser(__file__, __doc__)
    add = parser.add_argument
    add("models", nargs="+", help="folders NAME of exported models, beside one another")
    add("--output", required=True, help="folder for the files")
    add(
        "--label",
        action="append",
        default=[],
        metavar="[NAME:]LABEL=VERSION",
        help="a version that clients ask for by a label, such as stable=1; may be repeated",
    )
    add("--image", default=IMAGE, help="image of the server")
    add("--scann", action="store_true", help="the image links ScaNN's ops: serve no twins")
    add("--batching", action="store_true", help="let the server merge requests into batches")
    add("--max_batch_size", type=int, default=32, help="most rows of a merged batch")
    add("--batch_timeout_micros", type=int, default=1000, help="longest wait for further rows")
    options = parser.parse_args(arguments)
    for name in ("max_batch_size", "batch_timeout_micros"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(options, name)}")
    return parser, options


def served_folder(model, labels, scann):
    """The folder to serve for a model: its own, or its twin's where the image lacks its ops.

    Args:
        model: str, folder of the versions.
        labels: {label: version} of the model; its highest version counts where there are none.
        scann: bool, whether the image links ScaNN's ops.

    Raises:
        ValueError: no exported model of these versions, or one that the image cannot serve.
    """
    model = os.path.normpath(local_path(model, "A model's folder"))
    versions = sorted(set(labels.values())) or list(model_versions(model)[-1:])
    if not versions:
        raise ValueError(
            f"{model} must be the folder of an exported model, with folders of versions in it. It "
            "has none; where it is a version itself, give the folder above it."
        )
    lacking = _lacking_ops(model, versions, scann)
    if not lacking:
        return model
    twin = f"{model}_plain"
    if lacking == {"Scann"} and set(versions) <= set(model_versions(twin)):
        served_folder(twin, labels, scann)
        return twin
    if lacking == {"Scann"}:
        advice = (
            f"It has no twin {os.path.basename(twin)} of the versions {versions} beside it: export "
            "it again with a twin (`--twin`, or ServingOptions(twin=True)), or give the --image of "
            "a server of your own with --scann."
        )
    else:
        advice = "Export it without them, or build a server that links them and write its files."
    raise ValueError(
        f"{model} needs the custom ops of {', '.join(sorted(lacking))}, which the image does not "
        f"link: its server would not load it. {advice}"
    )


def _lacking_ops(model, versions, scann):
    needed = set()
    for version in versions:
        if version not in model_versions(model):
            raise ValueError(
                f"Labels must name versions that exist. {model} has the versions "
                f"{list(model_versions(model))}. Received {version}."
            )
        needed |= set(load_manifest(os.path.join(model, str(version)))["custom_ops"])
    return needed - STOCK_OPS - ({"Scann"} if scann else set())


def parse_labels(texts, names):
    """{name of a model: {label: version}} of texts "[NAME:]LABEL=VERSION".

    Raises:
        ValueError: another form, another model, or no model's name where there are several.
    """
    labels = {}
    for text in texts:
        left, _, version = text.partition("=")
        name, _, label = left.rpartition(":")
        name = names[0] if not name and len(names) == 1 else name
        if name not in names or not label or not version.isdecimal():
            raise ValueError(
                "A label is LABEL=VERSION, or NAME:LABEL=VERSION for one of several models, such "
                f"as {names[0]}:stable=1. The models are {', '.join(names)}. Received {text!r}."
            )
        if label.isdecimal():
            raise ValueError(f"A label is not a number, which names a version. Received {text!r}.")
        labels.setdefault(name, {})[label] = int(version)
    return labels


def compose_files(options):
    """{name: text} of the files, from the parsed options.

    Raises:
        ValueError: models that the image cannot serve, that are not beside one another, or labels
            that name no version.
    """
    names = [os.path.basename(os.path.normpath(model)) for model in options.models]
    labels = parse_labels(options.label, names)
    folders = [
        served_folder(model, labels.get(name, {}), options.scann)
        for model, name in zip(options.models, names, strict=True)
    ]
    parents = {os.path.dirname(os.path.abspath(folder)) for folder in folders}
    if len(parents) > 1 or len(set(folders)) < len(folders):
        raise ValueError(
            "The models must be different folders beside one another, since one folder is mounted. "
            f"Received {', '.join(options.models)}."
        )
    (parent,) = parents
    served = [os.path.basename(folder) for folder in folders]
    by_served = {new: labels[old] for old, new in zip(names, served, strict=True) if old in labels}
    flags = {
        "model_config_file": "/config/models.config",
        "model_config_file_poll_wait_seconds": 10,
        "monitoring_config_file": "/config/monitoring.config",
        "file_system_poll_wait_seconds": 1,
    }
    if by_served:
        # Labels are read before the first version is loaded; without this the server gives up.
        flags["allow_version_labels_for_unavailable_models"] = "true"
    if options.batching:
        flags["enable_batching"] = "true"
        flags["batching_parameters_file"] = "/config/batching.config"
        # Batching refuses scalar inputs, also those of warm-up requests: no model would load.
        flags["enable_model_warmup"] = "false"
    place = os.path.relpath(parent, os.path.abspath(options.output))
    return {
        "compose.yaml": _COMPOSE.format(
            image=options.image,
            prometheus=PROMETHEUS,
            command="\n".join(f'      - "--{name}={value}"' for name, value in flags.items()),
            models=place if place.startswith(".") else f"./{place}",
        ),
        "models.config": models_config(parent, "/models", by_served, served),
        "batching.config": _BATCHING.format(
            size=options.max_batch_size, timeout=options.batch_timeout_micros
        ),
        "monitoring.config": _MONITORING,
        "prometheus.yml": _PROMETHEUS,
    }


def main(arguments=None):
    parser, options = parse_arguments(arguments)
    try:
        files = compose_files(options)
    except ValueError as error:
        parser.error(str(error))
    for name, text in files.items():
        write_text(os.path.join(options.output, name), text)
    print(files["models.config"])
    compose = os.path.join(options.output, "compose.yaml")
    print(f"Wrote {options.output}. Start it: docker compose -f {compose} up")


if __name__ == "__main__":
    main()
