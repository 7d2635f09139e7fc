"""NumPy oracles of nested search: float64, one prefix at a time, everything sorted in full."""

import numpy as np

LOWEST = np.finfo(np.float32).min


def scores_at(queries, database, dim, metric="cosine"):
    """float64 (queries, rows): cosine or inner product of the prefixes; zero prefixes give 0."""
    q, x = (np.asarray(side, np.float64)[:, :dim] for side in (queries, database))
    if metric == "cosine":
        q, x = (
            side / np.where(n := np.linalg.norm(side, axis=1), n, 1)[:, None] for side in (q, x)
        )
    return q @ x.T


def assert_top_k(scores, indices, true_scores, k, tolerance=1e-5):
    """The answer is a correct top k of `true_scores` (queries, rows), whatever the tie order."""
    n_rows = true_scores.shape[1]
    found = min(k, n_rows)
    assert scores.shape == indices.shape == (len(true_scores), k)
    assert scores.dtype == np.float32
    assert (indices[:, found:] == -1).all()
    assert (scores[:, found:] == LOWEST).all()
    kept = indices[:, :found]
    assert kept.min(initial=0) >= 0
    for row in kept:
        assert len(set(row.tolist())) == found
    size = tolerance * max(1.0, np.abs(true_scores).max(initial=0))
    best = -np.sort(-true_scores, axis=1)[:, :found]
    np.testing.assert_allclose(scores[:, :found], best, atol=size)
    np.testing.assert_allclose(np.take_along_axis(true_scores, kept, 1), best, atol=size)


def funnel(queries, database, plan, metric="cosine"):
    """Positions (queries, k) of a plan done the slow way: each stage scores from scratch."""
    found = []
    for query in np.asarray(queries):
        left = np.arange(len(database))
        for dim, keep in zip(plan.dims, (*plan.sizes, plan.k), strict=True):
            scores = scores_at(query[None], np.asarray(database)[left], dim, metric)[0]
            left = left[np.argsort(-scores, kind="stable")[:keep]]
        found.append(np.pad(left, (0, plan.k - len(left)), constant_values=-1))
    return np.stack(found)


def clustered(n_rows, width, n_queries=0, seed=0, classes=20):
    """(rows, queries, row labels, query labels) with a decaying spectrum and classes."""
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1 + np.arange(width) / 4)
    centres = rng.standard_normal((classes, width)) * scale

    def draw(count):
        labels = rng.integers(0, classes, count)
        noise = 0.6 * scale * rng.standard_normal((count, width))
        return (centres[labels] + noise).astype(np.float32), labels

    rows, row_labels = draw(n_rows)
    queries, query_labels = draw(n_queries)
    return rows, queries, row_labels, query_labels
