"""An embedded corpus on disk: Parquet shards with one column for each prefix block, and a manifest.

| column | holds |
|---|---|
| `id` | int64 or string |
| `block_00`, `block_01`, ... | fixed-size lists: the dims that each prefix adds |
| `scale_00`, ... | of int8 blocks alone: float32 by which the row's block is multiplied |
| `payload` | JSON text, or null |

Parquet reads the columns that are asked for, so a prefix is read without the dims after it. The
manifest is written last: a folder without one is not a corpus.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.files import atomic_file, exists, join, open_file, read_manifest, write_json
from mrl_keras.nesting import NestingDims
from mrl_keras.retrieval.arrays import as_float32, check_metric
from mrl_keras.retrieval.bulk.fingerprints import RowDigest
from mrl_keras.retrieval.index.storage import storage_dtype

FORMAT_VERSION = 1
MANIFEST = "corpus.json"
STORAGES = ("float32", "bfloat16", "int8")
_ROW_GROUP = 8192


@dataclass(frozen=True)
class Layout:
    """How the rows of a corpus are stored.

    Args:
        dims: ints, ascending prefix sizes; the last is the embedding width.
        metric: "cosine" or "dot", by which rows are compared. Defaults to "cosine".
        storage: "float32", "bfloat16" (as uint16), or "int8" with one scale for each row and
            block. Defaults to "float32".
        id_dtype: "string" or "int64". Defaults to "string".
        shards: int, over which rows are dealt by a hash of their ids. Defaults to 8.

    Raises:
        ValueError: dims that do not ascend, an unknown metric, storage or kind of ids, or `shards`
            below 1.
    """

    dims: Sequence[int]
    metric: str = "cosine"
    storage: str = "float32"
    id_dtype: str = "string"
    shards: int = 8

    def __post_init__(self):
        object.__setattr__(self, "dims", NestingDims(self.dims))
        object.__setattr__(self, "shards", whole_number(self.shards, "`shards`"))
        check_metric(self.metric)
        for name, known in (("storage", STORAGES), ("id_dtype", ("string", "int64"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {known}. Received {getattr(self, name)!r}."
                )

    def to_dict(self) -> dict:
        """The layout as JSON holds it."""
        return {
            "dims": list(self.dims),
            "metric": self.metric,
            "storage": self.storage,
            "id_dtype": self.id_dtype,
            "shards": self.shards,
        }


class CorpusRows(NamedTuple):
    """Some rows of a corpus.

    Attributes:
        ids: int64 or str (rows,).
        vectors: float32 (rows, dim).
        payload: list of dicts, `{}` for rows without one.
    """

    ids: np.ndarray
    vectors: np.ndarray
    payload: list[dict]


def shard_of(name, shards: int) -> int:
    """The shard of an id, the same wherever it is asked: BLAKE2b of its text, modulo the shards.

    Args:
        name: str or int.
        shards: int, how many there are.

    >>> [shard_of(name, 8) for name in ("a", "b", "c", 7)]
    [7, 5, 3, 2]
    """
    digest = hashlib.blake2b(str(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards


def shard_name(shard: int, shards: int) -> str:
    """The file of a shard.

    >>> shard_name(3, 8)
    'shard-00003-of-00008.parquet'
    """
    return f"shard-{shard:05d}-of-{shards:05d}.parquet"


def encode_blocks(vectors: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    """{column: array} of the blocks, and of int8 the scales, of float32 (rows, d)."""
    found = {}
    for place, (low, high) in enumerate(layout.dims.blocks):
        block = vectors[:, low:high]
        if layout.storage == "int8":
            scale = np.abs(block).max(axis=1) / np.float32(127)
            safe = np.where(scale > 0, scale, np.float32(1))
            found[f"scale_{place:02d}"] = scale.astype(np.float32)
            block = np.round(block / safe[:, None]).astype(np.int8)
        elif layout.storage == "bfloat16":
            block = block.astype(storage_dtype("bfloat16")).view(np.uint16)
        found[f"block_{place:02d}"] = np.ascontiguousarray(block)
    return found


def decode_blocks(columns: dict[str, np.ndarray], count: int, storage: str) -> np.ndarray:
    """float32 (rows, dim) of the first `count` blocks."""
    blocks = [columns[f"block_{place:02d}"] for place in range(count)]
    if storage == "bfloat16":
        blocks = [as_float32(block.view(storage_dtype("bfloat16"))) for block in blocks]
    elif storage == "int8":
        scales = [columns[f"scale_{place:02d}"] for place in range(count)]
        pairs = zip(blocks, scales, strict=True)
        blocks = [block.astype(np.float32) * scale[:, None] for block, scale in pairs]
    return np.concatenate(blocks, axis=1)


def write_shard(folder, shard: int, ids, vectors, payload, layout: Layout) -> dict:
    """Writes one shard's file, sorted by id; returns its entry of the manifest.

    Args:
        folder: str, local or remote.
        shard: int.
        ids: list of str or int, unique.
        vectors: float32 (rows, d).
        payload: list of JSON texts, "" for none.
        layout: `Layout`.

    Raises:
        ImportError: pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    order = sorted(range(len(ids)), key=ids.__getitem__)
    kind = pyarrow.string() if layout.id_dtype == "string" else pyarrow.int64()
    columns = {"id": pyarrow.array([ids[place] for place in order], kind)}
    blocks = encode_blocks(vectors[order], layout)
    for name, block in sorted(blocks.items()):
        flat = pyarrow.array(block.reshape(-1))
        if block.ndim == 2:
            flat = pyarrow.FixedSizeListArray.from_arrays(flat, block.shape[1])
        columns[name] = flat
    texts = [payload[place] or None for place in order]
    columns["payload"] = pyarrow.array(texts, pyarrow.string())
    name = shard_name(shard, layout.shards)
    with atomic_file(join(folder, name)) as path:
        parquet.write_table(
            pyarrow.table(columns),
            path,
            row_group_size=_ROW_GROUP,
            compression={name: "zstd" if name in ("id", "payload") else "none" for name in columns},
            use_dictionary=False,
            write_statistics=False,
        )
    digest = RowDigest()
    digest.update(_tables(columns["id"].to_pylist(), blocks, texts))
    return {"file": name, "shard": shard, "rows": len(ids), "sha256": digest.hexdigest()}


def write_corpus(folder, shards: Sequence[dict], layout: Layout, about: dict) -> None:
    """Writes the manifest, which makes the folder a corpus; call it after all shards are there."""
    shards = sorted(shards, key=lambda one: one["shard"])
    content = {
        "format_version": FORMAT_VERSION,
        "layout": layout.to_dict(),
        "rows": sum(one["rows"] for one in shards),
        "shards": shards,
        "about": about,
    }
    write_json(join(folder, MANIFEST), content)


class EmbeddedCorpus:
    """The rows that a pipeline embedded, read shard by shard and prefix by prefix.

    Args:
        folder: str, local or remote, with the manifest that is written last.

    Attributes:
        layout: `Layout`.
        shards: list of dicts: `file`, `shard`, `rows`, `sha256`.
        about: dict: the encoder and its fingerprint, the inputs, the dead letters.

    Raises:
        ValueError: the folder holds no manifest, or one of another format version.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, folder: str):
        self.folder = folder
        path = join(folder, MANIFEST)
        if not exists(path):
            raise ValueError(
                f"{folder} must be an embedded corpus. It has no {MANIFEST}, which is written "
                "last: embed it (again)."
            )
        advice = "Embed the corpus again."
        manifest = read_manifest(path, "an embedded corpus", FORMAT_VERSION, advice, "layout")
        self.layout = Layout(**manifest["layout"])
        self.shards = manifest["shards"]
        self.about = manifest["about"]
        _pyarrow()

    def __len__(self) -> int:
        return sum(shard["rows"] for shard in self.shards)

    def columns(self, dim: int | None = None) -> list[str]:
        """The columns that hold the prefix `dim`; `None` is the whole width."""
        dims = self.layout.dims
        count = dims.index(dims.width if dim is None else dim) + 1
        kinds = ("block", "scale") if self.layout.storage == "int8" else ("block",)
        return [f"{kind}_{place:02d}" for place in range(count) for kind in kinds]

    def read(
        self, dim: int | None = None, shard: dict | None = None, batch_rows: int = _ROW_GROUP
    ) -> Iterator[CorpusRows]:
        """Rows in batches, of one prefix; no column of a later block is read.

        Args:
            dim: int, a nesting dim. Defaults to `None`, the whole width.
            shard: one of `shards`. Defaults to `None`, all in order.
            batch_rows: int, rows of a batch at most. Defaults to 8,192.

        Raises:
            ValueError: a dim that is not a nesting dim, or a file that is damaged.
            OSError: a file that is missing.
        """
        wanted = self.columns(dim)
        count = len([name for name in wanted if name.startswith("block")])
        kind = str if self.layout.id_dtype == "string" else np.int64
        for one in self.shards if shard is None else [shard]:
            for ids, arrays, texts in self._batches(one, wanted, batch_rows):
                vectors = decode_blocks(arrays, count, self.layout.storage)
                payload = [json.loads(text) if text else {} for text in texts]
                yield CorpusRows(np.array(ids, kind), vectors, payload)

    def _batches(self, shard, wanted, batch_rows=_ROW_GROUP):
        """(ids, {column: array as stored}, JSON texts) of one file."""
        pyarrow, parquet = _pyarrow()
        path = join(self.folder, shard["file"])
        with open_file(path, "rb") as file:
            try:
                table = parquet.ParquetFile(file)
                for batch in table.iter_batches(batch_rows, columns=["id", *wanted, "payload"]):
                    arrays = {}
                    for name in wanted:
                        column = batch.column(name)
                        block = name.startswith("block")
                        flat = column.flatten() if block else column
                        flat = flat.to_numpy(zero_copy_only=False)
                        arrays[name] = flat.reshape(len(column), -1) if block else flat
                    texts = batch.column("payload").to_pylist()
                    yield batch.column("id").to_pylist(), arrays, texts
            except pyarrow.ArrowException as error:
                raise ValueError(
                    f"{path} is damaged ({' '.join(str(error).split())[:200]}). Copy it again, "
                    "or embed the corpus again."
                ) from error

    def bytes_of(self, dim: int | None = None) -> int:
        """The bytes in the files of the columns of a prefix, without ids and payload."""
        _, parquet = _pyarrow()
        names, total = set(self.columns(dim)), 0
        for shard in self.shards:
            with open_file(join(self.folder, shard["file"]), "rb") as file:
                metadata = parquet.ParquetFile(file).metadata
                for group in range(metadata.num_row_groups):
                    for place in range(metadata.num_columns):
                        column = metadata.row_group(group).column(place)
                        if column.path_in_schema.split(".")[0] in names:
                            total += column.total_compressed_size
        return total

    def check(self) -> None:
        """Reads everything: checksums, and that every id is once in the corpus, in its own shard.

        Raises:
            ValueError: rows that are not those that were written, ids in a wrong shard or twice.
        """
        for shard in self.shards:
            names, digest = [], RowDigest()
            for ids, arrays, texts in self._batches(shard, self.columns()):
                names += ids
                digest.update(_tables(ids, arrays, texts))
            if digest.hexdigest() != shard["sha256"]:
                raise ValueError(
                    f"{shard['file']} must hold the rows that its checksum names, and does not. "
                    "Copy it again, or embed the corpus again."
                )
            wrong = [name for name in names if shard_of(name, self.layout.shards) != shard["shard"]]
            if wrong or len(set(names)) < len(names):
                raise ValueError(
                    f"{shard['file']} must hold every id once and only its own. Wrong are "
                    f"{wrong[:5] or 'ids that repeat'}: embed the corpus again."
                )


def _tables(ids, arrays, texts):
    """What a checksum is of, in a fixed order."""
    names = np.array(ids, object if isinstance(ids[0], str) else np.int64)
    texts = np.array([text or "" for text in texts], object)
    return [names, texts, *(arrays[name] for name in sorted(arrays))]


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "An embedded corpus needs pyarrow, which is not installed. Install it with: "
            'pip install "mrl_keras[beam]"'
        ) from error
    return pyarrow, pyarrow.parquet
