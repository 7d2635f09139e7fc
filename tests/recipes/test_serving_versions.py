"""Versions of a served model under load, as TF Serving replaces them; the server is the double."""

import contextlib
import json
import pathlib
import threading
import time
import urllib.request

import numpy as np
import pytest

from mrl_keras.export import export_saved_model
from recipes.serving import write_compose
from recipes.serving.clients import connect
from tests.export import cases
from tests.support.served_model import damage, write_model
from tests.support.tf_serving import composed, serving

pytestmark = pytest.mark.slow  # servers, and seconds of load
BALLAST = 64


class Load:
    """Threads that ask without a pause, half of them by each protocol.

    Attributes:
        seen: for each thread, the versions that answered, in order, without repeats.
        errors: list of str.
    """

    def __init__(self, server, threads=4):
        sources = [{"url": f"{server.rest}/v1/models/m"}, {"grpc": f"{server.grpc}/m"}]
        self.seen, self.errors, self.count = [[] for _ in range(threads)], [], 0
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(connect(**sources[n % 2]), self.seen[n]))
            for n in range(threads)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, version, seconds=60):
        """Until every thread was answered by `version`."""
        deadline = time.monotonic() + seconds
        while not all(version in seen for seen in self.seen):
            assert time.monotonic() < deadline, f"no version {version}: {self.seen} {self.errors}"
            time.sleep(0.05)

    def _ask(self, model, seen):
        while not self._ended.is_set():
            try:
                answer = model.call("read", words=["a", "bc"])
            except ValueError as error:
                self.errors.append(str(error))
                return
            self.count += 1
            versions = set(answer["version"].tolist())
            if answer["length"].tolist() != [1, 2] or len(versions) != 1:
                self.errors.append(str(answer))
            if not seen or versions != {seen[-1]}:
                seen.extend(versions)


def states(server, name="m"):
    """{version: (state, error's text)} that the server reports."""
    with urllib.request.urlopen(f"{server.rest}/v1/models/{name}") as answer:
        found = json.load(answer)["model_version_status"]
    return {
        int(one["version"]): (one["state"], one["status"].get("error_message", "")) for one in found
    }


def wait_for_state(server, version, state, seconds=60):
    deadline = time.monotonic() + seconds
    while states(server).get(version, ("", ""))[0] != state:
        assert time.monotonic() < deadline, states(server)
        time.sleep(0.05)


def test_versions_replace_each_other_under_load(tmp_path):
    """No request is lost, none is answered by an older version later, and memory comes back."""
    folder = tmp_path / "m"
    write_model(folder, 1, ballast=BALLAST)
    with serving(folder) as server, Load(server) as load:
        load.wait_for(1)
        memory = [server.memory()]
        for version in (2, 3, 4, 5):
            write_model(folder, version, ballast=BALLAST)
            load.wait_for(version)
            wait_for_state(server, version - 1, "END")
            memory.append(server.memory())
    assert load.errors == []
    assert load.seen == [[1, 2, 3, 4, 5]] * len(load.seen)
    assert load.count > 100
    print(f"{load.count} requests, MiB {[round(one) for one in memory]}")
    # One ballast is there at any end; a second one would mean that a version was kept.
    assert memory[-1] < memory[0] + 0.5 * BALLAST, memory


def test_a_broken_version_replaces_nothing(tmp_path):
    folder = tmp_path / "m"
    write_model(folder, 1)
    elsewhere = write_model(tmp_path / "elsewhere", 2, ballast=1)
    damage(elsewhere)
    with serving(folder) as server, Load(server, threads=2) as load:
        load.wait_for(1)
        elsewhere.rename(folder / "2")  # variables that end too early
        wait_for_state(server, 2, "END")
        (folder / "3").mkdir()  # a copy that has just begun
        wait_for_state(server, 3, "END")
        (folder / ".tmp-9").mkdir()  # an export that is being written
        asked = load.count
        deadline = time.monotonic() + 30
        while load.count < asked + 50:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found = states(server)
        assert found[1] == ("AVAILABLE", "")
        assert "Restore" in found[2][1]
        assert "saved_model.pb" in found[3][1]
        assert sorted(found) == [1, 2, 3]
        write_model(folder, 4)
        load.wait_for(4)
        wait_for_state(server, 1, "END")
    assert load.errors == []
    assert load.seen == [[1, 4]] * 2


def test_labels_move_while_the_server_runs(tmp_path, capsys):
    """Canary first, then stable, each by the command that wrote the files."""
    folder, files = tmp_path / "m", f"--output={tmp_path / 'serving'}"

    def compose(*labels):
        write_compose.main([str(folder), files, *(f"--label={label}" for label in labels)])

    def answer(server, label):
        model = connect(url=f"{server.rest}/v1/models/m/labels/{label}")
        return model.call("read", words=["a"])["version"].tolist()

    def wait_for_answer(server, label, version):
        deadline, found = time.monotonic() + 60, None
        while found != [version]:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
            with contextlib.suppress(ValueError):  # there is no such label yet
                found = answer(server, label)

    write_model(folder, 1)
    compose("stable=1")
    quick = ("--model_config_file_poll_wait_seconds=0.1", "--file_system_poll_wait_seconds=0.1")
    with composed(tmp_path / "serving", *quick) as server:
        assert answer(server, "stable") == [1]
        write_model(folder, 2)
        compose("stable=1", "canary=2")
        wait_for_answer(server, "canary", 2)
        assert answer(server, "stable") == [1]
        compose("stable=2")
        wait_for_answer(server, "stable", 2)
        wait_for_state(server, 1, "END")
        with pytest.raises(ValueError, match="Unrecognized servable version label: canary"):
            answer(server, "canary")


def test_exports_are_composed_served_and_asked(tmp_path):
    """The committed model by a stock image, one whose searcher needs ScaNN by one that links it."""
    saved = pathlib.Path(__file__).parents[2] / "saved_models" / "digit_pairs"
    images = np.random.default_rng(0).random((2, 8, 16, 1))
    check_served(saved, tmp_path / "stock", scann=False, images=images)

    exported = tmp_path / "exported" / "docs"
    export_saved_model(str(exported), cases.encoder(), index=cases.index(), plan=cases.PLAN)
    features = np.random.default_rng(0).random((2, cases.FEATURES))
    check_served(exported, tmp_path / "scann", scann=True, features=features)
    # A server without the ops loads nothing, so the twin is what a stock image needs.
    with pytest.raises(RuntimeError, match="ended with status 1"), composed(tmp_path / "scann"):
        pass


def check_served(model, folder, scann, **inputs):
    """A composed server of a model's folder answers as the model does, by both protocols."""
    folder.mkdir()
    flags = ["--scann"] if scann else []
    write_compose.main([str(model), f"--output={folder}", *flags])
    wanted = connect(model=model).call("retrieve", **inputs)
    with composed(folder, scann=scann) as server:
        for source in (
            {"url": f"{server.rest}/v1/models/{model.name}"},
            {"grpc": f"{server.grpc}/{model.name}"},
        ):
            found = connect(**source).call("retrieve", **inputs)
            np.testing.assert_array_equal(found["ids"], wanted["ids"])
            np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-4)
