"""Files of raw records: text lines, images, Parquet and TFRecord, read one record at a time."""

from __future__ import annotations

import collections
import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mrl_keras.files import as_path, is_directory, is_remote, join, list_names, open_file

IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")
TEXTS = (".txt",)
TABLES = (".parquet",)
EXAMPLES = (".tfrecord", ".tfrecords")
_INPUTS = ("text", "image", "embedding")


class Record(NamedTuple):
    """One thing to embed.

    Attributes:
        id: str or int, the row's own name.
        where: (str path, int row), which orders records of the same id.
        payload: str of JSON, what is kept beside the embedding; "" for nothing.
        value: str, the bytes of an image file, or an array of numbers.
    """

    id: Any
    where: tuple[str, int]
    payload: str
    value: Any


class BadRecord(NamedTuple):
    """A record that can't be embedded, for the dead letters.

    Attributes:
        where: (str path, int row).
        reason: str, one line.
    """

    where: tuple[str, int]
    reason: str


@dataclass(frozen=True)
class RecordOptions:
    """What is read of each record.

    Args:
        inputs: str, the column or feature to embed. Default "", the first of "text", "image" and
            "embedding" that is there.
        ids: str, the column or feature with the ids. Without one the id is "FILE:ROW", rows from 1;
            of an image file it is the file's name. Default "id".
        payload: names of columns or features, strings or numbers, to keep beside the embedding; of
            text lines "text". Default (), none.

    Raises:
        ValueError: `payload` is one string.
    """

    inputs: str = ""
    ids: str = "id"
    payload: Sequence[str] = ()

    def __post_init__(self):
        if isinstance(self.payload, str):
            raise ValueError(f"`payload` must be a list of names. Received {self.payload!r}.")
        object.__setattr__(self, "payload", tuple(self.payload))


def find_files(patterns: Sequence[str]) -> list[str]:
    """The files of some patterns and folders that `read_records` reads, sorted, each once.

    Args:
        patterns: local paths, perhaps with wildcards; or folders, local or remote, whose own files
            are taken.

    Raises:
        ValueError: nothing is found for a pattern, a file of another kind is named, or two images
            or texts in different folders have one name, of which their ids are made.
    """
    known, found = (*IMAGES, *TEXTS, *TABLES, *EXAMPLES), set()
    for pattern in patterns:
        pattern = as_path(pattern, "An input")
        if is_directory(pattern):
            paths = [join(pattern, name) for name in list_names(pattern)]
            paths = [path for path in paths if path.lower().endswith(known)]
        else:
            itself = is_remote(pattern) or os.path.isfile(pattern)
            paths = [pattern] if itself else glob.glob(pattern, recursive=True)
        if not paths:
            raise ValueError(
                f"{pattern!r} must name files, or a folder of files, that end in "
                f"{', '.join(known)}. Nothing was found."
            )
        other = [path for path in paths if not path.lower().endswith(known)]
        if other:
            raise ValueError(
                f"Inputs must end in {', '.join(known)}. Received {other[0]!r}; rename or convert "
                "it."
            )
        found.update(paths)
    names = collections.Counter(
        os.path.basename(path) for path in found if path.lower().endswith((*IMAGES, *TEXTS))
    )
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(
            f"Ids are made of the names of files, which must differ. Received several "
            f"{sorted(twice)[:3]}; rename them."
        )
    return sorted(found)


def read_records(path: str, options: RecordOptions) -> Iterator[Record | BadRecord]:
    """The records of one file; what can't be read comes as a `BadRecord`, and the rest goes on.

    Text is split into lines, of which empty ones are left out.

    Args:
        path: a file that `find_files` found.
        options: `RecordOptions`.

    Raises:
        OSError: the file is not there, or a remote file system does not answer.
        ImportError: pyarrow, for Parquet, is not installed.
    """
    lowered = path.lower()
    if lowered.endswith(IMAGES):
        with open_file(path, "rb") as file:
            yield Record(os.path.basename(path), (path, 0), "", file.read())
    elif lowered.endswith(TEXTS):
        yield from _lines(path, options)
    else:
        rows = _table(path, options) if lowered.endswith(TABLES) else _examples(path)
        for row, fields in enumerate(rows):
            if isinstance(fields, str):
                yield BadRecord((path, row), fields)
            else:
                yield _record(path, row, fields, options)


def _lines(path, options):
    with open_file(path, "rb") as file:
        for row, line in enumerate(file):
            try:
                text = line.decode("utf-8").strip("\r\n")
            except UnicodeDecodeError as error:
                yield BadRecord((path, row), f"no UTF-8: {error.reason} at byte {error.start}")
                continue
            if text.strip():
                payload = json.dumps({"text": text}) if "text" in options.payload else ""
                yield Record(_made_id(path, row), (path, row), payload, text)


def _record(path, row, fields, options):
    name = options.inputs or next((one for one in _INPUTS if one in fields), None)
    value = fields.get(name)
    if value is None:
        return BadRecord((path, row), f"no input: it has {sorted(fields)}")
    if isinstance(value, list):
        try:
            value = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            return BadRecord((path, row), f"{name!r} is not an array of numbers")
    kept = {one: fields[one] for one in options.payload if fields.get(one) is not None}
    try:
        payload = json.dumps(kept) if kept else ""
    except (TypeError, ValueError) as error:
        return BadRecord((path, row), f"the payload is not text or numbers: {error}")
    given = fields.get(options.ids)
    if given is None or given == "":
        given = _made_id(path, row)
    if not isinstance(given, (str, int)):
        return BadRecord((path, row), f"the id {given!r} is neither a string nor an int")
    return Record(given, (path, row), payload, value)


def _made_id(path, row):
    return f"{os.path.basename(path)}:{row + 1}"


def _table(path, options):
    """Dicts of the columns that are asked for; a str where reading fails."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ImportError("Reading Parquet needs pyarrow: pip install pyarrow") from error
    with open_file(path, "rb") as file:
        try:
            table = parquet.ParquetFile(file)
            wanted = {options.inputs or None, options.ids, *options.payload}
            wanted |= set() if options.inputs else set(_INPUTS)
            columns = [name for name in table.schema_arrow.names if name in wanted]
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                yield from batch.to_pylist()
        except ArrowException as error:
            yield f"the file can't be read on from here: {_line(error)}"


def _examples(path):
    """Dicts of the features of tf.train.Examples; a str where one can't be read."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    with open_file(path, "rb") as file:
        try:
            for data in tf.data.TFRecordDataset(file.name).as_numpy_iterator():
                try:
                    example = tf.train.Example.FromString(data)
                    yield {name: _feature(one) for name, one in example.features.feature.items()}
                except DecodeError as error:
                    yield f"no tf.train.Example: {_line(error)}"
        except tf.errors.DataLossError as error:
            yield f"the file can't be read on from here: {_line(error)}"


def _feature(feature):
    """Bytes as str where they are UTF-8; one value alone, several as a list."""
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if kind == "bytes_list":
        values = [_text(one) for one in values]
    return values[0] if len(values) == 1 and kind != "float_list" else values or None


def _text(data):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _line(error):
    return " ".join(str(error).split())[:200]
