"""The rows of a corpus as a nested index on disk: embedded chunk by chunk, resumable."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.files import (
    atomic_file,
    directory_is_complete,
    join,
    list_names,
    open_file,
    remove,
    write_json,
)
from mrl_keras.retrieval import IndexOptions, NestedIndex
from mrl_keras.retrieval.bulk.fingerprints import index_fingerprint
from recipes.common.corpus import Corpus

CHUNK_ROWS = 8192
"""A killed run loses at most so many embedded rows, and a batch."""


class IndexedCorpus(NamedTuple):
    """An index, and what judgements know of its rows.

    Attributes:
        index: `NestedIndex`, memory-mapped.
        labels: int (rows,), or `None`.
        keys: str (rows,), or `None`.
        class_names: names of the labels, or `None`.
        about: dict, the corpus with its rows and fingerprint.
    """

    index: NestedIndex
    labels: np.ndarray | None
    keys: np.ndarray | None
    class_names: tuple[str, ...] | None
    about: dict


def index_corpus(folder, corpus: Corpus, dims, made_with: dict, storage="float32") -> IndexedCorpus:
    """Embeds and indexes a corpus, or goes on where an earlier call was stopped.

    The embeddings lie in `folder` under a name made of the corpus and of `made_with`, so that
    other rows, another step or another storage never mix. They are read back one chunk at a time
    into the index, which replaces them and is memory-mapped: the rows are never twice in memory.

    Args:
        folder: str, where runs keep their indexes.
        corpus: `Corpus`.
        dims: `NestingDims`.
        made_with: dict that JSON can hold, what made the embeddings.
        storage: "float32" or "bfloat16", of the index. Default "float32".

    Raises:
        ValueError: no rows, embeddings of another width, rows that are not finite, or ids that
            repeat.
    """
    about = {"corpus": corpus.about, "made_with": made_with, "dims": list(dims), "storage": storage}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = join(folder, digest)
    kept, chunks = join(folder, "index"), join(folder, "chunks")
    if not directory_is_complete(kept):
        write_json(join(folder, "about.json"), about)
        names = _embed(chunks, corpus, dims.width)
        options = IndexOptions(storage=storage, scann=None)
        ids = np.concatenate([_read(name, "ids") for name in names])
        parts = {part: [_read(name, part) for name in names] for part in ("labels", "keys")}
        with atomic_file(join(folder, "rows.npz")) as path, open(path, "wb") as file:
            np.savez(file, **{n: np.concatenate(p) for n, p in parts.items() if p[0] is not None})
        embeddings = (_read(name, "embeddings") for name in names)
        NestedIndex.build(embeddings, dims, ids, options).save(kept)
    remove(chunks)
    index = NestedIndex.load(kept, memory_map=True)
    rows = join(folder, "rows.npz")
    described = {
        **corpus.about,
        "rows": len(index),
        "fingerprint": index_fingerprint(index)["sha256"],
    }
    return IndexedCorpus(
        index, _read(rows, "labels"), _read(rows, "keys"), corpus.class_names, described
    )


def _embed(folder, corpus, width):
    """Writes the chunks that are missing; the paths of all, in order."""
    paths = [join(folder, name) for name in sorted(list_names(folder)) if name.startswith("rows-")]
    seen, row = _Ids(corpus), 0
    for path in paths:
        row += seen.add(_read(path, "ids"))
    if row:
        print(f"Going on after {row:,} embedded rows", flush=True)
    waiting = []

    def write():
        nonlocal row, waiting
        path = join(folder, f"rows-{row:012d}.npz")
        parts = {
            name: np.concatenate([one[name] for one in waiting])
            for name, part in waiting[0].items()
            if part is not None
        }
        with atomic_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **parts)
        row, waiting = row + len(parts["ids"]), []
        paths.append(path)

    with tqdm(initial=row, desc="Embedding", unit="row", unit_scale=True) as bar:
        for embeddings, rows in corpus.embedded(row):
            if embeddings.shape[1] != width:
                raise ValueError(
                    f"The embeddings of {corpus.about['set']} must be {width} wide, as this run's. "
                    f"They are {embeddings.shape[1]} wide."
                )
            seen.add(rows.ids)
            parts = {"ids": rows.ids, "labels": rows.labels, "keys": rows.keys}
            waiting.append({"embeddings": np.asarray(embeddings, np.float32), **parts})
            if sum(len(one["ids"]) for one in waiting) >= CHUNK_ROWS:
                write()
            bar.update(len(rows.ids))
    if waiting:
        write()
    if not paths:
        raise ValueError(
            f"The corpus must hold at least one row. {_name(corpus)} is empty: name another set, "
            "split or folder."
        )
    return paths


class _Ids:
    """The ids so far, which must not repeat: told at once, not after hours of embedding."""

    def __init__(self, corpus):
        self._seen, self._corpus = set(), corpus

    def add(self, ids):
        """Takes the next ids; returns how many they are."""
        before = len(self._seen)
        for one in ids.tolist():
            self._seen.add(one)
            before += 1
            if len(self._seen) < before:
                raise ValueError(
                    f"The ids of a corpus must not repeat. In {_name(self._corpus)} {one!r} comes "
                    "twice: name another feature by `ids`, or none, which numbers the rows."
                )
        return len(ids)


def _name(corpus):
    return " ".join(filter(None, (corpus.about["set"], corpus.about.get("split"))))


def _read(path, name):
    """One array of an .npz file, or `None`."""
    with open_file(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        return file[name] if name in file.files else None
