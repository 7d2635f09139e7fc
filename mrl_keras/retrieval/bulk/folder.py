"""The folder of a bulk search: chunks that are whole or absent, a manifest, joined answers."""

from __future__ import annotations

import json
import os

import numpy as np

from mrl_keras.files import (
    absolute_path,
    atomic_directory,
    atomic_file,
    directory_is_complete,
    exists,
    is_directory,
    join,
    list_names,
    local_copy,
    read_manifest,
    remove,
)
from mrl_keras.retrieval.bulk.fingerprints import describe_differences
from mrl_keras.retrieval.index.results import SearchResult

FORMAT_VERSION = 1
_MANIFEST, _CHUNKS, _ANSWERS = "manifest.json", "chunks", "answers"
# Format version 1 calls the indices "positions", in the chunks and in the answers.
_FILES = {"scores": "scores.npy", "indices": "positions.npy", "ids": "ids.npy"}
_TEMPORARY = ".tmp-"
_START_AGAIN = "Choose another folder, or remove this one to start again."


class BulkFolder:
    """The answers so far, on disk.

    The manifest is replaced after each chunk is written, and counts the queries in whole chunks.
    A chunk that it does not count is written again. The answers are joined under a temporary
    name, which is then replaced by their own.

    Args:
        directory: path of the folder, which is made where it is missing.
        about: dict of fingerprints, as JSON holds it.
        rows: the number of queries, or `None` where it is not known.

    Attributes:
        path: the absolute path.
        answered: int, the queries whose answers are whole.
        digest: str, the digest of these queries.

    Raises:
        ValueError: the folder holds something else, another search, or damaged chunks.
    """

    def __init__(self, directory: str, about: dict, rows: int | None):
        self.path = absolute_path(directory, "`directory`")
        if exists(self.path) and not is_directory(self.path):
            raise ValueError(f"`directory` must be a folder. Received the file {self.path}.")
        self._manifest = _read_manifest(self.path)
        if self._manifest is None:
            self._start(about, rows)
        else:
            self._refuse_another(about, rows)
        self._remove_remains()
        if not self.is_finished:
            self._chunks()

    @property
    def answered(self) -> int:
        """How many queries are answered."""
        return self._manifest["answered"]["rows"]

    @property
    def digest(self) -> str:
        """The digest of the answered queries."""
        return self._manifest["answered"]["sha256"]

    @property
    def is_finished(self) -> bool:
        """Whether the answers are joined."""
        return directory_is_complete(self._at(_ANSWERS))

    def add(self, found: SearchResult, digest: str) -> None:
        """Writes the next chunk; `digest` is that of all queries up to its end."""
        shape = found.indices.shape
        chunk = np.empty(shape[0], _chunk_dtype(shape[1]))
        chunk["scores"], chunk["positions"] = found.scores, found.indices
        name = f"rows-{self.answered:012d}.npy"
        with atomic_file(self._at(_CHUNKS, name)) as path, open(path, "wb") as file:
            np.save(file, chunk, allow_pickle=False)
            _sync(file)
        answered = {"rows": self.answered + len(chunk), "sha256": digest}
        self._write_manifest({**self._manifest, "answered": answered})

    def finish(self, index, k: int) -> None:
        """Joins the chunks into one array of each kind, and removes them."""
        columns = {
            "scores": (np.dtype(np.float32), lambda chunk: chunk["scores"]),
            "positions": (np.dtype(np.int64), lambda chunk: chunk["positions"]),
            "ids": (index.ids.dtype, lambda chunk: index.ids_at(chunk["positions"])),
        }
        self._write_manifest({**self._manifest, "rows": self.answered})
        chunks = self._chunks()
        with atomic_directory(self._at(_ANSWERS)) as temporary:
            for name, (dtype, column) in columns.items():
                with open(os.path.join(temporary, f"{name}.npy"), "wb") as file:
                    _write_header(file, dtype, (self.answered, k))
                    for chunk in chunks:
                        file.write(np.ascontiguousarray(column(chunk), dtype).tobytes())
                    _sync(file)
        del chunks
        self._remove_remains()

    def _at(self, *parts):
        return join(self.path, *parts)

    def _start(self, about, rows):
        held = [name for name in list_names(self.path) if not name.startswith(_TEMPORARY)]
        if held:
            raise ValueError(
                "`directory` must be new, empty, or the folder of a bulk search. "
                f"{self.path} holds {sorted(held)[:5]} and no {_MANIFEST}; choose another."
            )
        answered = {"rows": 0, "sha256": None}
        self._write_manifest(
            {"format_version": FORMAT_VERSION, **about, "rows": rows, "answered": answered}
        )

    def _refuse_another(self, about, rows):
        there = {name: self._manifest.get(name) for name in about}
        found = describe_differences(there, about)
        if None not in (rows, self._manifest["rows"]) and rows != self._manifest["rows"]:
            found.append(f"queries.rows ({self._manifest['rows']} there, {rows} here)")
        if found:
            raise ValueError(
                f"{self.path} holds another search, which differs in: {', '.join(found)}. "
                f"{_START_AGAIN}"
            )

    def _write_manifest(self, manifest):
        with (
            atomic_file(self._at(_MANIFEST)) as path,
            open(path, "w", encoding="utf-8") as file,
        ):
            json.dump(manifest, file, indent=2)
            _sync(file)
        self._manifest = manifest

    def _remove_remains(self):
        """Removes what a killed process left, and chunks whose answers are joined."""
        for folder in (self.path, self._at(_CHUNKS)):
            for name in list_names(folder):
                if name.startswith(_TEMPORARY) or (self.is_finished and name == _CHUNKS):
                    remove(join(folder, name))

    def _chunks(self):
        """The counted chunks in order, memory-mapped; refuses gaps."""
        folder, chunks, rows = self._at(_CHUNKS), [], 0
        if not self.answered:
            return chunks
        with local_copy(folder) as local:
            while rows < self.answered:
                name = f"rows-{rows:012d}.npy"
                try:
                    path = os.path.join(local, name)
                    chunks.append(np.load(path, mmap_mode="r", allow_pickle=False))
                except (OSError, ValueError) as error:
                    raise ValueError(
                        f"The chunk {join(folder, name)} is missing or damaged: {error}. "
                        f"{_START_AGAIN}"
                    ) from error
                rows += len(chunks[-1])
        if rows != self.answered:
            raise ValueError(
                f"The chunks in {folder} must hold the answers of {self.answered} queries. They "
                f"hold {rows}. {_START_AGAIN}"
            )
        return chunks


def load_bulk_search(directory: str) -> SearchResult:
    """The finished answers of a `bulk_search`, without the index and the queries.

    Args:
        directory: path of the folder. The answers of a remote one are copied to a temporary
            local folder first, and a line says so.

    Returns:
        A `SearchResult` of the memory-mapped scores, indices and ids, each (queries, k).

    Raises:
        ValueError: the folder holds no bulk search, or one that is not finished.

    Example:

    >>> import tempfile
    >>> from mrl_keras.retrieval import NestedIndex, SearchPlan, bulk_search
    >>> index = NestedIndex.build(np.eye(4), [2, 4])
    >>> folder = os.path.join(tempfile.mkdtemp(), "answers")
    >>> _ = bulk_search(index, np.eye(4), SearchPlan((4,), k=1), folder)
    >>> load_bulk_search(folder).indices[:, 0].tolist()
    [0, 1, 2, 3]
    """
    directory = absolute_path(directory, "`directory`")
    manifest = _read_manifest(directory)
    if manifest is None:
        raise ValueError(f"{directory} must be the folder of a bulk search; it has no {_MANIFEST}.")
    if not directory_is_complete(join(directory, _ANSWERS)):
        of = "" if manifest["rows"] is None else f" of {manifest['rows']}"
        raise ValueError(
            f"The bulk search in {directory} is not finished: {manifest['answered']['rows']}{of} "
            "queries are answered. Call it again with the same arguments to continue."
        )
    with local_copy(join(directory, _ANSWERS)) as folder:
        try:
            answers = {
                field: np.load(os.path.join(folder, name), mmap_mode="r", allow_pickle=False)
                for field, name in _FILES.items()
            }
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(
                f"The answers in {directory} must be whole. A file is missing or damaged: "
                f"{error}. Copy the folder again, or remove it and search again."
            ) from error
    return SearchResult(**answers)


def _read_manifest(directory):
    path = join(directory, _MANIFEST)
    if not exists(path):
        return None
    return read_manifest(path, "a bulk search", FORMAT_VERSION, _START_AGAIN, needs="answered")


def _chunk_dtype(k):
    return np.dtype([("positions", np.int64, (k,)), ("scores", np.float32, (k,))])


def _write_header(file, dtype, shape):
    described = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": described, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _sync(file):
    file.flush()
    os.fsync(file.fileno())
