"""The systems that nested retrieval is measured against, behind one small interface.

A peer is built over a database and then answers queries:

- `search(queries, knob)`: int64 (queries, 10) row numbers of a batch, for one value of its knob;
- `search_one(query, knob)`: the same for (1, width), the way its library asks one query;
- `knobs`: the values to sweep; `reused`: whether it came from a file, and was not built now;
- `ascending`: whether a later knob is always slower;
- `exact`: whether it is exact search, whose mAP is known.

All of them search L2-normalised rows, so that L2 distance and inner product order as cosine does.
"""

from __future__ import annotations

import math
import os

import faiss
import numpy as np
import scann

from mrl_keras.files import atomic_file

K = 10
_CHUNK = 16_384
_SQRT_2_STEPS = tuple(round(16 * 2 ** (step / 2)) for step in range(13))


def unit_chunks(rows, dim=None):
    """The rows' prefixes, L2-normalised, some thousand rows at a time."""
    for start in range(0, len(rows), _CHUNK):
        chunk = np.array(rows[start : start + _CHUNK, :dim], np.float32)
        faiss.normalize_L2(chunk)
        yield chunk


class FaissPeer:
    """A FAISS index over the first `dim` dims.

    Args:
        rows: memory map (rows, width).
        dim: int, the prefix it indexes.
        path: optional file, where the built index is kept for the next run.
    """

    knobs, ascending, exact, reused = (None,), True, False, False

    def __init__(self, rows, dim, path=None):
        self.dim = dim
        if path is not None and os.path.exists(path):
            self.index, self.reused = faiss.read_index(path), True
            return
        self.index = self.make(rows.shape[1])
        for chunk in unit_chunks(rows, self.index.d):
            self.index.add(chunk)
        if path is not None:
            with atomic_file(path) as temporary:
                faiss.write_index(self.index, temporary)

    def make(self, width):
        return faiss.IndexFlatIP(self.dim)

    def set(self, knob):
        """Hands the knob to the index."""

    def search(self, queries, knob):
        self.set(knob)
        return self.index.search(np.ascontiguousarray(queries[:, : self.index.d]), K)[1]

    search_one = search


class FaissFlat(FaissPeer):
    """Brute force."""

    name = "FAISS IndexFlat"
    exact = True


class FaissHnsw(FaissPeer):
    """Hierarchical graph, M = 32; the knob is efSearch."""

    name = "FAISS HNSW32"
    knobs = _SQRT_2_STEPS

    def make(self, width):
        return faiss.IndexHNSWFlat(self.dim, 32)

    def set(self, knob):
        self.index.hnsw.efSearch = knob


class FaissRefine(FaissPeer):
    """HNSW32 over the D_s prefix, then exact distances of k_factor * 10 rows with all dims.

    The knob is k_factor; efSearch of the graph is the length of its list.
    """

    name = "FAISS refine (HNSW32 at D_s)"
    knobs = (1, 2, 4, 7, 10, 14, 20, 28, 40)

    def make(self, width):
        self.graph = faiss.IndexHNSWFlat(self.dim, 32)
        normalize = faiss.NormalizationTransform(self.dim, 2.0)
        cut = faiss.RemapDimensionsTransform(width, self.dim, False)
        prefix = faiss.IndexPreTransform(cut, faiss.IndexPreTransform(normalize, self.graph))
        self._kept = prefix, faiss.IndexFlatL2(width)  # FAISS does not own what Python made
        return faiss.IndexRefine(*self._kept)

    def set(self, knob):
        self.index.k_factor = knob
        self.graph.hnsw.efSearch = max(16, K * knob)


class ScannFullWidth:
    """ScaNN over all dims: tree, asymmetric hashing, exact reorder.

    The knob is (leaves to search, rows to reorder).
    """

    name = "ScaNN full width (tree-AH, reorder)"
    leaves_per_root, ascending, exact, reused = 1, False, False, False

    def __init__(self, rows, dim):
        del dim
        units = np.empty(rows.shape, np.float32)
        start = 0
        for chunk in unit_chunks(rows):
            units[start : start + len(chunk)] = chunk
            start += len(chunk)
        leaves = max(1, round(self.leaves_per_root * math.sqrt(len(rows))))
        sample = min(len(rows), 100_000)
        builder = scann.scann_ops_pybind.builder(units, K, "dot_product")
        builder = self.projected(builder).tree(leaves, leaves, training_sample_size=sample)
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
        self.searcher = builder.reorder(4 * K).build()
        shares = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
        opened = sorted({max(1, round(share * leaves)) for share in shares})
        self.knobs = [(leaf, reorder) for leaf in opened for reorder in (20, 50, 100, 200, 400)]

    def projected(self, builder):
        return builder

    def search(self, queries, knob):
        leaves, reorder = knob
        found, _ = self.searcher.search_batched_parallel(queries, K, reorder, leaves)
        return np.asarray(found, np.int64)

    def search_one(self, query, knob):
        leaves, reorder = knob
        return self.searcher.search(query[0], K, reorder, leaves)[0][None]


class ScannTruncate(ScannFullWidth):
    """ScaNN's own nesting: tree and codes over the first D_s dims, exact reorder with all dims."""

    name = "ScaNN truncate (D_s, reorder)"
    leaves_per_root = 4

    def __init__(self, rows, dim):
        self._dim = dim
        super().__init__(rows, dim)

    def projected(self, builder):
        return builder.truncate(self._dim)
