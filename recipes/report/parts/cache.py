"""Results kept on disk under a hash of everything that they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from mrl_keras.checks import as_int
from mrl_keras.files import atomic_file, write_json
from mrl_keras.version import __version__


class ResultCache:
    """Arrays and values that are computed once for the same content.

    A result's key is the SHA-256 of `parts`, which name all that it depends on, of its kind, and
    of the package's version: other weights, another split, preprocessing or argument is another
    key. Arrays are a KEY.npz beside a KEY.json with its digest, values a KEY.json alone. Writing
    is atomic and nothing is pickled. A file that is cut, changed or not readable is computed anew
    and replaced.

    Args:
        folder: where the files lie; it is made when the first result is written.

    Example:

    >>> import tempfile
    >>> from recipes.report.parts.cache import ResultCache
    >>> calls = []
    >>> def embeddings():
    ...     calls.append("computed")
    ...     return {"embeddings": np.eye(2)}
    >>> parts = {"weights": [np.ones((3, 2))], "split": "test", "preprocessing": {"crop": 0.875}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = ResultCache(folder)
    ...     for _ in range(2):
    ...         found = cache.arrays(parts, embeddings)
    >>> found["embeddings"].shape, calls
    ((2, 2), ['computed'])
    """

    def __init__(self, folder):
        self.folder = os.fspath(folder)

    def arrays(
        self, parts: Mapping, compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays under `parts`, computed where they are not there.

        Args:
            parts: names of what the result depends on, to None, booleans, numbers, strings,
                arrays, and lists and dicts of these: the weights, the data split, the
                preprocessing, the evaluator's arguments and seed.
            compute: function without arguments that gives {name: array}.

        Raises:
            ValueError: a part or an array of another kind.
        """
        key = _content_key("arrays", parts)
        table, notes = self._path(key, "npz"), self._path(key, "json")
        found = _read_arrays(table, notes)
        if found is None:
            found = {name: _array(name, value) for name, value in compute().items()}
            with atomic_file(table) as path, open(path, "wb") as file:
                np.savez(file, **found)
                file.flush()
                digest = _file_digest(path)
            write_json(notes, {"parts": _described(parts), "sha256": digest})
        return found

    def values(self, parts: Mapping, compute: Callable[[], object]):
        """The value under `parts`, computed where it is not there.

        Args:
            parts: as for `arrays`.
            compute: function without arguments that gives what JSON holds: None, booleans,
                numbers, strings, lists, and dicts with string names. NumPy's numbers become
                Python's, tuples lists.

        Raises:
            ValueError: a part of another kind, or a value that JSON does not give back as it was.
        """
        path = self._path(_content_key("values", parts), "json")
        found = _read_value(path)
        if found is None:
            value = _plain(compute())
            found = {"value": value, "sha256": _text_digest(value)}
            write_json(path, {"parts": _described(parts), **found})
        return found["value"]

    def _path(self, key, ending):
        return os.path.join(self.folder, f"{key}.{ending}")


def call_content(called, **arguments) -> dict:
    """A part of a key for the result of a call: what is called, and with what.

    Args:
        called: a function or a class, or an evaluator, whose options are then arguments too.
        **arguments: what the call is given beside the arrays that other parts stand for.

    Raises:
        ValueError: a function without a name of its own, such as a lambda.

    >>> from mrl_keras.evaluation import NearestNeighboursEvaluator
    >>> call_content(NearestNeighboursEvaluator(ks=(5,)))["options"]
    {'ks': (5,), 'tops': (1,)}
    """
    options = {}
    if dataclasses.is_dataclass(called) and not isinstance(called, type):
        called, options = type(called), dataclasses.asdict(called)
    name = f"{called.__module__}.{called.__qualname__}"
    if "<" in name:
        raise ValueError(f"Only what has a name of its own can be part of a key. Received {name}.")
    return {"called": name, "options": options, "arguments": arguments}


def _content_key(kind: str, parts: Mapping) -> str:
    """SHA-256 of what a result is, what it depends on, and the package's version, 64 hex digits.

    Args:
        kind: what is kept, such as "arrays".
        parts: as for `ResultCache.arrays`. The order of a dict's names does not matter; that of a
            list's elements does. True differs from 1, 1 from 1.0, and a list from
            an array.

    >>> _content_key("values", {"seed": 0, "dims": [8, 16]}) == _content_key(
    ...     "values", {"dims": (8, 16), "seed": 0}
    ... )
    True

    Raises:
        ValueError: a part of another kind.
    """
    hashed = hashlib.sha256()
    _feed(hashed, [kind, __version__], "kind")
    _feed(hashed, dict(parts), "parts")
    return hashed.hexdigest()


def _feed(hashed, value, where):
    """Adds a value, its type and its length to a hash, so that no two values feed the same."""
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise ValueError(f"The names in `{where}` must be strings. Received {list(value)!r}.")
        hashed.update(f"dict {len(value)};".encode())
        for name in sorted(value):
            _feed(hashed, name, where)
            _feed(hashed, value[name], f"{where}.{name}")
    elif isinstance(value, (list, tuple)):
        hashed.update(f"list {len(value)};".encode())
        for i, one in enumerate(value):
            _feed(hashed, one, f"{where}[{i}]")
    elif isinstance(value, np.ndarray):
        array = np.ascontiguousarray(_array(where, value))
        hashed.update(f"array {array.dtype.str} {value.shape};".encode())
        hashed.update(array.reshape(-1).view(np.uint8).data)
    else:
        plain = _plain(value, where)
        text = f"{type(plain).__name__} {plain!r}"
        hashed.update(f"{len(text.encode())} {text};".encode())


def _array(name, value) -> np.ndarray:
    """An array that can be written and read without pickling."""
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise ValueError(
            f"`{name}` must be an array of numbers, booleans or strings of one length. "
            f"Received dtype {array.dtype}."
        )
    return array


def _plain(value, where="the value"):
    """`value` as JSON gives it back."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(one, f"{where}.{name}") for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, f"{where}[{i}]") for i, one in enumerate(value)]
    try:
        return as_int(value, where)
    except ValueError:
        raise ValueError(
            f"`{where}` must be None, a boolean, a number, a string, a list, or a dict with "
            f"string names. Received {value!r} of type {type(value).__name__}."
        ) from None


def _described(parts):
    """`parts` for a reader of the file: arrays by dtype and shape."""
    if isinstance(parts, Mapping):
        return {name: _described(value) for name, value in parts.items()}
    if isinstance(parts, (list, tuple)):
        return [_described(value) for value in parts]
    if isinstance(parts, np.ndarray):
        return f"{parts.dtype} {list(parts.shape)}"
    return _plain(parts)


def _read_arrays(table, notes):
    """The arrays of an earlier run, or None where they are absent or not what was written."""
    try:
        with open(notes, encoding="utf-8") as file:
            expected = json.load(file)["sha256"]
        if _file_digest(table) != expected:
            return None
        with np.load(table, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _read_value(path):
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return found if found["sha256"] == _text_digest(found["value"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _text_digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _file_digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
