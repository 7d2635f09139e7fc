"""An index on disk: .npy blocks that can be memory-mapped, and one JSON file."""

from __future__ import annotations

import json
import os

import numpy as np

from mrl_keras.files import atomic_directory, read_manifest
from mrl_keras.retrieval.index.build import storage_dtype

FORMAT_VERSION = 1
_MANIFEST = "index.json"


def save_index(index, directory):
    """See `NestedIndex.save`."""
    with atomic_directory(directory) as temporary:
        _write(index, temporary)


def _write(index, folder):
    for place, block in enumerate(index.blocks):
        # NumPy's file format has no bfloat16: its bits are stored as uint16.
        bits = block if block.dtype == np.float32 else block.view(np.uint16)
        np.save(os.path.join(folder, _block_name(place)), bits, allow_pickle=False)
    np.save(os.path.join(folder, "inverse_norms.npy"), index.inverse_norms, allow_pickle=False)
    np.save(os.path.join(folder, "ids.npy"), index.ids, allow_pickle=False)
    manifest = {
        "format_version": FORMAT_VERSION,
        "nesting_dims": list(index.nesting_dims),
        "metric": index.metric,
        "storage": index.storage,
        "rows": len(index),
        "shortlist": None,
    }
    if index.shortlist is not None:
        manifest["shortlist"] = {
            "dim": index.shortlist.dim,
            "parameters": index.shortlist.parameters.to_dict(),
        }
        for name, part in index.shortlist.tensors().items():
            part = np.frombuffer(part[0], np.uint8) if part.dtype == object else part
            np.save(os.path.join(folder, f"scann_{name}.npy"), part, allow_pickle=False)
    with open(os.path.join(folder, _MANIFEST), "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2)


def load_index(cls, directory, memory_map):
    """See `NestedIndex.load`; `cls` is the class to make."""
    directory = os.fspath(directory)
    manifest = _read_manifest(directory)
    dtype = storage_dtype(manifest["storage"])

    def read(name, mapped=False):
        path = os.path.join(directory, name)
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)

    blocks = [
        read(_block_name(place), memory_map).view(dtype)
        for place in range(len(manifest["nesting_dims"]))
    ]
    return cls(
        manifest["nesting_dims"],
        blocks,
        read("inverse_norms.npy"),
        read("ids.npy"),
        manifest["metric"],
        _read_shortlist(manifest, read),
    )


def _read_shortlist(manifest, read):
    saved = manifest["shortlist"]
    if saved is None:
        return None
    from mrl_keras.retrieval.scann import shortlist as scann_index

    tensors = {name: read(f"scann_{name}.npy") for name in scann_index.TENSOR_NAMES}
    for name, dtype in scann_index.TENSOR_DTYPES.items():
        if dtype == "string":
            tensors[name] = np.array([tensors[name].tobytes()], dtype=object)
    parameters = scann_index.ScannParameters(**saved["parameters"])
    return scann_index.ScannShortlist.from_tensors(
        tensors, parameters, manifest["rows"], saved["dim"]
    )


def _read_manifest(directory):
    path = os.path.join(directory, _MANIFEST)
    if not os.path.exists(path):
        raise ValueError(
            f"{directory} must be a folder that `NestedIndex.save` wrote; it has no {_MANIFEST}."
        )
    return read_manifest(path, "an index", FORMAT_VERSION, "Build the index again.")


def _block_name(place):
    return f"block_{place:02d}.npy"
