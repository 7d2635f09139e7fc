"""The systems that nested retrieval is measured against, behind one small interface.

A peer is built over a database and then answers queries:

- `search(queries, knob)`: int64 (queries, 10) row numbers of a batch, for one value of its knob;
- `search_one(query, knob)`: the same for (1, width), the way its library asks one query;
- `knobs`: the values to sweep, ints or tuples of them, where more of any is slower; `reused`:
  whether it came from a file, and was not built now;
- `ascending`: whether a later knob is always slower;
- `exact`: whether it is exact search, whose mAP is known;
- `package`: what is imported for it; `databases`: the float32 databases that building takes, about.

All of them search L2-normalised rows, so that L2 distance and inner product order as cosine does.
hnswlib and usearch are in retrieval_graphs.py.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os

import faiss
import numpy as np
import scann

from mrl_keras.files import atomic_file
from recipes.benchmarks.parts.memory import available_bytes

K = 10
SQRT_2_STEPS = tuple(round(16 * 2 ** (step / 2)) for step in range(13))
_CHUNK = 16_384
_LISTS_PROBED = (1, 2, 4, 8, 16, 32, 64, 128)
_ROWS_FOR_EACH_LIST = 64


def reason_to_skip(kind, rows) -> str:
    """Why a peer cannot be built over `rows` here, "" where it can."""
    if importlib.util.find_spec(kind.package) is None:
        return f'{kind.package} is not installed (pip install "mrl_keras[benchmarks]")'
    needed, free = kind.databases * 4 * rows.size, available_bytes()
    if needed > free:
        return f"building takes some {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
    return ""


def unit_chunks(vectors, dim=None, rows=None):
    """The prefixes of all vectors, or of these rows, L2-normalised, some thousand at a time."""
    for start in range(0, len(vectors if rows is None else rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        chunk = np.array(vectors[part if rows is None else rows[part], :dim], np.float32)
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
    package, databases = "faiss", 1.2

    def __init__(self, rows, dim, path=None):
        self.dim = dim
        if path is not None and os.path.exists(path):
            self.index, self.reused = faiss.read_index(path), True
            return
        self.index = self.make(rows.shape[1], len(rows))
        if not self.index.is_trained:
            lists = faiss.extract_index_ivf(self.index)
            lists.cp.niter, lists.cp.max_points_per_centroid = 10, _ROWS_FOR_EACH_LIST
            picked = np.arange(min(len(rows), _ROWS_FOR_EACH_LIST * lists.nlist))
            picked = picked * len(rows) // len(picked)
            self.index.train(np.concatenate(list(unit_chunks(rows, rows=picked))))
        for chunk in unit_chunks(rows, self.index.d):
            self.index.add(chunk)
        if path is not None:
            with atomic_file(path) as temporary:
                faiss.write_index(self.index, temporary)

    def make(self, width, n_rows):
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
    knobs = SQRT_2_STEPS

    def make(self, width, n_rows):
        index = faiss.IndexHNSWFlat(self.dim, 32)
        # Room for all rows: doubling it while rows come would hold up to 3 times as many.
        codes = faiss.downcast_index(index.storage).codes
        codes.resize(n_rows * index.storage.sa_code_size())
        codes.resize(0)
        return index

    def set(self, knob):
        self.index.hnsw.efSearch = knob


class FaissHnswPanorama(FaissHnsw):
    """The graph, where distances are summed over 8 levels of dims until a row cannot win."""

    name = "FAISS HNSW32,FlatPanorama8"
    databases = 1.3

    def make(self, width, n_rows):
        return faiss.index_factory(self.dim, "HNSW32,FlatPanorama8")


class FaissIvfPanorama(FaissPeer):
    """Inverted lists, 2 sqrt(N) of them, scanned level by level; the knob is nprobe."""

    name = "FAISS IVF,FlatPanorama8"
    databases = 1.5
    codes, knobs = "FlatPanorama8", _LISTS_PROBED

    def make(self, width, n_rows):
        return faiss.index_factory(width, f"IVF{round(2 * math.sqrt(n_rows))},{self.codes}")

    def set(self, knob):
        self.index.nprobe = knob


class FaissIvfRefine(FaissIvfPanorama):
    """Inverted lists of codes, then exact distances of k_factor * 10 rows.

    The knob is (k_factor, nprobe).
    """

    databases, ascending = 1.6, False
    knobs = tuple(itertools.product((1, 2, 4, 8, 16, 32), _LISTS_PROBED))

    def set(self, knob):
        self.index.k_factor = knob[0]
        faiss.extract_index_ivf(self.index).nprobe = knob[1]


class FaissIvfPq(FaissIvfRefine):
    """Product quantisation, 4 bits for 8 dims, in the layout that one instruction looks up."""

    name = "FAISS IVF,PQ4fs, refine"

    def make(self, width, n_rows):
        self.codes = f"PQ{width // 8}x4fs,RFlat"
        return super().make(width, n_rows)


class FaissRaBitQ(FaissIvfRefine):
    """RaBitQ, a bit for each dim, in the same layout."""

    name = "FAISS IVF,RaBitQfs, refine"
    codes = "RaBitQfs,RFlat"


class FaissRefine(FaissPeer):
    """HNSW32 over the D_s prefix, then exact distances of k_factor * 10 rows with all dims.

    The knob is k_factor; efSearch of the graph is the length of its list.
    """

    name = "FAISS refine (HNSW32 at D_s)"
    knobs = (1, 2, 4, 7, 10, 14, 20, 28, 40)

    def make(self, width, n_rows):
        self.graph = faiss.IndexHNSWFlat(self.dim, 32)
        normalize = faiss.NormalizationTransform(self.dim, 2.0)
        cut = faiss.RemapDimensionsTransform(width, self.dim, False)
        prefix = faiss.IndexPreTransform(cut, faiss.IndexPreTransform(normalize, self.graph))
        self._kept = prefix, self.exact_index(width)  # FAISS does not own what Python made
        return self.refined(*self._kept)

    refined, exact_index = faiss.IndexRefine, faiss.IndexFlatL2

    def set(self, knob):
        self.index.k_factor = knob
        self.graph.hnsw.efSearch = max(16, K * knob)


class FaissRefinePanorama(FaissRefine):
    """The same, where the exact distances are summed level by level."""

    name = "FAISS RefinePanorama (HNSW32 at D_s)"
    refined = faiss.IndexRefinePanorama

    @staticmethod
    def exact_index(width):
        return faiss.IndexFlatL2Panorama(width, 8, 1)


class ScannFullWidth:
    """ScaNN over all dims: tree, asymmetric hashing, exact reorder.

    The knob is (leaves to search, rows to reorder).
    """

    name = "ScaNN full width (tree-AH, reorder)"
    leaves_per_root, ascending, exact, reused = 1, False, False, False
    package, databases, soar = "scann", 2.2, None

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
        builder = self.projected(builder).tree(
            leaves, leaves, training_sample_size=sample, soar_lambda=self.soar
        )
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


class ScannFullWidthSoar(ScannFullWidth):
    """Each row in a second leaf as well, where its rest is orthogonal to that in the first."""

    name = "ScaNN full width, SOAR"
    soar = 1.5


class ScannTruncateSoar(ScannTruncate):
    """The same with ScaNN's own nesting."""

    name = "ScaNN truncate, SOAR"
    soar = 1.5
