"""assets.extra/manifest.json, the description of an exported model."""

from __future__ import annotations

import importlib.metadata
import json
import platform

from mrl_keras.export.custom_ops import OP_LIBRARIES
from mrl_keras.export.versions import MODEL_FILE, version_directory
from mrl_keras.files import exists, join, read_manifest, write_text
from mrl_keras.version import __version__

FORMAT_VERSION = 1
EXTRA = "assets.extra"
MANIFEST = "manifest.json"


def library_versions(custom_ops) -> dict[str, str]:
    """The versions of Python and of the packages that made the model, by their names for pip."""
    versions = {"python": platform.python_version(), "mrl_keras": __version__}
    names = ["tensorflow", "keras", "numpy"]
    names += [OP_LIBRARIES[package].name for package in custom_ops if package in OP_LIBRARIES]
    return versions | {name: importlib.metadata.version(name) for name in names}


def describe_index(index, search, bounds) -> dict:
    """The manifest's part on nested retrieval: the index, and what its `NestedSearch` does."""
    plan, shortlist = search.plan, None
    if search.finder.kind != "exact":
        shortlist = {"dim": index.shortlist.dim, **index.shortlist.parameters.to_dict()}
    return {
        "rows": len(index),
        "width": index.width,
        "nesting_dims": list(index.nesting_dims),
        "metric": index.metric,
        "normalization": "l2 of each prefix" if index.metric == "cosine" else None,
        "storage": index.storage,
        "id_dtype": "string" if index.ids.dtype.kind == "U" else "int64",
        "shortlist": {"kind": search.finder.kind, "parameters": shortlist},
        "plan": {
            "dims": list(plan.dims),
            "sizes": list(plan.sizes),
            "k": plan.k,
            "leaves": search.default_leaves,
            "certified": plan.certified,
        },
        "bounds": {"k": bounds[0], "shortlist": bounds[1], "leaves": search.num_leaves},
    }


def write_manifest(directory: str, content: dict) -> None:
    """Writes `content` into the SavedModel folder `directory`.

    Raises:
        ValueError: a value that JSON does not hold, such as NaN.
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The manifest must hold finite numbers, strings, lists and dicts only: {error}."
        ) from error
    write_text(join(directory, EXTRA, MANIFEST), text + "\n")


def plain_numbers(values):
    """`values` for JSON: NumPy numbers become Python's, and dict keys strings."""
    if isinstance(values, dict):
        return {str(key): plain_numbers(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [plain_numbers(value) for value in values]
    return values.item() if hasattr(values, "item") else values


def load_manifest(path: str) -> dict:
    """The manifest of an exported model.

    Args:
        path: a version's folder NAME/VERSION, or NAME for its highest version; local or remote.

    Returns:
        A dict: `name`, `version`, `twin_of`, `is_matryoshka` (always true),
        `matryoshka_dimensions`, `nesting_dims`, `width`, `normalization`, `metrics` (by prefix),
        `encoders` (names of the signatures of further encoders),
        `cascade` (`None` without one), `custom_ops` ("Scann" for ScaNN's, "TFText" for
        tensorflow-text's, which a server must link), `signatures`,
        `retrieval` (`None` without an index), `retrievals` (further ones by name), `about` (how it
        was made: what `ServingOptions.about` said), `libraries`.

    Raises:
        ValueError: there is no SavedModel, or it has no manifest of this format.
    """
    return manifest_of(version_directory(path))


def manifest_of(directory: str) -> dict:
    """The manifest of a version's folder, as `load_manifest`."""
    if not exists(join(directory, MODEL_FILE)):
        raise ValueError(
            f"{directory} must be a whole SavedModel. It has no {MODEL_FILE}: copy or export it "
            "again, or name the folder of another version."
        )
    file_name = join(directory, EXTRA, MANIFEST)
    if not exists(file_name):
        raise ValueError(
            f"{directory} must be a model that `export_saved_model` wrote. It has no "
            f"{EXTRA}/{MANIFEST}; "
            "where it had one, copy it again with all its files."
        )
    advice = "Read it with the version of mrl_keras that wrote it."
    return read_manifest(file_name, "an exported model", FORMAT_VERSION, advice)
