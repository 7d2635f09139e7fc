"""An embedded corpus: what is written is read, prefix by prefix, and damage is found."""

import io
import json
import os

import numpy as np
import pytest

from mrl_keras.scale import EmbeddedCorpus, Layout, shard_of
from mrl_keras.scale import corpus as module
from mrl_keras.scale.corpus import write_corpus, write_shard

DIMS = [4, 8, 64]


def made(folder, rows=300, **changes):
    """(corpus, ids, vectors) of random rows."""
    layout = Layout(DIMS, shards=3, **changes)
    vectors = np.random.default_rng(0).standard_normal((rows, 64)).astype("float32")
    vectors[5] = 0
    ids = np.arange(rows) * 7 if layout.id_dtype == "int64" else [f"id{i}" for i in range(rows)]
    ids = list(map(int, ids)) if layout.id_dtype == "int64" else ids
    entries = []
    for shard in range(3):
        of = [row for row in range(rows) if shard_of(ids[row], 3) == shard]
        payload = [json.dumps({"row": row}) if row % 2 else "" for row in of]
        names = [ids[row] for row in of]
        entries.append(write_shard(str(folder), shard, names, vectors[of], payload, layout))
    write_corpus(str(folder), entries[::-1], layout, {"encoder": None})
    return EmbeddedCorpus(str(folder)), ids, vectors


def read(corpus, dim=None):
    found = list(corpus.read(dim, batch_rows=64))
    return np.concatenate([r.ids for r in found]), np.concatenate([r.vectors for r in found])


# Half a unit of the last place of bfloat16; half a step of int8's 127 to the largest value.
@pytest.mark.parametrize(
    ("storage", "error"), [("float32", 0.0), ("bfloat16", 2**-8), ("int8", 0.5 / 127)]
)
@pytest.mark.parametrize("kind", ["string", "int64"])
def test_rows_and_prefixes_come_back(tmp_path, storage, error, kind):
    corpus, ids, vectors = made(tmp_path, storage=storage, id_dtype=kind)
    assert len(corpus) == 300
    corpus.check()
    of = dict(zip(ids, vectors, strict=True))
    for dim in (*DIMS, None):
        names, found = read(corpus, dim)
        assert sorted(names.tolist()) == sorted(ids)
        expected = np.stack([of[name] for name in names.tolist()])[:, :dim]
        for low, high in ((0, 4), (4, 8), (8, 64)):
            block, whole = found[:, low:high], expected[:, low:high]
            largest = np.abs(whole).max(axis=1, keepdims=True) if whole.size else 0
            assert (np.abs(block - whole) <= error * largest + 1e-7 * (error > 0)).all()
    payload = {
        name: of for rows in corpus.read() for name, of in zip(rows.ids, rows.payload, strict=True)
    }
    assert payload[ids[3]] == {"row": 3}
    assert payload[ids[4]] == {}


class Counting(io.FileIO):
    """A file that counts what is read of it."""

    counts = []

    def read(self, size=-1):
        data = super().read(size)
        self.counts.append(len(data))
        return data


def test_a_prefix_is_read_without_the_dims_after_it(tmp_path, monkeypatch):
    corpus, _, _ = made(tmp_path, rows=6000)
    counts = Counting.counts
    monkeypatch.setattr(
        "mrl_keras.files.open", lambda path, *_, **__: Counting(path), raising=False
    )
    read_bytes = {}
    for dim in DIMS:
        counts.clear()
        assert read(corpus, dim)[1].shape == (6000, dim)
        read_bytes[dim] = sum(counts)
    floats = {dim: 4 * 6000 * dim for dim in DIMS}
    for dim in DIMS:
        # Where a list ends takes Parquet up to two bits for each number.
        assert floats[dim] <= corpus.bytes_of(dim) < (1 + 2 / 32) * floats[dim] + 3000
        # Beside the blocks: ids, payload, and 64 KiB at the end of each of three files.
        assert floats[dim] <= read_bytes[dim] < (1 + 2 / 32) * floats[dim] + 3 * 65_536 + 60_000
    assert read_bytes[4] < read_bytes[64] / 5


def test_shards_are_the_same_bytes_whatever_the_order_of_the_rows(tmp_path):
    layout = Layout(DIMS, shards=1)
    vectors = np.random.default_rng(1).standard_normal((20, 64)).astype("float32")
    ids, order = [f"id{i}" for i in range(20)], np.random.default_rng(2).permutation(20)
    one = write_shard(str(tmp_path / "a"), 0, ids, vectors, [""] * 20, layout)
    shuffled = [ids[i] for i in order]
    other = write_shard(str(tmp_path / "b"), 0, shuffled, vectors[order], [""] * 20, layout)
    assert one == other
    files = [(tmp_path / name / one["file"]).read_bytes() for name in "ab"]
    assert files[0] == files[1]
    vectors[3, 60] += 1
    assert write_shard(str(tmp_path / "c"), 0, ids, vectors, [""] * 20, layout) != one


def test_damage_is_found(tmp_path):
    corpus, ids, vectors = made(tmp_path)
    first = corpus.shards[0]
    path = tmp_path / first["file"]
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(ValueError, match=r"shard-00000-of-00003.*(checksum|damaged)"):
        corpus.check()
    path.write_bytes(whole[:500])
    with pytest.raises(ValueError, match="is damaged"):
        corpus.check()
    names = [name for name in ids if shard_of(name, 3) != 0][: first["rows"]]
    rows = len(names)
    entry = write_shard(str(tmp_path), 0, names, vectors[:rows], [""] * rows, corpus.layout)
    corpus.shards[0] = entry
    with pytest.raises(ValueError, match="every id once and only its own"):
        corpus.check()
    os.remove(path)
    with pytest.raises(FileNotFoundError):
        corpus.check()
    os.remove(tmp_path / module.MANIFEST)
    with pytest.raises(ValueError, match="written last"):
        EmbeddedCorpus(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dims": [8, 4]}, "ascend"),
        ({"storage": "float16"}, "`storage` must be one of"),
        ({"id_dtype": "str"}, "`id_dtype` must be one of"),
        ({"metric": "l2"}, "`metric` must be"),
        ({"shards": 0}, "`shards` must be at least 1"),
    ],
)
def test_layouts_are_checked(changes, text):
    with pytest.raises(ValueError, match=text):
        Layout(**{"dims": DIMS, **changes})


def test_ids_are_dealt_evenly_and_lastingly():
    counts = np.bincount([shard_of(f"row{i}", 16) for i in range(16_000)], minlength=16)
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)
    # As `blake2b` gives it: a change would tear stored corpora apart.
    assert [shard_of(name, 1000) for name in ("a", "ä", 12)] == [343, 529, 787]
