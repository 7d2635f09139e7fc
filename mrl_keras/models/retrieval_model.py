"""Retrieval from raw inputs: an encoder, a nested index and a plan in one object."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import keras
import numpy as np
from tqdm.auto import tqdm

from mrl_keras.checks import whole_number
from mrl_keras.files import as_path
from mrl_keras.retrieval.bulk.fingerprints import digest_of
from mrl_keras.retrieval.bulk.search import DEFAULT_CHUNK_QUERIES, QuerySource, run_bulk_search
from mrl_keras.retrieval.index.nested_index import NestedIndex
from mrl_keras.retrieval.index.results import SearchResult
from mrl_keras.retrieval.plan import SearchPlan


class RetrievalModel:
    """Answers raw inputs with the rows of a nested index that are nearest to their embeddings.

    The answers are those of the signatures `retrieve` and `retrieve_embeddings` that
    `mrl_keras.export.export_saved_model` writes for the same encoder, index and plan. It is
    not a `keras.Model`, because a .keras file cannot hold a memory-mapped database: save the
    encoder with Keras, and the index with `NestedIndex.save`.

    Args:
        encoder: Keras layer or model, raw inputs -> (batch, d) embedding, in inference mode. The
            index must hold embeddings of the same encoder.
        index: `mrl_keras.retrieval.NestedIndex` of the width d.
        plan: `mrl_keras.retrieval.SearchPlan` that every search runs.
        batch_size: int, the raw inputs encoded at once. Defaults to 256.

    Raises:
        ValueError: an encoder that is not a Keras layer, or whose output is known not to be d wide;
            a plan with dims that the index does not have; a `batch_size` below 1.

    Example:

    >>> import keras
    >>> from mrl_keras.retrieval import NestedIndex, SearchPlan
    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> documents = np.random.default_rng(0).standard_normal((50, 4)).astype("float32")
    >>> index = NestedIndex.build(encoder.predict(documents, verbose=0), [2, 4, 8])
    >>> plan = SearchPlan.adaptive(shortlist_dim=4, shortlist=20, rerank_dim=8, k=3)
    >>> model = RetrievalModel(encoder, index, plan)
    >>> found = model.retrieve(documents[:5])
    >>> found.ids.shape, found.ids[:, 0].tolist()
    ((5, 3), [0, 1, 2, 3, 4])

    Source: arXiv 2205.13147, Section 4.3.1 (adaptive and funnel retrieval).
    """

    def __init__(
        self,
        encoder: keras.layers.Layer,
        index: NestedIndex,
        plan: SearchPlan,
        batch_size: int = 256,
    ):
        if not isinstance(encoder, keras.layers.Layer):
            raise ValueError(
                "`encoder` must be a Keras layer or model. "
                f"Received {encoder!r} of type {type(encoder).__name__}."
            )
        if not isinstance(index, NestedIndex) or not isinstance(plan, SearchPlan):
            raise ValueError(
                "`index` must be a NestedIndex and `plan` a SearchPlan. Received types "
                f"{type(index).__name__} and {type(plan).__name__}."
            )
        plan.check_dims(index.nesting_dims)
        self.encoder = encoder
        self.index = index
        self.plan = plan
        self.batch_size = whole_number(batch_size, "`batch_size`")
        shape = getattr(encoder, "output_shape", None)
        if shape is not None:
            self._check_output(shape, None)

    def embed(self, inputs, progress: bool = False) -> np.ndarray:
        """The embeddings of raw inputs, encoded in batches.

        Args:
            inputs: what the encoder takes: an array or tensor (batch, ...), or a dict, list or
                tuple of such arrays with one common batch axis.
            progress: bool, whether to show a progress bar. Defaults to `False`.

        Returns:
            float32 (batch, d). An empty batch gives (0, d).

        Raises:
            ValueError: inputs without a common batch axis, or an encoder whose output is not
                (batch, d).
        """
        inputs = _Inputs(inputs)
        embeddings = np.empty((inputs.rows, self.index.width), np.float32)
        with tqdm(total=inputs.rows, desc="Encoding", disable=not progress, unit_scale=True) as bar:
            for start in range(0, inputs.rows, self.batch_size):
                batch = [table[start : start + self.batch_size] for table in inputs.tables]
                output = self._encode(inputs.pack(batch))
                self._check_output(output.shape, len(batch[0]))
                embeddings[start : start + len(output)] = output
                bar.update(len(output))
        return embeddings

    def retrieve(self, inputs, progress: bool = False) -> SearchResult:
        """The rows nearest to raw inputs.

        Args:
            inputs: what the encoder takes, as for `embed`.
            progress: bool, whether to show a progress bar of the encoding. Defaults to `False`.

        Returns:
            A `SearchResult` of (scores, indices, ids), each (batch, k). An input whose
            embedding holds NaN or inf gets an empty answer.
        """
        return self.retrieve_embeddings(self.embed(inputs, progress))

    def retrieve_embeddings(self, embeddings) -> SearchResult:
        """The rows nearest to embeddings (batch, d): `index.search(embeddings, plan)`."""
        return self.index.search(_as_array(embeddings), self.plan)

    def retrieve_to_disk(
        self,
        inputs,
        directory: str,
        chunk_queries: int = DEFAULT_CHUNK_QUERIES,
        progress: bool = False,
    ) -> SearchResult:
        """`retrieve` for more inputs than memory holds, continued after an interruption.

        Works as `mrl_keras.retrieval.bulk_search` does, and encodes each chunk just before its
        search. A second call with the same encoder weights, index, plan and inputs continues after
        the last whole chunk: the inputs answered so far are read to compare their digest with the
        manifest's, and not encoded again.

        Args:
            inputs: what the encoder takes, as for `embed`, where memory-mapped arrays are read
                chunk by chunk; or an iterable of batches, such as a generator or a
                `tf.data.Dataset` in a fixed order. Batches are what `keras.Model.predict` takes:
                x, or a tuple (x, y) of which y is ignored.
            directory: path of a folder that is new, empty, or that of the same search.
            chunk_queries: int, the inputs answered at once and lost at most by an interruption.
                Defaults to 4,096.
            progress: bool, whether to show a progress bar. Defaults to `False`.

        Returns:
            A `SearchResult` of the memory-mapped scores, indices and ids, each (inputs, k).

        Raises:
            ValueError: an encoder that is not built; inputs without a common batch axis; and what
                `bulk_search` raises, where an encoder with other weights is refused too.

        Example:

        >>> import os, tempfile
        >>> from mrl_keras.retrieval import NestedIndex, SearchPlan
        >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
        >>> documents = np.random.default_rng(0).standard_normal((50, 4)).astype("float32")
        >>> index = NestedIndex.build(encoder.predict(documents, verbose=0), [2, 4, 8])
        >>> model = RetrievalModel(encoder, index, SearchPlan((8,), k=3))
        >>> folder = os.path.join(tempfile.mkdtemp(), "answers")
        >>> model.retrieve_to_disk(documents, folder, chunk_queries=20).ids.shape
        (50, 3)
        """
        directory = as_path(directory, "`directory`")
        if not self.encoder.built:
            raise ValueError(
                f"The encoder {self.encoder.name!r} must be built, since its weights tell one "
                "search from another. Call it once, or load its weights, before."
            )
        chunk_queries = whole_number(chunk_queries, "`chunk_queries`")
        source = self._source(inputs, chunk_queries)
        return run_bulk_search(self.index, source, self.plan, directory, chunk_queries, progress)

    def _source(self, inputs, chunk_queries):
        about = {"encoder": digest_of([np.atleast_1d(w) for w in self.encoder.get_weights()])}
        if _is_batches(inputs):
            batches = (_Inputs(keras.utils.unpack_x_y_sample_weight(batch)[0]) for batch in inputs)
            first = next(batches, None)
            if first is None:
                return QuerySource((), self.embed, None, about)
            chunks = (batch.tables for batch in chain([first], batches))
            return QuerySource(chunks, lambda tables: self.embed(first.pack(tables)), None, about)
        first = _Inputs(inputs)
        chunks = (
            [table[start : start + chunk_queries] for table in first.tables]
            for start in range(0, first.rows, chunk_queries)
        )
        return QuerySource(chunks, lambda tables: self.embed(first.pack(tables)), first.rows, about)

    def _encode(self, batch):
        # `predict_on_batch` runs a compiled graph, which only models have.
        if isinstance(self.encoder, keras.Model):
            output = self.encoder.predict_on_batch(batch)
        else:
            output = self.encoder(batch, training=False)
        if not hasattr(output, "shape"):
            raise ValueError(
                f"The encoder must give one tensor (batch, {self.index.width}). "
                f"Received {type(output).__name__}."
            )
        if isinstance(output, np.ndarray):
            return output
        return keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))

    def _check_output(self, shape, rows):
        shape, width = tuple(shape), self.index.width
        if len(shape) != 2 or shape[1] not in (None, width) or rows not in (None, shape[0]):
            raise ValueError(
                f"The encoder must give embeddings ({rows or 'batch'}, {width}), as wide as the "
                f"rows of the index. Its output shape is {shape}."
            )


class _Inputs:
    """Raw inputs as a flat list of arrays with one common batch axis."""

    def __init__(self, inputs):
        if isinstance(inputs, (list, tuple)) and all(isinstance(x, (str, bytes)) for x in inputs):
            inputs = np.array(inputs, object)  # a batch of texts, not a structure of them
        self.tables = [_as_array(part) for part in keras.tree.flatten(inputs)]
        self._structure = keras.tree.map_structure(lambda part: 0, inputs)
        lengths = {len(table) if table.ndim else None for table in self.tables}
        if len(lengths) != 1 or None in lengths:
            shapes = [table.shape for table in self.tables]
            raise ValueError(
                "`inputs` must be an array or tensor with a batch axis, or a dict, list or tuple "
                f"of them with one common batch axis. Received the shapes {shapes}."
            )
        (self.rows,) = lengths

    def pack(self, tables):
        """`tables` in the structure of the inputs."""
        return keras.tree.pack_sequence_as(self._structure, list(tables))


def _as_array(part):
    if isinstance(part, np.ndarray):
        return part
    return keras.ops.convert_to_numpy(part) if hasattr(part, "shape") else np.asarray(part)


def _is_batches(inputs):
    """Whether `inputs` yields batches, rather than being arrays or a structure of arrays."""
    one = isinstance(inputs, (dict, list, tuple, str, bytes)) or hasattr(inputs, "shape")
    return not one and isinstance(inputs, Iterable)
