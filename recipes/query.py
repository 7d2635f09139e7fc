"""Asks an exported model for the nearest rows of a text, an image or a row of a set.

    python recipes/query.py saved_models/emoji "party"
    python recipes/query.py saved_models/emoji party --sheet=answers.png
    python recipes/query.py saved_models/digit_pairs recipes/results/quickstart/queries.npy
    python recipes/query.py --url=http://localhost:8501/v1/models/emoji party.png
    python recipes/query.py --grpc=localhost:8500/emoji "party" "rain"

The model is a folder, or a server's by REST (`--url`) or gRPC (`--grpc`). A query is the name of an
image file, a .npy file of raw inputs (batch, ...), SET:SPLIT:ROW of TensorFlow Datasets, or else a
text. Prints ids and scores, best first, and of a certified plan whether the answer is proven to be
that of exact search at full width; `--sheet` draws the images that were found, read from the
set that the model's manifest names. Imports neither Keras nor mrl_keras.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if not __package__:  # started as a file
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np
import tensorflow as tf

from recipes.common.sheet import Line, draw_sheet
from recipes.serving.clients import connect

IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")
_ROW = re.compile(r"(?P<name>[\w/.]+):(?P<split>\w+):(?P<row>\d+)")
_CODE_POINT = re.compile(r"U\+([0-9A-F]{4,6})")


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        prog="query.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = lambda message: parser.exit(2, f"query: {message} (--help lists the options)\n")
    add = parser.add_argument
    add("asked", nargs="*", metavar="model query", help="the model's folder, then queries")
    add("--url", help="REST address of a model, http://HOST:8501/v1/models/NAME")
    add("--grpc", help="gRPC address of a model, HOST:8500/NAME")
    add("--signature", help="instead of the retrieval that takes such a query")
    add("--timeout", type=float, default=30.0, help="seconds that a server may take (30)")
    add("--json", action="store_true", help="print one line of JSON for each query")
    add("--sheet", help="PNG to draw the images into that were found")
    add("--data_dir", help="folder of TensorFlow Datasets; else TFDS_DATA_DIR")
    options = parser.parse_args(arguments)
    folder = () if options.url or options.grpc else ("the model's folder",)
    if len(options.asked) <= len(folder):
        parser.error(f"needs {' and '.join((*folder, 'a query'))}. Received {options.asked}")
    options.model = options.asked.pop(0) if folder else None
    return options


def main(options):
    model = connect(options.model, options.url, options.grpc, options.timeout)
    answers = []
    for query in options.asked:
        value = read_query(query, options.data_dir)
        signature = options.signature or retrieval_for(model, value)
        name, value = fitted(model, signature, value)
        answer = model.call(signature, **{name: value})
        if "ids" not in answer:
            raise ValueError(
                f"The signature {signature!r} answers {', '.join(answer)} and no ids. Name one of "
                f"{', '.join(retrievals(model))}."
            )
        for row in range(len(value)):
            found = {key: answer[key][row] for key in ("ids", "scores", "indices")}
            found["ids"] = [_shown(one) for one in found["ids"]]
            if "certified" in answer:
                found["certified"] = bool(answer["certified"][row])
            title = query if len(value) == 1 else f"{query} [{row}]"
            answers.append((title, value[row], signature, found))
            show(title, found, options.json)
    if options.sheet:
        draw_sheet(options.sheet, sheet_lines(answers, _manifest(model), options.data_dir))
        print(f"Drew {options.sheet}", file=sys.stderr)


def read_query(query: str, data_dir=None) -> np.ndarray:
    """The raw inputs (batch, ...) that a query names; strings for a text.

    Raises:
        ValueError: a file that can't be read, or a row that is not there.
    """
    path = pathlib.Path(query)
    if path.suffix.lower() in (*IMAGES, ".npy") and not path.is_file():
        raise ValueError(f"There is no file {query}. Name an image, a .npy file or SET:SPLIT:ROW.")
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{query} must hold one array of raw inputs: {error}.") from error
    if path.suffix.lower() in IMAGES:
        try:
            image = tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(f"{query} is no image that TensorFlow decodes.") from error
        return image.numpy()[None]
    if found := _ROW.fullmatch(query):
        example = set_rows(found["name"], found["split"], [int(found["row"])], data_dir)[0]
        for name in ("image", "text", "sentence1"):
            if name in example:
                kept = object if isinstance(example[name], bytes) else None  # a text is no array
                return np.array([example[name]], kept)
        raise ValueError(f"{query} has neither an image nor a text. It has {sorted(example)}.")
    return np.array([query], object)


def set_rows(name, split, rows, data_dir=None) -> list[dict]:
    """Some examples of a TFDS set, as dicts of arrays.

    Raises:
        ValueError: no such set, split or row.
        ImportError: tensorflow-datasets is missing.
    """
    os.environ.setdefault("NO_GCE_CHECK", "true")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError('Rows of a set need: pip install "mrl_keras[data]"') from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        count = builder.info.splits[split].num_examples
    except (tfds.core.registered.DatasetNotFoundError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(
            f"The set {name} {split} is not there ({reason}). Prepare it, or name its folder by "
            "--data_dir."
        ) from error
    if rows and max(rows) >= count:
        raise ValueError(f"{name} {split} has {count} rows, from 0. Received {max(rows)}.")
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    found = {}
    for row in sorted(set(rows)):
        found[row] = next(iter(dataset.skip(row).take(1).as_numpy_iterator()))
    return [found[row] for row in rows]


def retrievals(model) -> list[str]:
    """The signatures that take raw inputs and answer ids, without optional inputs."""
    return [
        name
        for name, signature in model.signatures.items()
        if "ids" in signature["outputs"]
        and name != "serving_default"
        and not re.search("(_embeddings)?(_dynamic|_batch)?$", name)[0]
    ]


def retrieval_for(model, value) -> str:
    """The retrieval whose raw input is of the query's kind: text, image, or other.

    Raises:
        ValueError: there is none.
    """
    known = retrievals(model)
    for name in known:
        inputs = _raw_inputs(model, name)
        dtype, shape = next(iter(inputs.values()))
        text = dtype == "string"
        if len(inputs) == 1 and text == (value.dtype == object) and _rank(shape, value):
            return name
    kind = "a text" if value.dtype == object else f"an array {value.shape}"
    raise ValueError(
        f"{model} has no retrieval that takes {kind}. It retrieves by {known or 'nothing'}; "
        "`--signature` names another signature."
    )


def _raw_inputs(model, name):
    """The inputs of a signature that have no default."""
    signature = model.signatures[name]
    return {n: spec for n, spec in signature["inputs"].items() if n not in signature["defaults"]}


def _rank(shape, value):
    return shape is None or len(shape) == value.ndim


def fitted(model, signature, value):
    """(input name, value): an image in the signature's size and dtype.

    Raises:
        ValueError: a signature that the model lacks, or of several inputs.
    """
    if signature not in model.signatures:
        raise ValueError(f"{model} has no signature {signature!r}; it has {retrievals(model)}.")
    inputs = _raw_inputs(model, signature)
    if len(inputs) != 1:
        raise ValueError(f"The signature {signature!r} takes several inputs: {', '.join(inputs)}.")
    ((name, (dtype, shape)),) = inputs.items()
    if value.ndim == 4 and shape is not None and len(shape) == 4:
        height, width, channels = shape[1:]
        if channels == 1 and value.shape[3] == 3:
            value = tf.image.rgb_to_grayscale(value).numpy()
        if None not in (height, width) and value.shape[1:3] != (height, width):
            value = np.round(tf.image.resize(value, (height, width), antialias=True).numpy())
    return name, value if dtype == "string" else value.astype(dtype)


def show(title, found, as_json):
    """Prints one answer; empty slots are left out."""
    slots = [slot for slot, index in enumerate(found["indices"]) if index >= 0]
    ids, scores = ([found[key][slot] for slot in slots] for key in ("ids", "scores"))
    if as_json:
        line = {"query": title, "ids": ids, "scores": [float(score) for score in scores]}
        print(json.dumps(line | {key: found[key] for key in ("certified",) if key in found}))
        return
    proven = {None: "", True: " (proven exact)", False: " (not proven exact)"}
    print(f"{title}{proven[found.get('certified')]}")
    for one, score in zip(ids, scores, strict=True):
        print(f"  {score:7.4f}  {_with_character(one)}")


def sheet_lines(answers, manifest, data_dir=None) -> list[Line]:
    """The images that were found for each query, as `draw_sheet` takes them.

    Raises:
        ValueError: the manifest names no set of images, or the set is not there.
    """
    made, lines = manifest.get("about", {}), []
    for title, asked, signature, found in answers:
        name = signature.removeprefix("retrieve").strip("_")
        of = made.get("retrievals", {}).get(name) if name else made.get("retrieval")
        corpus = (of or {}).get("corpus", {})
        if corpus.get("kind") != "images":
            raise ValueError(
                f"The manifest names no set of images for {signature!r}. Leave --sheet out."
            )
        rows = [int(index) for index in found["indices"] if index >= 0]
        examples = set_rows(corpus["set"], corpus["split"], rows, data_dir)
        scores = [f"{score:.3f}" for score in found["scores"]]
        shown = list(zip((example["image"] for example in examples), scores, strict=False))
        lines.append(Line(title, asked if np.ndim(asked) == 3 else None, shown))
    return lines


def _manifest(model):
    """The manifest of a model in a folder; of a server's it is not known."""
    manifest = getattr(model, "manifest", None)
    if not manifest:
        raise ValueError("--sheet needs the model's folder: a server does not give its manifest.")
    return manifest


def _shown(one):
    return one.decode("utf-8", "replace") if isinstance(one, bytes) else int(one)


def _with_character(one):
    """An id such as "U+1F389" with the character that it names."""
    found = _CODE_POINT.fullmatch(str(one))
    return f"{chr(int(found[1], 16))}  {one}" if found else one


if __name__ == "__main__":
    try:
        main(parse_arguments())
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, ImportError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
