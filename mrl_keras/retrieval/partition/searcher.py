"""Shortlists by a partition: leaves are opened by D_c dims, and their rows are scored by D_s."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    PAD_INDEX,
    as_float32,
    best_columns,
    check_queries,
    inverse_norms,
    order_rows,
    pad_columns,
    prefix_chunks,
    squared_norms,
)
from mrl_keras.retrieval.partition.clustering import (
    kmeans_centres,
    nearest_leaves,
    second_leaves,
)
from mrl_keras.retrieval.partition.leaves import Leaves
from mrl_keras.retrieval.partition.parameters import PartitionParameters
from mrl_keras.retrieval.rerank import gathered_products

_FILES = {"centres": "partition_centres.npy", "tokens": "partition_leaves.npy"}


class PartitionSearcher:
    """Finds shortlists in the leaves that a query opens by D_c dims, scored exactly by D_s dims.

    For cosine the prefixes and the centres are L2-normalised, so that a row is in the leaf, and a
    query opens the leaves, of the most similar centres; for "dot" neither is, rows go by L2
    distance and queries by inner product. It keeps leaf numbers and no rows: those are the blocks
    of the index. Make one with `build`.

    Args:
        parameters: `PartitionParameters`.
        leaves: `Leaves`.
        blocks: the index's blocks up to D_s.
        row_norms: float32 (rows,), the inverse norms at D_s.
        normalize: bool, whether scores are cosines.

    Attributes:
        dim: int, D_s.
        width: int, the dims of a query that a search reads: the larger of D_c and D_s.
        n_rows: int.

    Example:

    >>> rows = np.random.default_rng(0).standard_normal((500, 8)).astype("float32")
    >>> norms, parameters = 1 / np.linalg.norm(rows, axis=1), PartitionParameters(8, 10, 2)
    >>> searcher = PartitionSearcher.build(parameters, [rows], [rows], norms)
    >>> searcher.search(rows[:3], k=5)[1][:, 0].tolist()
    [0, 1, 2]

    Source: AdANNS, arXiv 2305.19435, Section 4.1 (D_c and D_s of their own).
    """

    def __init__(
        self,
        parameters: PartitionParameters,
        leaves: Leaves,
        blocks: Sequence,
        row_norms: np.ndarray,
        normalize: bool = True,
    ):
        self.parameters, self.leaves, self.normalize = parameters, leaves, normalize
        self.blocks, self.row_norms = tuple(blocks), row_norms
        self.dim = sum(block.shape[1] for block in self.blocks)
        self.width = max(self.dim, parameters.dim)
        self.n_rows = len(row_norms)

    @classmethod
    def build(
        cls,
        parameters: PartitionParameters,
        cluster_blocks: Sequence,
        blocks: Sequence,
        row_norms: np.ndarray,
        normalize: bool = True,
        seed: int = 0,
    ) -> PartitionSearcher:
        """Clusters the rows, or puts them into the leaves of given centres.

        Args:
            parameters: `PartitionParameters`.
            cluster_blocks: blocks of the prefix D_c, of all rows, finite.
            blocks, row_norms: as for the class.
            normalize: bool, whether prefixes and centres are L2-normalised. Defaults to `True`.
            seed: int, seeds the k-means and its sample. Defaults to 0.

        Raises:
            ValueError: more leaves than rows, where k-means makes them.
            ImportError: k-means is needed, and scikit-learn is not installed.
        """
        n_rows, centres = len(row_norms), parameters.centres
        if centres is None:
            if parameters.num_leaves > n_rows:
                raise ValueError(
                    f"`num_leaves` must not exceed the {n_rows} rows. "
                    f"Received {parameters.num_leaves}."
                )
            count = min(parameters.training_sample_size, n_rows)
            picked = np.sort(np.random.default_rng(seed).choice(n_rows, count, replace=False))
            parts = [as_float32(np.take(block, picked, axis=0)) for block in cluster_blocks]
            sample = _prepared(np.concatenate(parts, axis=1), normalize)
            iterations = parameters.training_iterations
            centres = kmeans_centres(sample, parameters.num_leaves, iterations, seed)
        centres, spill = _prepared(centres, normalize), parameters.spill
        tokens = []
        for chunk in prefix_chunks(cluster_blocks):
            rows = _prepared(chunk, normalize)
            found = [nearest_leaves(rows, centres)]
            if spill is not None:
                found.append(second_leaves(rows, centres, found[0], spill))
            tokens.append(np.stack(found, axis=1))
        live, tokens = _without_empty(np.concatenate(tokens), len(centres))
        parameters = replace(
            parameters,
            num_leaves=len(live),
            leaves_to_search=min(parameters.leaves_to_search, len(live)),
            centres=None,
        )
        return cls(parameters, Leaves(centres[live], tokens), blocks, row_norms, normalize)

    @classmethod
    def load(cls, folder: str, saved: dict, blocks, row_norms, normalize) -> PartitionSearcher:
        """Reads what `save` wrote; `saved` is what it gave, the rest as for the class."""
        parameters = PartitionParameters.from_dict(saved["parameters"])
        centres, tokens = (
            np.load(os.path.join(folder, name), allow_pickle=False) for name in _FILES.values()
        )
        shapes = [(parameters.num_leaves, parameters.dim), (len(row_norms), tokens.shape[1])]
        if [centres.shape, tokens.shape] != shapes or not tokens.max() < len(centres):
            raise ValueError(f"a partition of the shapes {centres.shape} and {tokens.shape}")
        return cls(parameters, Leaves(centres, tokens), blocks, row_norms, normalize)

    def save(self, folder: str) -> dict:
        """Writes centres and leaf numbers into an existing folder; gives what `load` needs."""
        for name, part in zip(_FILES.values(), self.identity(), strict=True):
            np.save(os.path.join(folder, name), part, allow_pickle=False)
        return {"dim": self.dim, "parameters": self.parameters.to_dict()}

    def search(self, queries: np.ndarray, k: int, leaves: int | None = None, candidates=None):
        """The best rows of the opened leaves at D_s.

        Args:
            queries: (queries, `width`). A row with NaN or inf gets no results.
            k: int, at least 1; where the leaves hold fewer rows the rest of the slots are empty.
            leaves: int, leaves to open; `None` takes `parameters.leaves_to_search`, and more than
                there are means all.
            candidates: not used.

        Returns:
            (scores, indices): float32 and int32, both (queries, k), descending by the exact score
            at D_s. Empty slots hold the lowest float32 and -1.

        Raises:
            ValueError: a wrong width, or `k` or `leaves` below 1.
        """
        del candidates
        queries, k = check_queries(queries, self.width), whole_number(k, "`k`")
        scores = np.full((len(queries), k), LOWEST_SCORE, np.float32)
        indices = np.full((len(queries), k), PAD_INDEX, np.int32)
        finite = np.flatnonzero(np.isfinite(squared_norms(queries)))
        opened = self.open(queries[finite], leaves)
        prefixes = _prepared(queries[finite, : self.dim], self.normalize)
        for place, prefix, chosen in zip(finite, prefixes, opened, strict=True):
            found = self._best(prefix, self.leaves.rows(chosen), k)
            scores[place], indices[place] = (part[0] for part in pad_columns(*found, k))
        return scores, indices

    def open(self, queries: np.ndarray, leaves: int | None = None) -> np.ndarray:
        """The leaves that finite queries (queries, D_c or more) open, best first: int."""
        leaves = self.parameters.leaves_to_search if leaves is None else leaves
        leaves = min(whole_number(leaves, "`leaves`"), len(self.leaves))
        dim = self.parameters.dim
        return self.leaves.open(_prepared(queries[:, :dim], self.normalize), leaves)

    def rows_scanned(self, queries: np.ndarray, leaves: int | None = None) -> np.ndarray:
        """The rows that finite queries score at D_s, each once: int (queries,)."""
        return np.array([len(self.leaves.rows(one)) for one in self.open(queries, leaves)], int)

    def multiply_adds(self, leaves: int | None = None) -> float:
        """Those of one shortlist: every centre at D_c, `Leaves.expected_rows` at D_s."""
        leaves = self.parameters.leaves_to_search if leaves is None else leaves
        centres = len(self.leaves) * self.parameters.dim
        return centres + self.leaves.expected_rows(leaves) * self.dim

    def partition(self) -> Leaves:
        """The leaves, as `ScannSearcher.partition` gives those of a tree."""
        return self.leaves

    def reranks(self, plan) -> bool:
        """Whether the searcher does a plan's first rerank itself: no."""
        del plan
        return False

    def identity(self) -> list[np.ndarray]:
        """The arrays that make this searcher another than others of its parameters."""
        return [self.leaves.centres, self.leaves.tokens]

    def memory_bytes(self) -> int:
        """Bytes of the leaves; the rows are the index's."""
        return self.leaves.memory_bytes()

    def _best(self, prefix, rows, k):
        """(scores, indices) of the k best of some rows, both (1, k) or fewer."""
        products, low = np.float32(0), 0
        for block in self.blocks:
            high = low + block.shape[1]
            products = products + gathered_products(block, rows[None], prefix[None, low:high])
            low = high
        scores, rows = products * self.row_norms[rows], rows[None]
        kept = best_columns(scores, k)
        if kept is not None:
            scores, rows = (np.take_along_axis(part, kept, 1) for part in (scores, rows))
        return order_rows(scores, rows)


def _prepared(prefixes, normalize):
    """L2-normalised prefixes where scores are cosines; zero rows stay zero."""
    if not normalize:
        return prefixes
    return prefixes * inverse_norms(squared_norms(prefixes))[:, None]


def _without_empty(tokens, num_leaves):
    """(the leaves that hold rows, the tokens as their places among these)."""
    live = np.unique(tokens[tokens >= 0])
    places = np.full(num_leaves + 1, -1, np.int32)  # the last one is that of -1
    places[live] = np.arange(len(live))
    return live, places[tokens]
