"""ScaNN over the L2-normalised D_s prefix: a tree and asymmetric hashing.

ScaNN proposes rows, and the rerank scores them exactly. The searcher therefore keeps codes
(D_s / dims_per_block / 2 bytes for each row) and leaf numbers, but not the rows. It is built on the
prefix itself, because ScaNN's own truncation does not normalise the prefix. With
`ScannParameters.reorder_dim` ScaNN also does the first rerank; see rows.py.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from tqdm.auto import tqdm

from mrl_keras.checks import whole_number
from mrl_keras.retrieval.arrays import (
    LOWEST_SCORE,
    PAD_INDEX,
    as_float32,
    check_matrix,
    check_queries,
    order_rows,
    pad_columns,
    refuse_rows,
    squared_norms,
)
from mrl_keras.retrieval.partition.leaves import Leaves
from mrl_keras.retrieval.scann.parameters import CODES, ScannParameters, scann_parameters
from mrl_keras.retrieval.scann.rows import (
    REORDER_WEIGHT,
    check_width,
    searcher_queries,
    searcher_rows,
)

TENSOR_NAMES = (
    "scann_config",
    "serialized_partitioner",
    "datapoint_to_token",
    "ah_codebook",
    "hashed_dataset",
    "int8_dataset",
    "int8_multipliers",
    "dp_norms",
    "dataset",
)
"""The parts of a searcher, in the order in which ScannToTensors yields them."""

TENSOR_DTYPES = dict(
    zip(
        TENSOR_NAMES,
        ("string", "string", "int32", "string", "uint8", "int8", "float32", "float32", "float32"),
        strict=True,
    )
)
"""The dtype of each part, as TensorFlow names it."""

_ROWS_AT_ONCE = 1024  # what is converted then stays in the processor's caches


def scann_ops():
    """(tensorflow, scann's TensorFlow ops), imported on first use.

    Raises:
        ImportError: ScaNN is not installed.
    """
    import tensorflow as tf

    try:
        from scann.scann_ops.py import scann_ops as ops
    except ImportError as error:
        raise ImportError(
            "A ScaNN shortlist needs scann with its TensorFlow ops, which are not installed. "
            'Install them with: pip install "mrl_keras[retrieval]"'
        ) from error
    return tf, ops


class ScannSearcher:
    """Finds shortlists by ScaNN on the L2-normalised D_s prefix. Make one with `build`.

    Args:
        parameters: the `ScannParameters` it was built with.
        n_rows: int, the number of rows N.
        dim: int, the prefix D_s.
        handle: the searcher's TensorFlow resource handle.

    Example:

    >>> rows = np.random.default_rng(0).standard_normal((500, 8)).astype("float32")
    >>> searcher = ScannSearcher.build(rows, ScannParameters(10, 10))
    >>> scores, indices = searcher.search(rows[:3], k=20)
    >>> indices.shape, 0 in indices[0]
    ((3, 20), True)

    Source: arXiv 2205.13147, Section 4.3.1 (shortlists); ScaNN is arXiv 1908.10396.
    """

    def __init__(self, parameters: ScannParameters, n_rows: int, dim: int, handle):
        self.parameters = parameters
        self.n_rows = n_rows
        self.dim = dim
        self._handle = handle

    @classmethod
    def build(
        cls,
        prefix_rows: np.ndarray,
        parameters: ScannParameters | None = None,
        seed: int = 0,
        normalize: bool = True,
        dim: int | None = None,
    ) -> ScannSearcher:
        """Builds the tree and the codes.

        Args:
            prefix_rows: (rows, D_s), any real dtype, finite; (rows, `parameters.reorder_dim`)
                where that is given.
            parameters: `ScannParameters`; `None` takes `scann_parameters(rows, D_s)`.
            seed: int, seeds the k-means of the tree and of the codes. Defaults to 0.
            normalize: bool, whether the rows are L2-normalised first, for cosine; zero rows stay
                zero. `False` shortlists by inner product. Defaults to `True`.
            dim: int, D_s; `None` takes the width of `prefix_rows`, and only a `reorder_dim` needs
                it.

        Raises:
            ValueError: fewer than 16 rows, non-finite rows (named by number), more leaves than
                rows, or a width that does not fit `dim` and `reorder_dim`.
            ImportError: ScaNN is not installed.
        """
        rows = check_matrix(prefix_rows, "`prefix_rows`")
        return cls.of_blocks([rows], parameters, seed, normalize, dim)

    @classmethod
    def of_blocks(
        cls,
        blocks: Sequence[np.ndarray],
        parameters: ScannParameters | None = None,
        seed: int = 0,
        normalize: bool = True,
        dim: int | None = None,
        progress: bool = False,
    ) -> ScannSearcher:
        """Builds from the blocks of a prefix, which are read once and in order.

        Args:
            blocks: arrays or `QuantizedRows` (rows, dims), side by side the rows of `build`.
            parameters, seed, normalize, dim: as for `build`.
            progress: bool, whether to show a progress bar. Defaults to `False`.

        Raises:
            ValueError, ImportError: as `build`.
        """
        n_rows, width = len(blocks[0]), sum(block.shape[1] for block in blocks)
        dim = width if dim is None else dim
        if n_rows < CODES:
            raise ValueError(
                f"`prefix_rows` must hold at least {CODES} rows, since ScaNN trains {CODES} "
                f"codes. Received {n_rows}; so few rows need no ScaNN (`scann=None`)."
            )
        parameters = parameters or scann_parameters(n_rows, dim)
        if parameters.num_leaves > n_rows:
            raise ValueError(
                f"`num_leaves` must not exceed the {n_rows} rows. Received {parameters.num_leaves}."
            )
        check_width(width, dim, parameters.reorder_dim)
        rows = np.empty((n_rows, dim + (parameters.reorder_dim or 0)), np.float32)
        with tqdm(
            total=n_rows, desc="Rows for ScaNN", disable=not progress, unit_scale=True
        ) as bar:
            for start in range(0, n_rows, _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                chunk = np.concatenate([as_float32(block[part]) for block in blocks], axis=1)
                refuse_rows(~np.isfinite(squared_norms(chunk)), start)
                rows[part] = searcher_rows(chunk, dim, parameters.reorder_dim, normalize)
                bar.update(len(chunk))
            bar.set_description("ScaNN trains its leaves and codes")
            _, ops = scann_ops()
            config = _config(rows, dim, parameters, whole_number(seed, "`seed`", least=0))
            searcher = ops.create_searcher(rows, config, shared_name=_unique_name())
        return cls(parameters, n_rows, dim, searcher.searcher_handle)

    @classmethod
    def from_tensors(
        cls, tensors: dict, parameters: ScannParameters, n_rows: int, dim: int
    ) -> ScannSearcher:
        """A searcher from what `tensors()` gave: the same answers, nothing trained again."""
        tf, ops = scann_ops()
        parts = {
            name: tf.constant(tensors[name], TENSOR_DTYPES[name], name=name)
            for name in TENSOR_NAMES
        }
        handle = ops.tensors_to_scann(
            parts["dataset"],
            *(parts[name] for name in TENSOR_NAMES[:-1]),
            shared_name=_unique_name(),
        )
        return cls(parameters, n_rows, dim, handle)

    def save(self, folder: str) -> dict:
        """Writes the parts into an existing folder; gives what `load` needs, as JSON holds it.

        The files are `scann_NAME.npy` for each name of `TENSOR_NAMES`, strings as their bytes.
        """
        for name, part in self.tensors().items():
            part = np.frombuffer(part[0], np.uint8) if part.dtype == object else part
            np.save(os.path.join(folder, f"scann_{name}.npy"), part, allow_pickle=False)
        return {"dim": self.dim, "parameters": self.parameters.to_dict()}

    @classmethod
    def load(cls, folder: str, saved: dict, n_rows: int) -> ScannSearcher:
        """Reads what `save` wrote; `saved` is what it gave, `n_rows` the number of rows."""
        tensors = {}
        for name in TENSOR_NAMES:
            part = np.load(os.path.join(folder, f"scann_{name}.npy"), allow_pickle=False)
            is_string = TENSOR_DTYPES[name] == "string"
            tensors[name] = np.array([part.tobytes()], dtype=object) if is_string else part
        parameters = ScannParameters.from_dict(saved["parameters"])
        return cls.from_tensors(tensors, parameters, n_rows, saved["dim"])

    @property
    def width(self) -> int:
        """The dims of a query that a search reads: D_s, or `reorder_dim`."""
        return self.parameters.reorder_dim or self.dim

    def reranks(self, plan) -> bool:
        """Whether the first rerank of a `SearchPlan` is one that ScaNN does itself."""
        dims = plan.rerank_dims
        return plan.shortlist_dim == self.dim and dims[:-1][:1] == (self.parameters.reorder_dim,)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        leaves: int | None = None,
        candidates: int | None = None,
    ):
        """The rows that ScaNN scores highest.

        Args:
            queries: (queries, `width`) prefixes, L2-normalised here. A row with NaN or inf gets no
                results.
            k: int, at least 1; above N the rest of the slots are empty.
            leaves: int, leaves to open; `None` takes `parameters.leaves_to_search`, and more
                than there are means all.
            candidates: int, at least `k`: the rows found with D_s dims, of which the `k` best at
                `reorder_dim` are returned. `None` takes `k`. More than `k` change the answer
                only with a `reorder_dim`.

        Returns:
            (scores, indices): float32 and int32, both (queries, k), descending by ScaNN's
            approximate cosine (or inner product over the query's norm) at D_s, or at
            `reorder_dim` where there is one. A slot without a row holds -1 and the lowest float32.

        Raises:
            ValueError: a wrong width, `k` or `leaves` below 1, or `candidates` below `k`.
        """
        queries, k = check_queries(queries, self.width), whole_number(k, "`k`")
        candidates = whole_number(k if candidates is None else candidates, "`candidates`", k)
        leaves = self.parameters.leaves_to_search if leaves is None else leaves
        leaves = min(whole_number(leaves, "`leaves`"), self.parameters.num_leaves)
        squared = squared_norms(queries)
        finite = np.isfinite(squared)
        scores = np.full((len(queries), k), LOWEST_SCORE, np.float32)
        indices = np.full((len(queries), k), PAD_INDEX, np.int32)
        if finite.any():
            asked = searcher_queries(queries[finite], self.dim, self.parameters.reorder_dim)
            scores[finite], indices[finite] = self._search_finite(asked, k, leaves, candidates)
        return scores, indices

    def _search_finite(self, prefixes, k, leaves, candidates):
        _, ops = scann_ops()
        found, candidates = min(k, self.n_rows), min(candidates, self.n_rows)
        # `parallel` pays from here on; below it the call overhead is all there is.
        parallel = len(prefixes) > 64
        indices, scores = ops.scann_search_batched(
            self._handle, prefixes, found, candidates, leaves, parallel
        )
        indices, scores = indices.numpy(), scores.numpy()
        if self.parameters.reorder_dim:
            scores = scores / np.float32(REORDER_WEIGHT)
        # ScaNN fills short rows with index 0 and score NaN, which would read as row 0.
        empty = np.isnan(scores)
        indices = np.where(empty, PAD_INDEX, indices)
        scores = np.where(empty, LOWEST_SCORE, scores)
        return pad_columns(*order_rows(scores, indices), k)

    def tensors(self) -> dict[str, np.ndarray]:
        """The searcher's parts by name, in ScannToTensors order, as NumPy arrays.

        Strings are object arrays of bytes, shape (1,). TensorsToScann takes the same parts with
        "dataset" moved to the front. "dataset" is empty: the searcher keeps no float rows.
        """
        _, ops = scann_ops()
        parts = ops.scann_to_tensors(self._handle)
        return {name: part.numpy() for name, part in zip(TENSOR_NAMES, parts, strict=True)}

    @cached_property
    def _partition(self):
        from scann.partitioning import partitioner_pb2

        tensors = self.tensors()
        partitioner = partitioner_pb2.SerializedPartitioner.FromString(
            tensors["serialized_partitioner"][0]
        )
        root = partitioner.kmeans.kmeans_tree.root
        centres = np.empty((len(root.centers), self.dim), np.float32)
        for child, centre in zip(root.children, root.centers, strict=True):
            centres[child.leaf_id] = centre.dimension
        return Leaves(centres, tensors["datapoint_to_token"][:, None])

    def partition(self) -> Leaves:
        """The tree's leaves, for a search without ScaNN's ops; each row is in one."""
        return self._partition

    def multiply_adds(self, leaves: int | None = None) -> float:
        """Those of one shortlist: every centre and the rows of opened leaves, taken as equal."""
        total = self.parameters.num_leaves
        leaves = self.parameters.leaves_to_search if leaves is None else min(leaves, total)
        return (total + self.n_rows * leaves / total) * self.dim

    def identity(self) -> list[np.ndarray]:
        """The arrays that make this searcher another than others of its parameters."""
        tensors = self.tensors()
        return [tensors["datapoint_to_token"], tensors["hashed_dataset"]]

    def memory_bytes(self) -> int:
        """Bytes of the searcher's parts: codes, leaf tokens, centres and code book."""
        return sum(
            len(part[0]) if part.dtype == object else part.nbytes
            for part in self.tensors().values()
        )


def _config(rows, dim, parameters, seed):
    """The searcher's text configuration: tree and asymmetric hashing, seeded."""
    _, ops = scann_ops()
    threshold = parameters.anisotropic_threshold
    builder = ops.builder(rows, 10, "dot_product")
    if parameters.reorder_dim:
        builder = builder.truncate(dim).reorder(10, quantize=True)
    config = (
        builder.tree(
            parameters.num_leaves,
            parameters.leaves_to_search,
            training_sample_size=parameters.training_sample_size,
            min_partition_size=1,
            training_iterations=parameters.training_iterations,
        )
        .score_ah(
            parameters.dims_per_block,
            anisotropic_quantization_threshold=math.nan if threshold is None else threshold,
            training_sample_size=parameters.training_sample_size,
        )
        .create_config()
    )
    # The builder has no argument for these seeds, and without them two builds differ.
    for opening, fields in (
        ("partitioning {", ("clustering_seed",)),
        ("asymmetric_hash {", ("clustering_seed", "sampling_seed")),
    ):
        seeds = " ".join(f"{field}: {seed}" for field in fields)
        config = config.replace(opening, f"{opening} {seeds}", 1)
    return config


def _unique_name():
    # A second searcher with the same name in one process would answer with the first one's rows.
    return f"mrl-scann-{uuid.uuid4().hex}"
