"""Seeded embeddings of any number of rows whose accuracy by prefix follows the paper's.

    python recipes/benchmarks/nested_data.py --n 300000

A row is a class centre plus noise, with a spectrum that decays over the dims,

    x_j = a_j (g c_yj + b t w_j),    a_j = (1 + j / 4)^-0.3,    c, w normal.

Two classes make a pair of centres c and (c + x c') / sqrt(1 + x^2), with x^2 uniform below X^2:
where x is small, few dims mix the pair and many tell it apart. t = exp(0.2 normal) makes some
rows harder than others; g is 1, but 0 (and b t = 1) for the share of the rows whose embedding
does not tell their class. Queries come from the same distribution, but the labels of some are
drawn anew. Label noise is left to the queries, because noise in the rows' labels gives two equally
good answers different mAP: 4,000 queries could not tell a tenth of a point then.

Constants: b, X and both shares were searched until exact mAP@10 (cosine of prefixes, 300,000
rows of 1,000 classes) came near the row "MRL" of the paper's Table 8; the script prints both.
b sets the first dim's loss, X how it shrinks as the dims double, the shares set the plateau.
As in the paper's Tables 11 to 14, 200 rows found with 16 dims and reranked with all of them reach
the mAP of exact search with all dims. (A wider spread of t makes the same row by hard queries,
whose class no shortlist holds, which the paper's data does not show.)

Row i is the same for every number of rows, so that a small database is the start of a large one.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

import numpy as np

from mrl_keras import NestingDims
from mrl_keras.files import atomic_file
from mrl_keras.retrieval import exact_search, labels_at, mean_average_precision

# mAP@10 of MRL, ResNet-50 on ImageNet-1K: arXiv 2205.13147, Table 8.
PAPER_MAP_10 = {
    8: 56.74,
    16: 62.94,
    32: 64.21,
    64: 64.69,
    128: 64.94,
    256: 65.04,
    512: 65.14,
    1024: 65.16,
    2048: 65.20,
}

_CHUNK = 8192
_DECAY = 0.3
_NOISE = 0.18
_NOISE_SPREAD = 0.2
_PAIR_DISTANCE = 0.56
_UNCLEAR = 0.245
_RELABELLED_QUERIES = 0.123
_STREAMS = {"centres": 0, "rows": 1, "queries": 2, "held_out": 3}


@dataclass(frozen=True)
class NestedData:
    """A generator of labelled embeddings.

    Args:
        width: int, the embedding width d. Defaults to 2048.
        classes: int. Defaults to 1000.
        seed: int. Defaults to 0.

    >>> data = NestedData(width=32, classes=10)
    >>> queries, labels = data.queries(5)
    >>> queries.shape, queries.dtype.name, labels.shape
    ((5, 32), 'float32', (5,))
    """

    width: int = 2048
    classes: int = 1000
    seed: int = 0

    def queries(self, count: int, held_out: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(float32 (count, width), int64 labels (count,)); `held_out` gives other queries."""
        stream = "held_out" if held_out else "queries"
        parts = list(self._chunks(count, stream))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def rows(self, count: int, folder: str) -> tuple[np.ndarray, np.ndarray]:
        """The database: (memory map float32 (count, width), int64 labels (count,)).

        Written into `folder` chunk by chunk where it is not there yet, and never whole in memory.
        """
        name = f"rows_{count}x{self.width}_{self.classes}classes_seed{self.seed}"
        paths = [os.path.join(folder, f"{name}{end}.npy") for end in ("", "_labels")]
        if not all(map(os.path.exists, paths)):
            with atomic_file(paths[0]) as temporary:
                labels = self._write(count, temporary)
            with atomic_file(paths[1]) as temporary:
                np.save(temporary, labels, allow_pickle=False)
        return np.load(paths[0], mmap_mode="r"), np.load(paths[1], allow_pickle=False)

    def _write(self, count, path):
        table = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.float32, shape=(count, self.width)
        )
        labels = np.empty(count, np.int64)
        start = 0
        for rows, names in self._chunks(count, "rows"):
            stop = start + len(rows)
            table[start:stop], labels[start:stop] = rows, names
            start = stop
        table.flush()
        return labels

    def _chunks(self, count, stream):
        centres = self._centres()
        for chunk, start in enumerate(range(0, count, _CHUNK)):
            rows, labels = self._chunk(self._rng(stream, chunk), centres, stream == "rows")
            yield rows[: count - start], labels[: count - start]

    def _centres(self):
        rng = self._rng("centres")
        centres = rng.standard_normal((self.classes, self.width), dtype=np.float32)
        first, second = centres[: self.classes // 2 * 2 : 2], centres[1::2]
        squared = (_PAIR_DISTANCE**2 * rng.random((len(second), 1))).astype(np.float32)
        second[:] = (first + np.sqrt(squared) * second) / np.sqrt(1 + squared)
        return centres

    def _chunk(self, rng, centres, clean):
        # Always a whole chunk, so that the count cuts the stream and does not change it.
        rows = rng.standard_normal((_CHUNK, self.width), dtype=np.float32)
        classes = rng.integers(self.classes, size=_CHUNK)
        noise = _NOISE * np.exp(_NOISE_SPREAD * rng.standard_normal(_CHUNK))
        unclear = rng.random(_CHUNK) < _UNCLEAR
        rows *= np.where(unclear, 1.0, noise).astype(np.float32)[:, None]
        rows += np.where(unclear[:, None], np.float32(0), centres[classes])
        rows *= ((1 + np.arange(self.width) / 4) ** -_DECAY).astype(np.float32)
        relabelled = rng.random(_CHUNK) < (0 if clean else _RELABELLED_QUERIES)
        return rows, np.where(relabelled, rng.integers(self.classes, size=_CHUNK), classes)

    def _rng(self, stream, chunk=0):
        return np.random.default_rng([self.seed, _STREAMS[stream], chunk])


def mean_ap(indices, row_labels, query_labels, k=10) -> float:
    """mAP@k in points, 0 to 100, of the rows found; a row is relevant if its label is equal."""
    relevance = labels_at(indices, row_labels) == query_labels[:, None]
    return 100 * mean_average_precision(relevance, k)


def exact_map(rows, row_labels, queries, query_labels, dims) -> dict[int, float]:
    """{dim: mAP@10 in points} of exact search."""
    found = exact_search(queries, rows, dims, 10)
    return {dim: mean_ap(found.at(dim)[1], row_labels, query_labels) for dim in dims}


def print_beside_paper(achieved: dict[int, float]) -> None:
    """The achieved row above the paper's."""
    print("mAP@10 at   " + "".join(f"{dim:>8}" for dim in achieved))
    print("achieved    " + "".join(f"{value:8.2f}" for value in achieved.values()))
    paper = (f"{PAPER_MAP_10.get(dim, float('nan')):8.2f}" for dim in achieved)
    print("the paper's " + "".join(paper))


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--n", type=int, default=300_000, help="rows of the database")
    add("--width", type=int, default=2048, help="embedding width d")
    add("--classes", type=int, default=1000, help="number of classes")
    add("--queries", type=int, default=4000, help="queries that judge")
    add("--seed", type=int, default=0, help="of the generator")
    add("--cache", default="runs/retrieval_data", help="folder of the database file")
    options = parser.parse_args(arguments)
    data = NestedData(options.width, options.classes, options.seed)
    rows, row_labels = data.rows(options.n, options.cache)
    queries, query_labels = data.queries(options.queries)
    dims = NestingDims.halving(options.width, min(8, options.width))
    print_beside_paper(exact_map(rows, row_labels, queries, query_labels, dims))


if __name__ == "__main__":
    main()
