"""The smoke check passes a server that answers as the folder, and names what another does."""

import re
import urllib.request

import numpy as np
import pytest

from recipes.serving import smoke_check, write_compose
from tests.support.served_model import write_model
from tests.support.tf_serving import composed, serving


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models of one version: m, one of other answers, a wider one, one that takes any width."""
    base = tmp_path_factory.mktemp("models")
    write_model(base / "m", 1)
    write_model(base / "other", 1, number=1.5)
    write_model(base / "wider", 1, width=5)
    write_model(base / "unchecked", 1, checked=False)
    return base


@pytest.fixture(scope="module")
def server(folders):
    with serving(*(folders / name for name in ("m", "unchecked"))) as server:
        yield server


def smoke(capsys, server, model, served, *arguments):
    """(status, what it prints) for a folder, asked of the model `served`."""
    addresses = [f"--url={server.rest}/v1/models/{served}", f"--grpc={server.grpc}/{served}"]
    status = smoke_check.main([f"--model={model}", *addresses, "--requests=2", *arguments])
    return status, capsys.readouterr().out


def test_a_server_of_the_folder_passes(folders, server, capsys):
    status, text = smoke(capsys, server, folders / "m", "m")
    assert text.endswith("All checks passed.\n")
    assert status == 0
    lines = [line.split() for line in text.splitlines()]
    assert ["signature", "protocol", "answers", "p50", "ms", "p95", "ms", "p99", "ms"] in lines
    rows = [line for line in lines if line[:2] == ["retrieve", "gRPC"]]
    assert rows[0][2:4] == ["equal", "100%"]
    assert all(0 < float(ms) < 1e4 for ms in rows[0][4:])
    assert re.findall(r"^(\w.*?)  +(REST|gRPC) +([1-9] [ar].*)$", text, re.M) == [
        ("empty batch", "REST", "1 answered, 3 refused"),  # JSON has no rows of four numbers
        ("empty batch", "gRPC", "4 answered"),
        ("invalid UTF-8", "REST", "1 answered"),
        ("invalid UTF-8", "gRPC", "1 answered"),
        ("k out of range", "REST", "2 answered"),
        ("k out of range", "gRPC", "2 answered"),
        ("wrong dtype", "REST", "5 refused"),
        ("wrong dtype", "gRPC", "5 refused"),
        ("wrong width", "REST", "3 refused"),
        ("wrong width", "gRPC", "3 refused"),
    ]


def test_other_answers(folders, server, capsys):
    status, text = smoke(capsys, server, folders / "other", "m")
    assert status == 1
    assert "FAILED REST: embed: other answers than the folder's: equal, off by 3e-01" in text
    assert "FAILED gRPC: read: other answers than the folder's: equal 100%, off by" in text
    assert "6 checks failed." in text


def test_a_server_that_takes_any_width(folders, server, capsys):
    status, text = smoke(capsys, server, folders / "unchecked", "unchecked")
    assert status == 1
    assert "FAILED gRPC: embed: wrong width: it was answered" in text
    assert "FAILED REST: embed: wrong width: it was answered" in text
    assert "4 checks failed." in text  # serving_default is embed


def test_another_model_s_signatures(folders, server, capsys):
    status, text = smoke(capsys, server, folders / "wider", "m")
    assert status == 1
    assert "FAILED gRPC: embed: another model's signature: inputs {'features': " in text
    assert text.count("another model's signature") == 6
    assert re.search(r"^read +REST +equal", text, re.M)


@pytest.mark.slow
def test_a_composed_server_with_labels_and_batching(folders, capsys, tmp_path):
    """Batching refuses scalar inputs, which no check can repair."""
    files = f"--output={tmp_path}", "--label=stable=1", "--batching"
    write_compose.main([str(folders / "m"), *files])
    capsys.readouterr()
    with composed(tmp_path) as server:
        url = f"--url={server.rest}/v1/models/m/labels/stable"
        arguments = [f"--model={folders / 'm'}", url, f"--grpc={server.grpc}/m/stable"]
        assert smoke_check.main([*arguments, "--requests=1"]) == 0
        with urllib.request.urlopen(f"{server.rest}/monitoring/prometheus/metrics") as page:
            assert b':tensorflow:serving:request_count{status="OK"}' in page.read()
    text = capsys.readouterr().out
    assert re.findall("^retrieve .*(not with batching)$", text, re.M) == ["not with batching"] * 2
    assert text.endswith("All checks passed.\n")


def test_a_server_that_does_not_answer(folders, server, capsys):
    with server.stopped():
        status, text = smoke(capsys, server, folders / "m", "m", "--timeout=0.2")
    assert status == 1
    assert "FAILED REST: The server at" in text
    assert "FAILED gRPC: The server at" in text
    assert text.count("did not answer within 0.2 seconds") == 2
    status, text = smoke(capsys, server, folders / "m", "absent")
    assert status == 1
    assert text.count("Servable not found for request: Latest(absent)") == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model=m"], "smoke_check: give --url, --grpc or both"),
        (["--model=m", "--grpc=a:1/m", "--requests=0"], "--requests and --timeout must be above 0"),
    ],
)
def test_wrong_arguments(arguments, text, capsys):
    with pytest.raises(SystemExit) as ended:
        smoke_check.main(arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_no_folder(capsys):
    assert smoke_check.main(["--model=absent", "--grpc=127.0.0.1:1/m"]) == 2
    assert "absent must be the folder of an exported model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "same"),
    [([1.0, np.nan], True), ([np.nan, 1.0], False), ([np.inf, np.nan], False), ([2.0, 1.0], False)],
)
def test_answers_that_are_no_numbers_are_compared_too(found, same):
    wanted = {"scores": np.array([1.0, np.nan], "float32")}
    given = {"scores": np.array(found, "float32")}
    assert smoke_check.same_answers(wanted, given, rtol=1e-3, agreement=1.0)[0] == same
