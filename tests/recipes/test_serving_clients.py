"""A folder, REST and gRPC answer alike, and say in one line what they could not do."""

import contextlib
import http.server
import json
import socket
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from recipes.serving.clients import FolderModel, GrpcModel, RestModel, as_array, connect
from tests.support.served_model import IDS, write_model
from tests.support.tf_serving import serving

SOURCES = ("folder", "REST", "gRPC")
FEATURES = np.random.default_rng(0).random((2, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "m"
    write_model(folder, 2)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def models(folder, server):
    return {
        "folder": connect(model=folder),
        "REST": connect(url=f"{server.rest}/v1/models/m"),
        "gRPC": connect(grpc=f"{server.grpc}/m"),
    }


@pytest.fixture(params=SOURCES)
def model(request, models):
    return models[request.param]


def test_signatures(model):
    assert list(model.signatures) == ["embed", "read", "retrieve", "serving_default"]
    retrieve = model.signatures["retrieve"]
    assert retrieve["inputs"] == {"features": (np.float32, [None, 4]), "k": (np.int32, [])}
    assert retrieve["outputs"]["ids"] == ("string", [None, None])
    assert retrieve["defaults"] == {"k": 3}


def test_numbers_and_an_only_output(model):
    (embedding,) = model.call("embed", features=FEATURES).values()
    assert embedding.dtype == np.float32
    np.testing.assert_array_equal(embedding, 2 * FEATURES[:, :2].astype("float32"))


def test_defaults_are_filled_in_and_ids_may_be_any_bytes(model):
    order = np.argsort(-FEATURES, axis=-1)
    answer = model.call("retrieve", features=FEATURES)
    np.testing.assert_array_equal(answer["indices"], order[:, :3])
    np.testing.assert_array_equal(answer["ids"], IDS[order[:, :3]])
    assert answer["indices"].dtype == np.int32
    assert model.call("retrieve", features=FEATURES.tolist(), k=4)["ids"].shape == (2, 4)


def test_strings(model):
    words = ["é", b"\xff\xfe\0", ""]
    answer = model.call("read", words=words)
    assert answer["copy_bytes"].tolist() == ["é".encode(), b"\xff\xfe\0", b""]
    assert answer["length"].tolist() == [2, 3, 0]
    assert model.call("read", words=np.array(["é", "aa"]))["length"].tolist() == [2, 2]


def test_no_rows(models):
    assert all(model.call("read", words=[])["length"].shape == (0,) for model in models.values())
    for source in ("folder", "gRPC"):
        found = models[source].call("embed", features=np.zeros((0, 4)))["embedding"]
        assert (found.shape, found.dtype) == ((0, 2), np.float32)
    with pytest.raises(ValueError, match="no rows, which REST's JSON cannot carry"):
        models["REST"].call("embed", features=np.zeros((0, 4)))


def test_not_a_number(models):
    features = np.full((1, 4), np.nan)
    for source in ("folder", "gRPC"):
        assert np.isnan(models[source].call("embed", features=features)["embedding"]).all()
    with pytest.raises(ValueError, match="'features' holds NaN or infinity, .* ask by gRPC"):
        models["REST"].call("embed", features=features)
    # A server's answer may hold them all the same.
    assert np.isinf(models["REST"].call("embed", features=[[3e38] * 4])["embedding"]).all()


@pytest.mark.parametrize(
    ("signature", "inputs", "text"),
    [
        ("nope", {}, "has no signature 'nope'; it serves embed, read, retrieve, serving_default."),
        ("embed", {}, "'embed' of the .* takes features float32 .None, 4.. Received none"),
        ("embed", {"features": FEATURES[:, :3]}, r"Received features float64 \[2, 3\]"),
        ("embed", {"features": FEATURES[0]}, r"Received features float64 \[4\]"),
        ("embed", {"features": [["a"] * 4]}, r"Received features string \[1, 4\]"),
        ("read", {"words": [1]}, r"takes words string \[None\]. Received words int64 \[1\]"),
        ("retrieve", {"features": FEATURES, "k": 1.5}, r"k int32 \[\]. .* k float64 \[\]"),
        ("embed", {"words": ["a"]}, "where you know it with other inputs, this is another model"),
        ("embed", {"features": FEATURES, "k": 3}, r"takes features float32 .*k int64 \[\]"),
    ],
)
def test_what_the_signature_does_not_take(model, signature, inputs, text):
    with pytest.raises(ValueError, match=text) as raised:
        model.call(signature, **inputs)
    assert raised.value.refused
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("signature", "inputs", "by_rest", "by_grpc"),
    [
        ("nope", {"features": FEATURES}, 'name: "nope" not found', 'key "nope" not found'),
        ("embed", {}, "Missing named input: features", "Missing but required: {features}"),
        ("embed", {"features": [["a"]]}, "not of expected type: float", "to be float but string"),
        ("embed", {"features": [[1.0]]}, "not compatible with expected shape", "not compatible"),
    ],
)
def test_a_request_that_the_server_refuses(models, signature, inputs, by_rest, by_grpc):
    arrays = {name: as_array(value) for name, value in inputs.items()}
    arrays = {n: x if x.dtype == object else x.astype("float32") for n, x in arrays.items()}
    for source, text in (("REST", by_rest), ("gRPC", by_grpc)):
        with pytest.raises(ValueError, match="answered with an error") as raised:
            models[source].send(signature, arrays)
        assert text in str(raised.value)
        assert raised.value.refused
        assert "\n" not in str(raised.value)


def test_versions(folder, server):
    assert connect(url=f"{server.rest}/v1/models/m/versions/2").signatures
    assert connect(grpc=f"{server.grpc}/m/2").signatures
    assert connect(model=folder / "2").signatures
    for source in (
        {"url": f"{server.rest}/v1/models/m/versions/7"},
        {"grpc": f"{server.grpc}/m/7"},
    ):
        with pytest.raises(ValueError, match=r"not found for request: Specific\(m, 7\)"):
            connect(**source)
    for source in ({"url": f"{server.rest}/v1/models/m/labels/x"}, {"grpc": f"{server.grpc}/m/x"}):
        with pytest.raises(ValueError, match="Unrecognized servable version label: x"):
            connect(**source)


def test_what_the_double_does_as_the_server(server, models):
    """gRPC fills defaults in, REST does not; rows instead of columns; the states of versions."""
    features = FEATURES.astype("float32")
    assert models["gRPC"].send("retrieve", {"features": features})["ids"].shape == (2, 3)
    with pytest.raises(ValueError, match="Missing named input: k"):
        models["REST"].send("retrieve", {"features": features})
    body = json.dumps({"instances": features.tolist()}).encode()
    with urllib.request.urlopen(f"{server.rest}/v1/models/m:predict", body) as answer:
        rows = json.load(answer)["predictions"]
    np.testing.assert_array_equal(np.array(rows, "float32"), 2 * features[:, :2])
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "m"
    with grpc.insecure_channel(server.grpc) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        (state,) = stub.GetModelStatus(request, timeout=10).model_version_status
    assert (state.version, state.State.Name(state.state)) == (2, "AVAILABLE")


def test_another_model(server):
    for source in ({"url": f"{server.rest}/v1/models/n"}, {"grpc": f"{server.grpc}/n"}):
        with pytest.raises(ValueError, match=r"Latest\(n\) -- .* name the model and version"):
            connect(**source)


def test_the_other_port(server):
    with pytest.raises(ValueError, match="does not speak TF Serving's REST protocol.*8501"):
        RestModel(f"http://{server.grpc}/v1/models/m")
    with pytest.raises(ValueError, match="does not answer: .*8500 for gRPC"):
        GrpcModel(f"{server.rest.removeprefix('http://')}/m")


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match="does not answer: Connection refused. Start the server"):
        RestModel(f"http://127.0.0.1:{port}/v1/models/m")
    with pytest.raises(ValueError, match="does not answer: .*[Rr]efused. Start the server"):
        GrpcModel(f"127.0.0.1:{port}/m")


def test_a_server_that_takes_too_long(server, models):
    sources = {"url": f"{server.rest}/v1/models/m"}, {"grpc": f"{server.grpc}/m"}
    slow = [connect(**source, timeout=0.3) for source in sources]
    with server.stopped():
        for model in slow:
            with pytest.raises(
                ValueError, match="did not answer within 0.3 seconds. Give a longer"
            ):
                model.call("embed", features=FEATURES)
    assert all(model.call("embed", features=FEATURES) for model in slow)


def test_a_server_that_answers_bit_by_bit():
    with (
        canned(METADATA, (200, b" " * 100), pause=0.02) as url,
        pytest.raises(ValueError, match="did not answer within 0.3 seconds"),
    ):
        connect(url=url, timeout=0.3).call("embed", x=[1.0])


@contextlib.contextmanager
def canned(metadata, answer=(200, b"{}"), pause=0.0):
    """A REST server of two answers: (status, content), or `None` for a closed connection.

    With a pause in seconds, each byte of the second answer comes after one.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self._send(metadata, 0.0)

        def do_POST(self):
            self._send(answer, pause)

        def _send(self, answer, pause):
            if answer is None:
                return
            self.send_response(answer[0])
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has gone
                for part in [answer[1]] if not pause else map(bytes, zip(answer[1])):
                    self.wfile.write(part)
                    time.sleep(pause)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1/models/m"
        finally:
            server.shutdown()


INFO = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}}
SIGNATURE = {"embed": {"inputs": {"x": INFO}, "outputs": {"y": INFO, "z": INFO}}}
METADATA = (200, json.dumps({"metadata": {"signature_def": {"signature_def": SIGNATURE}}}).encode())


@pytest.mark.parametrize(
    ("answers", "text", "refused"),
    [
        ([(200, b"<html>")], "REST protocol: HTTP 200 OK, without TF Serving's JSON", False),
        ([(502, b"<html>")], "REST protocol: HTTP 502 Bad Gateway, without", False),
        ([(200, b'{"a": 1}')], "REST protocol: /v1/models/m/metadata has no signatures", False),
        (
            [(503, b'{"error": "no\\nroom"}')],
            r"error \(HTTP 503\): no room -- the server's log",
            False,
        ),
        ([(404, b'{"error": "no"}')], r"error \(HTTP 404\): no -- repair the request", True),
        ([None], "does not answer: it closed the connection", False),
        ([METADATA, None], "does not answer: it closed the connection", False),
        ([METADATA, (200, b'{"a": 1}')], "the answer has no outputs", False),
        ([METADATA, (200, b'{"outputs": {"q": [1]}}')], "'embed' with q instead of y, z", False),
        ([METADATA, (200, b'{"outputs": [1]}')], "another model or version now: connect", False),
        ([METADATA, (200, b'{"outputs": {"y": ["a"], "z": [1]}}')], "y that is no float32", False),
    ],
)
def test_a_server_that_answers_something_else(answers, text, refused):
    with canned(*answers) as url, pytest.raises(ValueError, match=text) as raised:
        connect(url=url).call("embed", x=[1.0])
    assert raised.value.refused == refused
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({}, "Give one source of answers.* Received none"),
        ({"url": "http://a/v1/models/m", "grpc": "a:1/m"}, "Give one source of answers"),
        ({"url": "a:8501/v1/models/m"}, "A REST address is http://HOST:8501/v1/models/NAME"),
        ({"url": "http://a:8501/m"}, "Received 'http://a:8501/m'"),
        ({"url": "http://a:85o1/v1/models/m"}, "The port of .* must be a number"),
        ({"grpc": "a/m"}, "A gRPC address is HOST:8500/NAME.* Received 'a/m'"),
        ({"grpc": "a:8500"}, "A gRPC address is"),
        ({"model": "absent"}, "absent must be the folder of an exported model.* empty or absent"),
    ],
)
def test_wrong_addresses(source, text):
    with pytest.raises(ValueError, match=text):
        connect(**source)


def test_damaged_folders(folder, tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="It has no saved_model.pb and no version"):
        FolderModel(tmp_path)
    (tmp_path / "1").mkdir()
    with pytest.raises(ValueError, match="/1 cannot be loaded: .* export the model again"):
        FolderModel(tmp_path)
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(ValueError, match="/1 cannot be loaded"):
        FolderModel(tmp_path)


def test_missing_ops(tmp_path):
    write_model(tmp_path / "m", 1, custom_ops=["Absent"])
    with pytest.raises(ImportError, match='custom ops Absent, .* pip install "Absent"'):
        FolderModel(tmp_path / "m")
