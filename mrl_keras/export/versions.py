"""The NAME/VERSION/ folders that a server reads, and the models.config that lists them."""

from __future__ import annotations

from collections.abc import Mapping

from mrl_keras.checks import whole_number
from mrl_keras.files import (
    absolute_path,
    as_path,
    check_complete,
    directory_is_complete,
    exists,
    is_remote,
    join,
    list_names,
    write_text,
)

MODEL_FILE = "saved_model.pb"


def model_versions(directory: str) -> tuple[int, ...]:
    """The versions under `directory`, ascending: every child whose name is an integer.

    TF Serving reads the folder the same way, so it passes over a child such as `.tmp-3`. A version
    in a remote folder whose upload was interrupted is left out.
    """
    return tuple(sorted(_version_names(directory)))


def _version_names(directory):
    """{version: the name of its child}; of "2" and "02", the shorter one."""
    names = [name for name in list_names(directory) if name.isascii() and name.isdecimal()]
    if is_remote(directory):
        names = [name for name in names if directory_is_complete(join(directory, name))]
    return {int(name): name for name in sorted(names, key=len, reverse=True)}


def version_to_write(directories: list[str], version: int | None) -> int:
    """`version` itself, or one above the highest of all `directories`.

    Raises:
        ValueError: `version` is below 1, or one of the folders has it.
    """
    taken = {number: path for path in directories for number in model_versions(path)}
    if version is None:
        return max(taken, default=0) + 1
    version = whole_number(version, "`version`")
    if version in taken:
        raise ValueError(
            f"Version {version} exists in {taken[version]}, and a version is never overwritten. "
            f"Leave `version` out for the next one, {max(taken) + 1}."
        )
    return version


def version_directory(path: str) -> str:
    """`path` where it holds a SavedModel itself, else the folder of its highest version.

    Raises:
        ValueError: there is no SavedModel, or a remote one whose upload was interrupted.
        OSError: a remote folder that can't be read.
    """
    path = as_path(path, "The model's folder")
    if exists(join(path, MODEL_FILE)):
        check_complete(path)
        return path
    names = _version_names(path)
    if not names:
        raise ValueError(
            f"{path} must be a SavedModel's folder NAME/VERSION, or a folder NAME of versions. "
            f"It has neither {MODEL_FILE} nor a child whose name is an integer."
        )
    return join(path, names[max(names)])


def models_config(
    directory: str,
    base_path: str | None = None,
    labels: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
    """The text of TF Serving's `--model_config_file` for every model under `directory`.

    Args:
        directory: folder that holds NAME/VERSION/ folders; names without a version are left out.
        base_path: the same folder as the server sees it, such as "/models". Defaults to the
            absolute path of `directory`, or its URL.
        labels: optional mapping from model names to {label: version}, such as
            `{"digits": {"stable": 3, "canary": 4}}`. A labelled model serves the versions that
            its labels name, since TF Serving labels only versions it serves; any other model
            serves its latest version.

    Returns:
        A `ModelServerConfig` in protocol buffer text format.

    Raises:
        ValueError: no model under `directory`, or a label for a model or version that is not
            there.

    Example:

    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> os.makedirs(os.path.join(folder, "digits", "1"))
    >>> print(models_config(folder, base_path="/models"))
    model_config_list {
      config {
        name: "digits"
        base_path: "/models/digits"
        model_platform: "tensorflow"
        model_version_policy { latest { num_versions: 1 } }
      }
    }
    <BLANKLINE>
    """
    directory = absolute_path(directory, "`directory`")
    labels = dict(labels or {})
    found = {name: model_versions(join(directory, name)) for name in list_names(directory)}
    found = {name: versions for name, versions in found.items() if versions}
    if not found:
        raise ValueError(f"{directory} must hold NAME/VERSION/ folders. It has none.")
    _check_labels(labels, found)
    base = directory if base_path is None else base_path.rstrip("/")
    lines = ["model_config_list {"]
    for name in found:
        lines += ["  config {", f'    name: "{name}"', f'    base_path: "{base}/{name}"']
        lines += ['    model_platform: "tensorflow"', f"    {_policy(labels.get(name))}"]
        for label, version in labels.get(name, {}).items():
            lines.append(f'    version_labels {{ key: "{label}" value: {version} }}')
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def write_models_config(
    directory: str,
    base_path: str | None = None,
    labels: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
    """Writes `models_config(...)` to `directory`/models.config, atomically.

    Args:
        directory, base_path, labels: as for `models_config`.

    Returns:
        The path of the file.

    Raises:
        ValueError: as `models_config`.

    Example:

    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> os.makedirs(os.path.join(folder, "digits", "1"))
    >>> os.path.basename(write_models_config(folder, base_path="/models"))
    'models.config'
    """
    text = models_config(directory, base_path, labels)
    path = join(directory, "models.config")
    write_text(path, text)
    return path


def _check_labels(labels, found):
    for name, wanted in labels.items():
        missing = sorted(set(wanted.values()) - set(found.get(name, ())))
        if missing or name not in found:
            raise ValueError(
                f"Labels must name versions that exist. {name!r} has the versions "
                f"{list(found.get(name, ()))}. Received {dict(wanted)}."
            )


def _policy(labels):
    if not labels:
        return "model_version_policy { latest { num_versions: 1 } }"
    versions = " ".join(f"versions: {version}" for version in sorted(set(labels.values())))
    return f"model_version_policy {{ specific {{ {versions} }} }}"
