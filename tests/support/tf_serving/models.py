"""Versions of models: found by polling, loaded, served, dropped."""

import contextlib
import os
import pathlib
import re
import struct
import sys
import threading
import time

from google.protobuf import text_format

from recipes.benchmarks.parts.c_api import Model, StatusError
from tests.support.tf_serving.protos import (
    get_model_status_pb2,
    model_server_config_pb2,
    prediction_log_pb2,
    saved_model_pb2,
)

INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, DATA_LOSS = 3, 5, 9, 15
State = get_model_status_pb2.ModelVersionStatus.State


class Version:
    """One version of a model, from its loading until its last request has gone."""

    def __init__(self, name, number, path):
        self.name, self.number, self.path = name, number, path
        self.state, self.error = State.START, None
        self.signatures, self.model = {}, None
        self._users, self._idle = 0, threading.Condition()

    def load(self, library, play):
        """Loads the model and plays its warm-up requests; keeps the error where that fails."""
        self.state = State.LOADING
        try:
            file = pathlib.Path(self.path) / "saved_model.pb"
            saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
            self.signatures = dict(saved.meta_graphs[0].signature_def)
            self.model = Model(library, self.path)
            for request in warmup_requests(self.path) if play else ():
                play(self, request)
            self.state = State.AVAILABLE
        except StatusError as error:
            self.error = error
        except Exception as error:  # a file that is missing or damaged, whatever reads it
            self.error = StatusError(DATA_LOSS, f"{type(error).__name__}: {error}")
        if self.error is not None:
            self.unload()

    def unload(self):
        """Waits for the requests that it still answers, then frees the model."""
        self.state = State.UNLOADING
        with self._idle:
            self._idle.wait_for(lambda: not self._users)
        if self.model is not None:
            self.model.close()
        self.model, self.state = None, State.END

    def add_user(self):
        with self._idle:
            self._users += 1

    @contextlib.contextmanager
    def leaving_user(self):
        """One user less at the end; until then the version stays loaded."""
        try:
            yield self
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()


class Models:
    """All models of a config file.

    Args:
        library: `c_api.Library`.
        config_file: path of a ModelServerConfig in text format.
        mounts: {folder in the config: folder here}.
        play: function of a `Version` and a warm-up request; `None` for no warm-up.
        labels_early: --allow_version_labels_for_unavailable_models.
    """

    def __init__(self, library, config_file, mounts, play, labels_early):
        self._library, self._file, self._mounts, self._play = library, config_file, mounts, play
        self._labels_early, self._lock = labels_early, threading.Lock()
        self._configs, self._labels, self._versions = [], {}, {}
        self._read_config()
        self.poll()
        failed = [v for v in self._versions.values() if v.state != State.AVAILABLE]
        if failed or not self._versions:
            texts = [f"{{name: {v.name} version: {v.number}}} due to {v.error}" for v in failed]
            raise SystemExit(f"servable(s) did not become available: {texts or self._configs}")

    def poll_forever(self, seconds, config_seconds):
        """Looks for versions, and for another config where `config_seconds` is not 0."""
        read = time.monotonic()
        while True:
            time.sleep(seconds)
            if config_seconds and time.monotonic() - read >= config_seconds:
                read = time.monotonic()
                try:
                    self._read_config()
                except (SystemExit, OSError, text_format.ParseError) as error:
                    print(f"the config is not taken: {error}", file=sys.stderr)
            self.poll()

    def poll(self):
        """Loads what is wanted and missing, then drops what is no longer wanted.

        TF Serving's availability-preserving policy: as long as a wanted version is not available,
        an available one that is not wanted stays.
        """
        for config in self._configs:
            wanted = self._wanted(config)
            for number, path in wanted.items():
                if (config.name, number) not in self._versions:
                    version = Version(config.name, number, path)
                    with self._lock:
                        self._versions[config.name, number] = version
                    version.load(self._library, self._play)
            available = [v for v in self._of(config.name) if v.state == State.AVAILABLE]
            if {v.number for v in available} >= set(wanted) and wanted:
                dropped = [v for v in available if v.number not in wanted]
                with self._lock:  # no request gets them from now on
                    for version in dropped:
                        version.state = State.UNLOADING
                for version in dropped:
                    version.unload()

    def find(self, spec):
        """Context of the `Version` that a ModelSpec names."""
        with self._lock:
            version = self._named(spec)
            version.add_user()
        return version.leaving_user()

    def statuses(self, spec):
        """The versions of a model, or the one that is named."""
        versions = self._of(spec.name)
        if spec.HasField("version"):
            number = spec.version.value
            versions = [v for v in versions if v.number == number]
            if not versions:
                raise StatusError(
                    NOT_FOUND, f"Could not find version {number} of model {spec.name}"
                )
        if not versions:
            raise StatusError(NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return versions

    def _named(self, spec):
        available = {v.number: v for v in self._of(spec.name) if v.state == State.AVAILABLE}
        number = spec.version.value if spec.HasField("version") else None
        if spec.version_label:
            number = self._labels.get(spec.name, {}).get(spec.version_label)
            if number is None:
                text = f"Unrecognized servable version label: {spec.version_label}"
                raise StatusError(INVALID_ARGUMENT, text)
        if number is None and available:
            return available[max(available)]
        if number in available:
            return available[number]
        which = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
        raise StatusError(NOT_FOUND, f"Servable not found for request: {which}")

    def _of(self, name):
        return [v for (owner, _), v in sorted(self._versions.items()) if owner == name]

    def _wanted(self, config):
        """{number: folder} of the versions that the config's policy wants."""
        base = self._here(config.base_path)
        names = os.listdir(base) if os.path.isdir(base) else []
        found = {
            int(name): os.path.join(base, name) for name in names if re.fullmatch(r"\d+", name)
        }
        policy = config.model_version_policy
        kind = policy.WhichOneof("policy_choice")
        if kind == "specific":
            return {n: found[n] for n in sorted(policy.specific.versions) if n in found}
        if kind == "all":
            return dict(sorted(found.items()))
        count = (policy.latest.num_versions if kind == "latest" else 0) or 1
        return {n: found[n] for n in sorted(found)[-count:]}

    def _here(self, path):
        for there, here in self._mounts.items():
            if path == there or path.startswith(there + "/"):
                return here + path.removeprefix(there)
        return path

    def _read_config(self):
        """Takes the models of the config file, then its labels.

        A label needs a version that is available; --allow_version_labels_for_unavailable_models
        spares this to labels that are new.
        """
        text = pathlib.Path(self._here(self._file)).read_text()
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        self._configs = list(config.model_config_list.config)
        labels = {one.name: dict(one.version_labels) for one in self._configs}
        for name, numbers in labels.items():
            ready = {v.number for v in self._of(name) if v.state == State.AVAILABLE}
            before = self._labels.get(name, {})
            for label, number in numbers.items():
                early = self._labels_early and before.get(label, number) == number
                if number not in ready and not early:
                    raise SystemExit(
                        "FAILED_PRECONDITION: Request to assign label to version "
                        f"{number} of model {name}, which is not currently available for inference"
                    )
        self._labels = labels


def warmup_requests(path):
    """The PredictRequests in assets.extra/tf_serving_warmup_requests, a TFRecord file."""
    file = pathlib.Path(path) / "assets.extra" / "tf_serving_warmup_requests"
    content, place = file.read_bytes() if file.exists() else b"", 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        record = content[place + 12 : place + 12 + length]
        yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        place += 12 + length + 4
