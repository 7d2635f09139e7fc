"""query.py: what a query names, which signature takes it, what is printed and drawn."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from recipes import query
from tests.support.served_model import IDS, write_model
from tests.support.tf_serving import serving

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Answers:
    """A model that has a retrieval by text and one by images of 4 x 4 pixels of grey."""

    manifest = {"about": {"retrieval": {"corpus": {"set": "rows", "split": ""}}}}

    def __init__(self):
        answers = {"ids": ("string", [None, 2]), "scores": ("float32", [None, 2])}
        self.signatures = {
            name: {"inputs": inputs, "outputs": outputs, "defaults": {}}
            for name, inputs, outputs in (
                ("embed", {"text": ("string", [None])}, {"embedding": ("float32", [None, 2])}),
                ("retrieve", {"text": ("string", [None])}, answers),
                ("retrieve_images", {"image": (np.dtype("float32"), [None, 4, 4, 1])}, answers),
                ("retrieve_embeddings", {"embedding": ("float32", [None, 2])}, answers),
                ("retrieve_dynamic", {"text": ("string", [None]), "k": ("int32", [])}, answers),
            )
        }
        self.asked = []

    def __str__(self):
        return "the model"

    def call(self, signature, **inputs):
        self.asked.append((signature, inputs))
        if signature == "embed":
            return {"embedding": np.zeros((1, 2))}
        rows = len(next(iter(inputs.values())))
        return {
            "ids": np.array([[b"U+1F389", b""]] * rows, object),
            "scores": np.array([[0.5, -3e38]] * rows, "float32"),
            "indices": np.array([[7, -1]] * rows),
        }


@pytest.fixture
def model(monkeypatch):
    made = Answers()
    monkeypatch.setattr(query, "connect", lambda *source: made)
    return made


def ask(*arguments):
    query.main(query.parse_arguments([str(one) for one in arguments]))


def test_a_text_is_asked_as_text_and_empty_slots_are_left_out(model, capsys):
    ask("folder", "party", "two words")
    assert [signature for signature, _ in model.asked] == ["retrieve", "retrieve"]
    assert model.asked[1][1]["text"].tolist() == ["two words"]
    assert capsys.readouterr().out.splitlines() == [
        "party", "   0.5000  🎉  U+1F389", "two words", "   0.5000  🎉  U+1F389",
    ]  # fmt: skip


def test_an_image_is_cut_to_the_signature(model, tmp_path, capsys):
    image = np.zeros((8, 8, 3), "uint8")
    image[:, 4:] = 200
    (tmp_path / "half.png").write_bytes(tf.io.encode_png(image).numpy())
    ask("folder", tmp_path / "half.png", "--json")
    signature, inputs = model.asked[0]
    assert (signature, inputs["image"].shape) == ("retrieve_images", (1, 4, 4, 1))
    assert inputs["image"].dtype == np.float32
    assert inputs["image"][0, 0, :, 0].tolist() == sorted(inputs["image"][0, 0, :, 0].tolist())
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ids"], answer["scores"]) == (["U+1F389"], [0.5])


def test_a_certificate_is_printed(model, monkeypatch, capsys):
    call = model.call
    certain = {"certified": np.array([True])}
    monkeypatch.setattr(model, "call", lambda *given, **more: call(*given, **more) | certain)
    ask("folder", "party")
    certain["certified"][0] = False
    ask("folder", "party", "party", "--json")
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first == "party (proven exact)"
    assert [json.loads(line)["certified"] for line in lines] == [False, False]


def test_each_row_of_a_file_is_a_query(model, tmp_path, capsys):
    np.save(tmp_path / "two.npy", np.zeros((2, 4, 4, 1)))
    ask("folder", tmp_path / "two.npy")
    assert f"{tmp_path / 'two.npy'} [1]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["folder", "gone.png"], "There is no file gone.png"),
        (["folder", "flat.npy"], r"no retrieval that takes an array \(1, 3\)"),
        (["folder", "pickled.npy"], "must hold one array of raw inputs"),
        (["folder", "broken.png"], "broken.png is no image that TensorFlow decodes"),
        (["folder", "word", "--signature=embed"], "'embed' answers embedding and no ids. Name one"),
        (["folder", "word", "--signature=nothing"], "has no signature 'nothing'"),
        (["folder", "word", "--signature=retrieve_dynamic"], "takes several inputs: text, k"),
        (["folder", "word", "--sheet=a.png"], "names no set of images for 'retrieve'"),
    ],
)
def test_what_can_not_be_asked(model, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    np.save("flat.npy", np.zeros((1, 3)))
    np.save("pickled.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=text):
        ask(*arguments)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("arguments", [[], ["folder"], ["--url=http://a/v1/models/b"]])
def test_a_query_is_needed(arguments, capsys):
    with pytest.raises(SystemExit):
        query.parse_arguments(arguments)
    assert "query: needs" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_and_servers_print_the_same(tmp_path, capsys):
    write_model(tmp_path / "m", 1)
    features = np.random.default_rng(0).random((2, 4))
    np.save(tmp_path / "rows.npy", features)
    with serving(tmp_path / "m") as server:
        printed = []
        for source in (
            [tmp_path / "m"],
            [f"--url={server.rest}/v1/models/m"],
            [f"--grpc={server.grpc}/m"],
        ):
            ask(*source, tmp_path / "rows.npy", "--json", "--signature=retrieve")
            printed.append(capsys.readouterr().out)
        with pytest.raises(ValueError, match="needs the model's folder"):
            ask(f"--grpc={server.grpc}/m", tmp_path / "rows.npy", f"--sheet={tmp_path / 'a.png'}")
    assert printed[0] == printed[1] == printed[2]
    best = [IDS[row].decode("utf-8", "replace") for row in np.argsort(-features[0])[:3]]
    assert json.loads(printed[0].splitlines()[0])["ids"] == best


@pytest.mark.slow
@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="needs emoji_captions")
def test_the_sheet_shows_what_was_found(monkeypatch, tmp_path, capsys):
    made = Answers()
    of = {"corpus": {"set": "emoji_captions", "split": "train+test", "kind": "images"}}
    made.manifest = {"about": {"retrieval": of, "retrievals": {"images": of}}}
    monkeypatch.setattr(query, "connect", lambda *source: made)
    ask("folder", "party", "emoji_captions:test:3", f"--sheet={tmp_path / 'a.png'}")
    drawn = tf.io.decode_png((tmp_path / "a.png").read_bytes()).numpy()
    assert len(np.unique(drawn.reshape(-1, drawn.shape[-1]), axis=0)) > 50
    with pytest.raises(ValueError, match="emoji_captions test has 275 rows"):
        ask("folder", "emoji_captions:test:275")
    with pytest.raises(ValueError, match="The set nothing test is not there"):
        ask("folder", "nothing:test:0")


@pytest.mark.slow
def test_a_reader_that_has_seen_enough():
    command = f"{sys.executable} recipes/query.py saved_models/emoji party | head -n 1"
    options = {"shell": True, "cwd": ROOT, "capture_output": True, "text": True, "timeout": 300}
    found = subprocess.run(f"set -o pipefail; {command}", executable="/bin/bash", **options)
    assert (found.returncode, found.stdout, found.stderr) == (0, "party\n", "")


def test_a_row_of_a_set_of_texts_is_asked_as_text(model, monkeypatch):
    monkeypatch.setattr(query, "set_rows", lambda *_: [{"text": "é".encode(), "label": 1}])
    ask("folder", "some_texts:test:3")
    assert [(name, inputs["text"].tolist()) for name, inputs in model.asked] == [
        ("retrieve", ["é".encode()])
    ]
