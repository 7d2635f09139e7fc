"""The shortlist of an index: built as its options say, and loaded by its kind."""

from __future__ import annotations

from mrl_keras.retrieval.arrays import prefix_chunks
from mrl_keras.retrieval.partition.searcher import PartitionSearcher
from mrl_keras.retrieval.scann.parameters import ScannParameters, uses_scann
from mrl_keras.retrieval.scann.searcher import ScannSearcher
from mrl_keras.retrieval.signs import SignSearcher

Shortlist = ScannSearcher | SignSearcher | PartitionSearcher


def build_shortlist(index, options, progress: bool) -> Shortlist | None:
    """What finds the shortlists of a `NestedIndex`; `None` where they are exact.

    Args:
        index: `NestedIndex`, whose own shortlist is not read.
        options, progress: as for `NestedIndex.build`.
    """
    dim, scann = options.shortlist_dim, options.scann
    if dim is None:
        if isinstance(scann, ScannParameters):
            raise ValueError(
                "`shortlist_dim` must name the prefix that ScaNN searches when `scann` is "
                f"given. Received None; choose one of {list(index.nesting_dims)}."
            )
        return None
    blocks = index.blocks_up_to(dim)
    if options.signs:
        return SignSearcher.build(lambda: prefix_chunks(blocks))
    if options.partition is not None:
        clustered = index.blocks_up_to(options.partition.dim)
        return PartitionSearcher.build(options.partition, clustered, *_scored_rows(index, dim))
    blocks = index.blocks_up_to(getattr(scann, "reorder_dim", None) or dim)
    if not uses_scann(scann, len(index)):
        return None
    parameters, cosine = None if scann == "auto" else scann, index.metric == "cosine"
    return ScannSearcher.of_blocks(blocks, parameters, normalize=cosine, dim=dim, progress=progress)


def load_shortlist(index, folder: str, saved: dict) -> Shortlist:
    """Reads what the shortlist's `save` wrote; `saved` is what it gave."""
    kind = saved["parameters"].get("kind")
    if kind == "signs":
        return SignSearcher.load(folder, saved, len(index))
    if kind == "partition":
        return PartitionSearcher.load(folder, saved, *_scored_rows(index, saved["dim"]))
    return ScannSearcher.load(folder, saved, len(index))


def _scored_rows(index, dim):
    """What a `PartitionSearcher` scores rows by at one prefix."""
    norms = index.inverse_norms[:, index.nesting_dims.index(dim)]
    return index.blocks_up_to(dim), norms, index.metric == "cosine"
