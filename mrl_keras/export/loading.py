"""Loading an exported model into Python, with its libraries checked first."""

from __future__ import annotations

import importlib.metadata

import tensorflow as tf

from mrl_keras.export.custom_ops import OP_LIBRARIES
from mrl_keras.export.manifest import load_manifest
from mrl_keras.export.versions import version_directory
from mrl_keras.files import remote_errors

# Ops are tied to the minor version of the library that defines them; a patch may differ.
_CHECKED = ("tensorflow", *(library.name for library in OP_LIBRARIES.values()))


def load(path: str, check_versions: bool = True):
    """Loads a model that `export_saved_model` wrote, with the custom ops it needs.

    In a process without this package, do the same with
    `from scann.scann_ops.py import scann_ops` where the manifest's `custom_ops` names Scann,
    `import tensorflow_text` where it names TFText, then `tf.saved_model.load(path)`.

    Args:
        path: a version's folder NAME/VERSION, or NAME for its highest version; local or remote.
        check_versions: bool, whether the installed TensorFlow, ScaNN and tensorflow-text must
            have the minor versions that the manifest names. Defaults to `True`.

    Returns:
        The loaded object; `loaded.signatures["retrieve"](inputs)` answers a batch. A signature
        with several inputs takes them by name. It needs all of them: only a server fills in
        defaults.

    Raises:
        ValueError: no such model, one with missing or damaged files, or a library of another
            version.
        OSError: a remote folder that can't be read, or vanishes.
        ImportError: the model needs the ops of ScaNN or tensorflow-text and they are not
            installed.

    Example:

    >>> model = load("saved_models/digits")                              # doctest: +SKIP
    >>> model.signatures["retrieve_embeddings"](embeddings)["ids"]       # doctest: +SKIP
    """
    directory, manifest = version_directory(path), load_manifest(path)
    if check_versions:
        _check_versions(manifest)
    for package, library in OP_LIBRARIES.items():
        if package in manifest["custom_ops"]:
            library.import_ops(manifest["name"])
    try:
        with remote_errors(directory):
            return tf.saved_model.load(directory)
    except PermissionError:
        raise
    except (OSError, tf.errors.OpError) as error:
        if "not registered" in str(error):  # an op of a library that is not known here
            raise
        raise ValueError(
            f"The files of {directory} must be those of one whole export. One is missing or "
            f"damaged: {str(error).splitlines()[0][:300]} Copy or export the model again."
        ) from error


def _check_versions(manifest):
    for name in _CHECKED:
        made_with = manifest["libraries"].get(name)
        if made_with is None:
            continue
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if _minor(installed) != _minor(made_with):
            raise ValueError(
                f"The model {manifest['name']!r} was made with {name} {made_with}, and {installed} "
                f"is installed. Install {name}~={made_with}, export again, or pass "
                "check_versions=False to try it."
            )


def _minor(version):
    return version.split(".")[:2]
