"""nDCG of graded relevance, and recall of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrl_keras.checks import whole_number
from mrl_keras.evaluation.checks import check_labels
from mrl_keras.retrieval import exact_search


def ndcg(
    queries,
    documents,
    relevance: Sequence[dict],
    dims,
    k: int = 10,
    metric: str = "cosine",
) -> dict[int, float]:
    """nDCG@k of exact retrieval at every prefix, all from one search.

        DCG@k = sum_{i=1..k} g_i / log2(i + 1),    nDCG@k = DCG@k / (the DCG@k of the best order)

    where g_i is the gain of the document at rank i: the degree of relevance itself, as BEIR's
    evaluation takes it. The mean is over the queries that have a relevant document.

    Args:
        queries: (queries, d).
        documents: (documents, d).
        relevance: for each query a dict from row numbers of `documents` to degrees above 0; what
            it does not name is irrelevant. A degree of 0 is irrelevant too.
        dims: ints, ascending, the prefixes: trained, interpolated or both.
        k: int, documents looked at. Default 10.
        metric: "cosine" (each prefix normalised by itself) or "dot". Default "cosine".

    Returns:
        dict from dim to the mean in [0, 1].

    Raises:
        ValueError: another number of dicts than of queries, rows that don't exist, degrees that
            are negative or not finite, or no query with a relevant document.

    Example:

    >>> from mrl_keras.evaluation import ndcg
    >>> found = ndcg(np.eye(2)[:1], np.eye(2), [{0: 1, 1: 2}], dims=[2])
    >>> round(found[2], 4)  # (1 + 2 / log2(3)) / (2 + 1 / log2(3))
    0.8597

    Source: Jarvelin and Kekalainen 2002 (doi 10.1145/582415.582418); arXiv 2104.08663 (BEIR).
    """
    k, count = whole_number(k, "`k`"), len(np.asarray(documents))
    gains = checked_gains(relevance, len(np.asarray(queries)), count)
    found = exact_search(queries, documents, dims, k=k, metric=metric)
    return {
        dim: float(ndcg_of_queries(indices, gains, k).mean())
        for dim, indices in zip(found.dims, found.indices, strict=True)
    }


def ndcg_of_queries(indices, gains: Sequence[dict], k: int) -> np.ndarray:
    """nDCG@k of each query that has a relevant document; their mean is `ndcg`.

    Args:
        indices: ints (queries, at least k), row numbers of documents, best first, -1 for none.
        gains: for each query a dict from row numbers to degrees.
        k: int.

    Returns:
        float64 (queries with a relevant document,).

    >>> ndcg_of_queries(np.array([[0, 1], [1, 0]]), [{0: 1.0}, {}], 2).tolist()
    [1.0]
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.array([_best(gain, k) @ discounts for gain in gains])
    got = gains_at(indices[:, :k], gains)
    return (got @ discounts[: got.shape[1]])[best > 0] / best[best > 0]


def gains_at(indices, gains: Sequence[dict]) -> np.ndarray:
    """float64 (queries, k), the degree of each retrieved row; 0 for what no dict names, -1 too.

    >>> gains_at(np.array([[3, -1]]), [{3: 2.0}]).tolist()
    [[2.0, 0.0]]
    """
    pairs = zip(gains, np.asarray(indices).tolist(), strict=True)
    return np.array([[gain.get(row, 0.0) for row in rows] for gain, rows in pairs])


def pair_recall(
    queries,
    query_ids,
    documents,
    document_ids,
    dims,
    ks: Sequence[int] = (1, 10),
    metric: str = "cosine",
) -> dict[int, dict[int, float]]:
    """recall@k at every prefix: how often a query's own document is among the first k.

    A document is a query's own if their ids are equal; where there are several, as with the
    captions of an image, one of them is enough. Chance is about k / documents times the number
    of own documents.

    Args:
        queries: (queries, d), such as embeddings of texts.
        query_ids: ints (queries,), such as the number of each text's image.
        documents: (documents, d).
        document_ids: ints (documents,).
        dims: ints, ascending, the prefixes.
        ks: ints, ascending. Default (1, 10).
        metric: "cosine" or "dot". Default "cosine".

    Returns:
        dict from dim to a dict from k to the share of queries in [0, 1].

    Raises:
        ValueError: ids that don't fit, a query without a document of its own, or a k above the
            number of documents.

    Example:

    >>> from mrl_keras.evaluation import pair_recall
    >>> images, texts = np.eye(3), np.eye(3)[[0, 2, 1]]
    >>> pair_recall(texts, [0, 1, 2], images, [0, 1, 2], dims=[3], ks=(1, 3))
    {3: {1: 0.3333333333333333, 3: 1.0}}

    Source: arXiv 2102.05918, Section 5.2 (image-text retrieval).
    """
    query_ids = check_labels(query_ids, queries, "query_ids")
    document_ids = check_labels(document_ids, documents, "document_ids")
    ks = sorted(whole_number(k, "Each of `ks`") for k in ks)
    if not ks or ks[-1] > len(document_ids):
        raise ValueError(f"`ks` must be at most the {len(document_ids)} documents. Received {ks}.")
    alone = np.setdiff1d(query_ids, document_ids)
    if len(alone):
        raise ValueError(
            f"Every query needs a document of its own. {len(alone)} have none, such as {alone[0]}."
        )
    found = exact_search(queries, documents, dims, k=ks[-1], metric=metric)
    recalls = {}
    for dim, indices in zip(found.dims, found.indices, strict=True):
        own = (document_ids[indices] == query_ids[:, None]) & (indices >= 0)
        recalls[dim] = {k: float(own[:, :k].any(axis=1).mean()) for k in ks}
    return recalls


def _best(gain, k):
    """The k largest gains, descending, filled up with zeros."""
    largest = sorted(gain.values(), reverse=True)[:k]
    return np.array(largest + [0.0] * (k - len(largest)))


def checked_gains(relevance, queries, documents):
    """`relevance` as a dict from int to float for each query, checked as `ndcg` says."""
    gains = [{int(row): float(gain) for row, gain in one.items()} for one in relevance]
    if len(gains) != queries:
        raise ValueError(
            f"`relevance` must be {queries} dicts, one for each query. Received {len(gains)}."
        )
    for query, gain in enumerate(gains):
        for row, degree in gain.items():
            if not 0 <= row < documents:
                raise ValueError(
                    f"`relevance` must name rows 0 to {documents - 1} of `documents`. Query "
                    f"{query} names {row}."
                )
            if not 0.0 <= degree < np.inf:
                raise ValueError(
                    "A degree of relevance must be finite and not negative. "
                    f"Query {query} has {degree} for document {row}."
                )
    if not any(degree for gain in gains for degree in gain.values()):
        raise ValueError("`relevance` must name a relevant document for at least one query.")
    return gains
