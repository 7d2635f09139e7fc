"""Rows for a search engine: of an embedded corpus, of shards, of an index or of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from mrl_keras.files import exists, is_directory, join, list_names
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval import NestedIndex
from mrl_keras.retrieval.arrays import as_float32
from mrl_keras.scale.corpus import MANIFEST, CorpusRows, EmbeddedCorpus
from mrl_keras.scale.shards import load_shards

_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class EngineRows:
    """Rows of one source.

    Args:
        dims: `NestingDims`.
        metric: "cosine" or "dot".
        id_dtype: "string" or "int64".
        count: int.
        read: function without arguments -> iterator of `CorpusRows`.
        model: str, the exported model that made them; "" where that is not known.
    """

    dims: NestingDims
    metric: str
    id_dtype: str
    count: int
    read: Callable[[], Iterator[CorpusRows]]
    model: str = ""


def find_rows(folder: str) -> EngineRows:
    """The rows of a folder.

    | folder | made by |
    |---|---|
    | an embedded corpus | `embed_corpus.py` |
    | shards | `embed_corpus.py --shard_plan`, `build_shards` |
    | an index | `NestedIndex.save` |
    | a run | `train.py`, and `export.py`, which indexes it |

    Raises:
        ValueError: another folder, or a run with no index or with several.
    """
    if exists(join(folder, MANIFEST)):
        corpus = EmbeddedCorpus(folder)
        layout, encoder = corpus.layout, corpus.about["encoder"] or {}
        model = encoder.get("model", "")
        return EngineRows(
            layout.dims, layout.metric, layout.id_dtype, len(corpus), corpus.read, model
        )
    if exists(join(folder, "index.json")):
        return _of_indexes([NestedIndex.load(folder, memory_map=True)])
    if exists(join(folder, "config.json")):
        within = join(folder, "indexes")
        found = [join(within, name, "index") for name in list_names(within)]
        found = [path for path in found if is_directory(path)]
        if len(found) != 1:
            raise ValueError(
                f"The run {folder} must have one index, and has {len(found)}. "
                + (f"Name one of {found}." if found else "Export it first (export.py).")
            )
        return find_rows(found[0])
    try:
        return _of_indexes(load_shards(folder))
    except ValueError as error:
        raise ValueError(
            f"{folder} must be an embedded corpus, shards, an index, or a run that was exported "
            f"({error})"
        ) from error


def _of_indexes(indexes):
    def read():
        for index in indexes:
            for low in range(0, len(index), _ROWS):
                part = slice(low, low + _ROWS)
                blocks = [as_float32(np.asarray(block[part])) for block in index.blocks]
                ids = index.ids[part]
                yield CorpusRows(ids, np.concatenate(blocks, axis=1), [{}] * len(ids))

    first = indexes[0]
    kind = "int64" if first.ids.dtype.kind == "i" else "string"
    return EngineRows(first.nesting_dims, first.metric, kind, sum(map(len, indexes)), read)
