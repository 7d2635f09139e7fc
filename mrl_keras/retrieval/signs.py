"""Shortlists by one bit for each component: Hamming distance by counting bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    PAD_INDEX,
    check_queries,
    pad_columns,
    squared_norms,
)

WORD_BITS = 64
_FILE = "signs_{}.npy"
_TILE_BYTES = 2 << 20


@dataclass(frozen=True)
class SignParameters:
    """What says that a shortlist is found by sign bits: all rows are compared, as in one leaf."""

    num_leaves: int = 1
    leaves_to_search: int = 1

    def to_dict(self) -> dict:
        """The kind, as JSON holds it."""
        return {"kind": "signs"}


def packed_signs(rows: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The bits row > threshold, 64 in a word, the first component in the lowest bit.

    Args:
        rows: (rows, dims).
        thresholds: (dims,).

    Returns:
        uint64 (rows, dims / 64 rounded up); bits after the last component are 0.

    >>> packed_signs(np.array([[0.5, -1.0, 2.0]]), np.zeros(3)).tolist()  # 1 + 4
    [[5]]
    """
    bytes_ = np.packbits(rows > thresholds, axis=1, bitorder="little")
    missing = -bytes_.shape[1] % (WORD_BITS // 8)
    return np.pad(bytes_, [(0, 0), (0, missing)]).view("<u8")


def hamming_distances(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many bits differ, int32 (rows, other rows); both uint64 (rows, words).

    >>> hamming_distances(np.array([[5]], "uint64"), np.array([[5], [6]], "uint64")).tolist()
    [[0, 2]]
    """
    found = np.zeros((len(codes), len(others)), np.int32)
    for word in range(codes.shape[1]):
        found += np.bitwise_count(codes[:, word, None] ^ others[None, :, word])
    return found


class SignSearcher:
    """Finds shortlists by the signs of the first D_s components, 8 bytes a row for each 64.

    A component's bit says whether it lies above its mean over the rows; rows and queries are near
    where few bits differ. Signs do not depend on a row's length, so that cosines need no norms.
    Make one with `build`.

    Args:
        codes: uint64 (rows, words), as `packed_signs` gives them.
        thresholds: float32 (D_s,).

    Attributes:
        dim, width: int, D_s.
        n_rows: int.

    Example:

    >>> rows = np.random.default_rng(0).standard_normal((500, 64)).astype("float32")
    >>> scores, indices = SignSearcher.build(lambda: [rows]).search(rows[:3], k=5)
    >>> indices[:, 0].tolist(), scores[:, 0].tolist()
    ([0, 1, 2], [1.0, 1.0, 1.0])

    Source: sign random projections, Charikar 2002 (doi 10.1145/509907.509965), here of components
    that training has ordered.
    """

    parameters = SignParameters()

    def __init__(self, codes: np.ndarray, thresholds: np.ndarray):
        self.codes, self.thresholds = codes, thresholds
        self.dim = self.width = len(thresholds)
        self.n_rows = len(codes)

    @classmethod
    def build(cls, chunks: Callable[[], Iterable[np.ndarray]]) -> SignSearcher:
        """Builds from float32 chunks (rows, D_s), which are read twice.

        Args:
            chunks: function that gives the chunks from the first one on.
        """
        total = sum(
            np.append(chunk.sum(axis=0, dtype=np.float64), len(chunk)) for chunk in chunks()
        )
        thresholds = (total[:-1] / total[-1]).astype(np.float32)
        return cls(np.concatenate([packed_signs(c, thresholds) for c in chunks()]), thresholds)

    def search(self, queries: np.ndarray, k: int, leaves=None, candidates=None):
        """The rows with the fewest bits that differ; ties by ascending index.

        Args:
            queries: (queries, D_s). A row with NaN or inf gets no results.
            k: int, at least 1; above N the rest of the slots are empty.
            leaves, candidates: not used; all rows are compared.

        Returns:
            (scores, indices): float32 and int32, both (queries, k). A score is
            1 - 2 distance / D_s; empty slots hold the lowest float32 and -1.
        """
        del leaves, candidates
        queries, k = check_queries(queries, self.width), whole_number(k, "`k`")
        scores = np.full((len(queries), k), LOWEST_SCORE, np.float32)
        indices = np.full((len(queries), k), PAD_INDEX, np.int32)
        finite = np.flatnonzero(np.isfinite(squared_norms(queries)))
        codes = packed_signs(queries, self.thresholds)
        at_once = max(1, _TILE_BYTES // (4 * self.n_rows))
        for start in range(0, len(finite), at_once):
            part = finite[start : start + at_once]
            keys = _nearest(hamming_distances(codes[part], self.codes), min(k, self.n_rows))
            distances, found = np.divmod(keys, self.n_rows)
            score = np.float32(1) - distances.astype(np.float32) * np.float32(2 / self.dim)
            scores[part], indices[part] = pad_columns(score, found, k)
        return scores, indices

    def multiply_adds(self, leaves: int | None = None) -> float:
        """Those of one shortlist, where comparing a word of 64 bits counts as one."""
        del leaves
        return float(self.codes.size)

    def reranks(self, plan) -> bool:
        """Whether the searcher does a plan's first rerank itself: no."""
        del plan
        return False

    def save(self, folder: str) -> dict:
        """Writes the parts into an existing folder; gives what the manifest needs."""
        for name, part in self._parts().items():
            np.save(os.path.join(folder, _FILE.format(name)), part, allow_pickle=False)
        return {"dim": self.dim, "parameters": self.parameters.to_dict()}

    @classmethod
    def load(cls, folder: str, saved: dict, n_rows: int) -> SignSearcher:
        """Reads what `save` wrote; `saved` is what it gave."""
        paths = (os.path.join(folder, _FILE.format(name)) for name in ("codes", "thresholds"))
        codes, thresholds = (np.load(path, allow_pickle=False) for path in paths)
        dim = saved["dim"]
        if [codes.shape, thresholds.shape] != [(n_rows, -(-dim // WORD_BITS)), (dim,)]:
            raise ValueError(f"signs of the shapes {codes.shape} and {thresholds.shape}")
        return cls(codes, thresholds)

    def identity(self) -> list[np.ndarray]:
        """The arrays that make this searcher another than others of its parameters."""
        return list(self._parts().values())

    def memory_bytes(self) -> int:
        """Bytes of the searcher's parts."""
        return sum(part.nbytes for part in self._parts().values())

    def _parts(self):
        return {"codes": self.codes, "thresholds": self.thresholds}


def _nearest(distances, k):
    """The k smallest of distance * rows + row in each row, ascending: int64 (queries, k)."""
    rows = distances.shape[1]
    keys = distances.astype(np.int64) * rows + np.arange(rows)
    if k < rows:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    return np.sort(keys, axis=1)
