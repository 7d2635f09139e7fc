"""Loading an exported model into Python, with its libraries checked first."""

from __future__ import annotations

import importlib.metadata

import tensorflow as tf

from mrl_keras.export.manifest import CUSTOM_OPS, load_manifest
from mrl_keras.export.versions import version_directory

# Ops are tied to the minor version of the library that defines them; a patch may differ.
_CHECKED = ("tensorflow", *CUSTOM_OPS.values())


def load(path: str, check_versions: bool = True):
    """Loads a model that `export_saved_model` wrote, with the custom ops it needs.

    In a process without this package, the same is: `from scann.scann_ops.py import scann_ops`
    where the manifest's `custom_ops` names Scann, `import tensorflow_text` where it names TFText,
    then `tf.saved_model.load(path)`.

    Args:
        path: a version's folder NAME/VERSION, or NAME for its highest version.
        check_versions: bool, whether the installed TensorFlow, ScaNN and tensorflow-text must
            have the minor versions that the manifest names. Defaults to `True`.

    Returns:
        The loaded object; `loaded.signatures["retrieve"](inputs)` answers a batch. A signature
        takes its inputs by name where it has several, and all of them: this way of loading does
        not fill in the defaults that a server fills in.

    Raises:
        ValueError: no such model, or a library of another version.
        ImportError: the model needs the ops of ScaNN or tensorflow-text and they are not
            installed.

    Example:

    >>> model = load("saved_models/digits")                              # doctest: +SKIP
    >>> model.signatures["retrieve_embeddings"](embeddings)["ids"]       # doctest: +SKIP
    """
    directory, manifest = version_directory(path), load_manifest(path)
    if check_versions:
        _check_versions(manifest)
    if "Scann" in manifest["custom_ops"]:
        _import_scann_ops(manifest)
    if "TFText" in manifest["custom_ops"]:
        _import_text_ops(manifest)
    return tf.saved_model.load(directory)


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


def _import_scann_ops(manifest):
    try:
        from scann.scann_ops.py import scann_ops  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"The model {manifest['name']!r} searches with ScaNN's ops, which are not installed. "
            'Install them with: pip install "mrl_keras[retrieval]". A twin that was exported with '
            "`twin=True` needs no such ops."
        ) from error


def _import_text_ops(manifest):
    try:
        import tensorflow_text  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"The model {manifest['name']!r} reads text with tensorflow-text's ops, which are not "
            'installed. Install them with: pip install "mrl_keras[models]".'
        ) from error
