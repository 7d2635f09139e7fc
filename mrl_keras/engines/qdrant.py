"""Qdrant: one named vector for each prefix, and the funnel as nested prefetches."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mrl_keras.checks import differences, whole_number
from mrl_keras.engines.engine import Engine, check_plain_filter, chosen_shortlist_dims
from mrl_keras.retrieval.fanout import shard_plan
from mrl_keras.retrieval.plan import SearchPlan

ID_FIELD = "_id"
"""The payload field with the user's own id, which Qdrant's point ids can't always be."""

_IDS_AT_ONCE = 1000


@dataclass(frozen=True)
class QdrantOptions:
    """How a Qdrant collection stores its vectors.

    Args:
        shortlist_dims: ints, the prefixes with an HNSW graph, kept in memory; the others are only
            reranked: no graph (m = 0), on disk. Defaults to `None`, the smallest alone.
        quantization: "int8" or `None`, how the graph's vectors are held in memory. Defaults to
            `None`.
        on_disk: bool, whether the vectors that are only reranked stay on disk. Defaults to `True`.
        m: int, edges of a node of the graph. Defaults to 16.
        ef_construct: int, candidates while the graph is built. Defaults to 128.
        shards: int, shards of the collection. Defaults to 1.
        miss: float or `None`, as for `mrl_keras.retrieval.shard_plan`: Qdrant counts the limit of
            a prefetch in each shard, so `None` reranks `shards` times the plan's rows and loses
            none; a probability reranks few more than the plan's. Defaults to `None`.

    Raises:
        ValueError: a number below 1, or another quantization.
    """

    shortlist_dims: Sequence[int] | None = None
    quantization: str | None = None
    on_disk: bool = True
    m: int = 16
    ef_construct: int = 128
    shards: int = 1
    miss: float | None = None

    def __post_init__(self):
        for name in ("m", "ef_construct", "shards"):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"`{name}`"))
        if self.quantization not in (None, "int8"):
            raise ValueError(
                f'`quantization` must be "int8" or None. Received {self.quantization!r}.'
            )
        shard_plan(SearchPlan((1,), k=1), self.shards, self.miss)


class QdrantEngine(Engine):
    """A Qdrant collection with the named vectors "d8", "d64", ..., one for each dim.

    A plan becomes one request: the innermost prefetch finds the shortlist with its prefix, each
    prefetch around it reranks, the query itself orders what is left by the last dim. Point ids are
    made of the ids (UUID version 5, in the namespace of OIDs); the ids themselves are in the
    payload field `_id`.

    Args:
        client: `qdrant_client.QdrantClient`, of a server or in local mode, which is exact:
            `QdrantClient(":memory:")`, `QdrantClient(path="folder")`.
        name: str, of the collection.
        dims, metric, id_dtype: as for `Engine`.
        options: `QdrantOptions`. Defaults to `None`, its defaults.

    `filters` of a query are a plain dict, or a `qdrant_client.models.Filter`.

    Raises:
        ValueError: as `Engine`; or `shortlist_dims` that are not among `dims`.
        ImportError: qdrant-client is not installed.

    Example:

    >>> from qdrant_client import QdrantClient                              # doctest: +SKIP
    >>> engine = QdrantEngine(QdrantClient(":memory:"), "docs", [8, 64])    # doctest: +SKIP
    >>> engine.create()                                                     # doctest: +SKIP
    >>> engine.upload(rows, ids, payload=[{"lang": "en"}] * len(ids))       # doctest: +SKIP
    >>> engine.query(rows[:1], plan, filters={"lang": "en"}).ids            # doctest: +SKIP

    Source: arXiv 2205.13147, Section 4.3.1; nested prefetches are Qdrant's query API.
    """

    def __init__(
        self,
        client,
        name: str,
        dims: Sequence[int],
        *,
        metric: str = "cosine",
        id_dtype: str = "string",
        options: QdrantOptions | None = None,
    ):
        super().__init__(dims, metric, id_dtype)
        self.client = client
        self.name = name
        self.options = options or QdrantOptions()
        self._models = _qdrant_models()
        self.shortlist_dims = chosen_shortlist_dims(self.options.shortlist_dims, self.dims)

    def create(self) -> None:
        """Makes the empty collection; one that exists with the same settings is kept as it is.

        Raises:
            ValueError: a collection of this name with other settings, which are named.
            ConnectionError: the server can't be reached.
        """
        with self._errors():
            if not self.client.collection_exists(self.name):
                self.client.create_collection(
                    self.name, self._vectors(), shard_number=self.options.shards
                )
                return
            there = self.client.get_collection(self.name).config.params
        found = differences(_settings(there.vectors), _settings(self._vectors()))
        shards = there.shard_number or self.options.shards  # local mode keeps none
        found += [("shards", shards, self.options.shards)] * (shards != self.options.shards)
        if found:
            listed = "; ".join(f"{name} is {old!r}, wanted {new!r}" for name, old, new in found[:5])
            raise ValueError(
                f"The collection {self.name!r} exists with other settings: {listed}. Choose "
                "another name, or delete it first."
            )

    def finish(self) -> None:
        """Waits until the server has built its graphs; nothing to do in local mode."""
        while True:
            with self._errors():
                status = self.client.get_collection(self.name).status
            if status != self._models.CollectionStatus.YELLOW:
                return
            time.sleep(1)

    def close(self) -> None:
        """Closes the client."""
        self.client.close()

    def delete(self, ids: Sequence) -> int:
        """Deletes rows; returns how many of `ids` were there."""
        names = self._check_ids(ids, len(ids)).tolist()
        there = list(self._there(names))
        if there:
            with self._errors():
                self.client.delete(self.name, [_point(name) for name in there], wait=True)
        return len(there)

    def __len__(self) -> int:
        with self._errors():
            return self.client.count(self.name, exact=True).count

    def _there(self, ids):
        found = set()
        for low in range(0, len(ids), _IDS_AT_ONCE):
            points = [_point(name) for name in ids[low : low + _IDS_AT_ONCE]]
            with self._errors():
                for one in self.client.retrieve(self.name, points, with_payload=[ID_FIELD]):
                    found.add(one.payload[ID_FIELD])
        return found

    def _write(self, rows, ids, payload):
        reserved = [name for name, of in zip(ids, payload, strict=True) if ID_FIELD in of]
        if reserved:
            raise ValueError(
                f"A payload must not have the field {ID_FIELD!r}, which holds the id. Received it "
                f"for {reserved[:3]}."
            )
        points = [
            self._models.PointStruct(
                id=_point(name),
                vector={f"d{dim}": row[:dim].tolist() for dim in self.dims},
                payload={**of, ID_FIELD: name},
            )
            for row, name, of in zip(rows, ids, payload, strict=True)
        ]
        with self._errors():
            self.client.upsert(self.name, points, wait=True)

    def _find(self, query, plan, filters, exact):
        request = self.request(query, plan, filters, exact)
        with self._errors():
            points = self.client.query_points(self.name, **request).points
        return [(point.score, point.payload[ID_FIELD]) for point in points]

    def request(self, query: np.ndarray, plan: SearchPlan, filters=None, exact=False) -> dict:
        """The arguments of `QdrantClient.query_points` that answer one query.

        Args:
            query: float (width,).
            plan, filters, exact: as for `query`.
        """
        models, sizes = self._models, shard_plan(plan, self.options.shards, self.options.miss).sizes
        chosen = self._filter(filters)
        given = getattr(self.client, "init_options", {})
        local = given.get("location") == ":memory:" or given.get("path") is not None
        # Local mode is always exact, and warns where it is asked to be.
        first = models.SearchParams(exact=True) if exact and not local else None
        prefetch = None
        for dim, size in zip(plan.dims[:-1], sizes, strict=True):
            params, first = first, None
            prefetch = models.Prefetch(
                prefetch=prefetch,
                query=query[:dim].tolist(),
                using=f"d{dim}",
                limit=size,
                filter=chosen if prefetch is None else None,
                params=params,
            )
        return {
            "prefetch": prefetch,
            "query": query[: plan.dims[-1]].tolist(),
            "using": f"d{plan.dims[-1]}",
            "query_filter": chosen if prefetch is None else None,
            "search_params": first if prefetch is None else None,
            "limit": plan.k,
            "with_payload": [ID_FIELD],
        }

    def _filter(self, filters):
        models = self._models
        if filters is None or isinstance(filters, models.Filter):
            return filters
        return models.Filter(
            must=[
                models.FieldCondition(key=name, match=models.MatchAny(any=values))
                if len(values) > 1
                else models.FieldCondition(key=name, match=models.MatchValue(value=values[0]))
                for name, values in check_plain_filter(filters).items()
            ]
        )

    def _vectors(self):
        models, options = self._models, self.options
        distance = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT}[self.metric]
        quantized = None
        if options.quantization:
            int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
            quantized = models.ScalarQuantization(scalar=int8)

        def params(dim):
            graph = dim in self.shortlist_dims
            return models.VectorParams(
                size=dim,
                distance=distance,
                hnsw_config=models.HnswConfigDiff(
                    m=options.m if graph else 0,
                    ef_construct=options.ef_construct if graph else None,
                ),
                quantization_config=quantized if graph else None,
                on_disk=False if graph else options.on_disk,
            )

        return {f"d{dim}": params(dim) for dim in self.dims}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns the client's errors into one line that says what to do."""
        import httpx
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        try:
            yield
        except (ResponseHandlingException, httpx.TransportError) as error:
            raise ConnectionError(
                f"Qdrant can't be reached ({error}). Start the server, check its address, and do "
                "the same again: uploads go on with `resume=True`."
            ) from error
        except (UnexpectedResponse, ValueError) as error:
            text = " ".join(str(error).split())
            if "not found" in text.lower() and "collection" in text.lower():
                raise ValueError(
                    f"There is no collection {self.name!r} in Qdrant. Call `create()` first, or "
                    "name another one."
                ) from error
            raise ValueError(f"Qdrant refused the request: {text[:300]}") from error


def _point(name):
    """The point id of an id: the same for the same id, whatever it is made of."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(name)))


def _settings(vectors):
    """Named vectors as nested dicts, of what this module sets."""
    if not isinstance(vectors, dict):
        return {"": "one unnamed vector"}
    return {
        name: {
            "size": one.size,
            "distance": one.distance.value,
            "m": getattr(one.hnsw_config, "m", None),
            "on_disk": bool(one.on_disk),
            "quantized": one.quantization_config is not None,
        }
        for name, one in vectors.items()
    }


def _qdrant_models():
    try:
        from qdrant_client import models
    except ImportError as error:
        raise ImportError(
            "The Qdrant engine needs qdrant-client, which is not installed. Install it with: "
            'pip install "mrl_keras[qdrant]"'
        ) from error
    return models
