"""Digests of rows and indexes, and the differences between two searches as text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from mrl_keras.checks import differences
from mrl_keras.retrieval.index.storage import tables_of_blocks

_STEP_BYTES = 64 << 20


class RowDigest:
    """SHA-256 over the rows of one table or several, however they are cut into chunks.

    The dtype and the shape of a row count too; strings count by their UTF-8 bytes.

    >>> whole, halves = RowDigest(), RowDigest()
    >>> whole.update([np.arange(4)])
    >>> for half in (np.arange(2), np.arange(2, 4)):
    ...     halves.update([half])
    >>> whole.hexdigest() == halves.hexdigest()
    True
    """

    def __init__(self):
        self._hashes = None

    def update(self, tables: Sequence[np.ndarray]) -> None:
        """Takes the next rows: arrays (rows, ...), one for each table, equally long."""
        if self._hashes is None:
            self._hashes = [hashlib.sha256(_describe(table)) for table in tables]
        for hashed, table in zip(self._hashes, tables, strict=True):
            step = max(1, _STEP_BYTES // max(1, table[:1].nbytes))
            for start in range(0, len(table), step):
                hashed.update(_as_bytes(table[start : start + step]))

    def hexdigest(self) -> str:
        """The digest of the rows so far, 64 hexadecimal digits."""
        parts = [] if self._hashes is None else [hashed.digest() for hashed in self._hashes]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def _describe(table):
    kind = "string" if table.dtype.kind in "OSU" else table.dtype.name
    return f"{kind}{list(table.shape[1:])}".encode()


def _as_bytes(rows):
    if rows.dtype.kind in "OSU":
        return b"".join(_string_bytes(value) for value in rows.reshape(-1))
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8)


def _string_bytes(value):
    data = value if isinstance(value, bytes) else str(value).encode()
    return len(data).to_bytes(8, "little") + data


def digest_of(tables: Sequence[np.ndarray]) -> str:
    """The SHA-256 of some arrays, of any lengths and each with at least one axis."""
    parts = []
    for table in tables:
        digest = RowDigest()
        digest.update([table])
        parts.append(digest.hexdigest())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def plan_fingerprint(plan) -> dict:
    """A `SearchPlan` that is not certified, as JSON holds it."""
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(plan).items()}
    del values["certified"]
    return values


def options_fingerprint(options) -> dict:
    """The identity of an `IndexOptions`, as JSON holds it; given centres by their digest."""
    about = {**asdict(options), "scann": repr(options.scann)}
    if isinstance(options.storage, Mapping):
        about["storage"] = {str(dim): one for dim, one in options.storage.items()}
    if options.partition is not None:
        centres, about["partition"] = options.partition.centres, repr(options.partition)
        about["centres"] = None if centres is None else digest_of([centres])
    return about


def index_fingerprint(index) -> dict:
    """The identity of a `NestedIndex`, as JSON holds it; reads all of its blocks once.

    The same index has the same fingerprint in memory, memory-mapped, or saved and loaded.
    """
    tables = [*tables_of_blocks(index.blocks), index.inverse_norms, index.ids]
    shortlist = None
    if index.shortlist is not None:
        # The "storage" is what folders of earlier versions hold beside the parameters.
        about = {"dim": index.shortlist.dim, "storage": "float32"}
        shortlist = about | index.shortlist.parameters.to_dict()
        tables += index.shortlist.identity()
    return {
        "rows": len(index),
        "nesting_dims": list(index.nesting_dims),
        "metric": index.metric,
        "storage": index.storage,
        "shortlist": shortlist,
        "sha256": digest_of(tables),
    }


def describe_differences(there: dict, here: dict) -> list[str]:
    """What differs between two nested dicts: `["plan.k (10 there, 5 here)"]`."""
    return [
        f"{name} ({_short(one)} there, {_short(other)} here)"
        for name, one, other in differences(there, here)
    ]


def _short(value):
    text = str(value)
    return text if len(text) < 60 else f"{text[:12]}..."
