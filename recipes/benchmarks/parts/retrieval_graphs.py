"""hnswlib and usearch as peers, with the interface of retrieval_peers.py.

Both are built as their own examples do: 16 links for each row (32 in the lowest layer), and lists
of 200 (hnswlib) and 128 (usearch) rows while the graph grows. The knob is the length of a search's
list.
"""

from __future__ import annotations

import os

import numpy as np

from mrl_keras.files import atomic_file
from recipes.benchmarks.parts.retrieval_peers import SQRT_2_STEPS, K, unit_chunks


class GraphPeer:
    """A graph over all dims, kept in the file `path` for the next run where one is given."""

    knobs, ascending, exact, reused = SQRT_2_STEPS, True, False, False

    def __init__(self, rows, dim, path=None):
        self.prepare(rows)
        self.index = self.make(dim)
        if path is not None and os.path.exists(path):
            self.read(path)
            self.reused = True
            return
        self.fill(rows)
        if path is not None:
            with atomic_file(path) as temporary:
                self.write(temporary)

    def prepare(self, rows):
        """Whatever must be known before rows or queries are converted."""


class Hnswlib(GraphPeer):
    """hnswlib, float32."""

    name, package, databases = "hnswlib", "hnswlib", 1.2

    def make(self, dim):
        import hnswlib

        return hnswlib.Index("ip", dim)

    def read(self, path):
        self.index.load_index(path)

    def write(self, path):
        self.index.save_index(path)

    def fill(self, rows):
        self.index.init_index(len(rows), M=16, ef_construction=200)
        for chunk in unit_chunks(rows):
            self.index.add_items(chunk)

    def search(self, queries, knob):
        self.index.set_ef(knob)
        return self.index.knn_query(queries, K)[0].astype(np.int64)

    search_one = search


class UsearchF16(GraphPeer):
    """usearch, rows kept as float16."""

    name, package, databases, dtype = "usearch, f16", "usearch", 0.7, "f16"

    def make(self, dim):
        from usearch.index import Index

        return Index(ndim=dim, metric="cos", dtype=self.dtype, connectivity=16, expansion_add=128)

    def read(self, path):
        self.index.load(path)

    def write(self, path):
        self.index.save(path)

    def fill(self, rows):
        start = 0
        for chunk in unit_chunks(rows):
            self.index.add(np.arange(start, start + len(chunk)), self.converted(chunk))
            start += len(chunk)

    def converted(self, units):
        """What the index is given for unit rows or queries."""
        return units

    def search(self, queries, knob):
        self.index.expansion_search = knob
        return self.index.search(self.converted(queries), K).keys.astype(np.int64)

    def search_one(self, query, knob):
        return self.search(query[0], knob)[None]


class UsearchI8(UsearchF16):
    """usearch, rows kept as int8.

    Its own conversion takes 127 for the value 1, which leaves unit rows of many dims 2 or 3 bits:
    here 127 stands for the largest component of a sample, and larger ones are cut.
    """

    name, databases, dtype = "usearch, i8", 0.45, "i8"

    def prepare(self, rows):
        sample = next(unit_chunks(rows))
        self._scale = 127 / np.quantile(np.abs(sample), 0.9999)

    def converted(self, units):
        return np.clip(np.rint(units * self._scale), -127, 127).astype(np.int8)
