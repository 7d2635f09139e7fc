"""Atomic files and folders: a temporary name beside the target, then one rename.

Text, JSON and CSV are written this way; `read_manifest` checks a manifest's format version. Paths
are of the local file system: `local_path` refuses URLs.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping

# "scheme://...", or "scheme:/..." as pathlib shortens it. One letter is a drive, not a scheme.
_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/")


def local_path(path, what: str = "A path") -> str:
    """`path` as a str of the local file system; URLs are refused.

    Args:
        path: str, bytes or path-like.
        what: str that names the path in the error. Default "A path".

    Raises:
        ValueError: a URL, such as "gs://bucket/model", also where `pathlib.Path` shortened it to
            "gs:/bucket/model".

    >>> local_path("runs/digits")
    'runs/digits'
    """
    # str() first: the path-likes of some libraries download a file when asked for its local path.
    shown = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    if not _URL.match(shown):
        shown = os.fsdecode(path)
    found = _URL.match(shown)
    if not found:
        return shown
    if found[1].lower() == "file":
        advice = f"Give the plain path, {'/' + shown.partition(':')[2].lstrip('/')!r}."
    else:
        advice = "Give a local path, and copy or mount what is elsewhere."
    raise ValueError(
        f"{what} must be of the local file system: URLs are neither read nor written. Received "
        f"{shown!r}. {advice}"
    )


@contextlib.contextmanager
def atomic_file(path) -> Iterator[str]:
    """Yields a temporary path beside `path`: it replaces `path` on success, else it is removed.

    The temporary name keeps the ending, which tells some writers the format. Missing folders are
    made.

    Raises:
        ValueError: `path` is a URL.

    >>> folder = tempfile.mkdtemp()
    >>> with atomic_file(os.path.join(folder, "page.md")) as path, open(path, "w") as file:
    ...     _ = file.write("whole")
    >>> os.listdir(folder)
    ['page.md']
    """
    path = os.path.abspath(local_path(path))
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".tmp-", suffix=f"-{name}", dir=folder)
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


@contextlib.contextmanager
def atomic_directory(path) -> Iterator[str]:
    """Yields a temporary folder beside `path`: it becomes `path` on success, else it is removed.

    Raises:
        ValueError: `path` exists, nothing is ever overwritten; or it is a URL.
    """
    path = os.path.abspath(local_path(path))
    parent, name = os.path.split(path)
    _check_absent(path)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=f".tmp-{name}-", dir=parent)
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        _check_absent(path)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path, text: str) -> None:
    """Writes UTF-8 text; the file is whole or absent."""
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(path, content) -> None:
    """Writes JSON with sorted keys, indented by 2; the file is whole or absent."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_csv(path, rows: Iterable[Mapping]) -> None:
    """Writes dicts as CSV, the first one's keys as header; the file is whole or absent.

    Raises:
        ValueError: no row, or a row with other keys than the first.
    """
    rows = list(rows)
    if not rows:
        raise ValueError(f"{path} needs at least one row. Received none.")
    for row in rows:
        if row.keys() != rows[0].keys():
            raise ValueError(
                f"{path} needs the keys {list(rows[0])} in every row. Received {dict(row)}."
            )
    with atomic_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_manifest(
    path: str, of: str, format_version: int, advice: str, needs: str = "format_version"
) -> dict:
    """The JSON object in the file `path`, of the format version that this package writes.

    Args:
        path: an existing file.
        of: str, what it should be the manifest of.
        format_version: int that the object's "format_version" must be.
        advice: str, a sentence on what to do about another one; it ends the error's text.
        needs: str, a further name that the object must have. Defaults to the version's own.

    Raises:
        ValueError: the file holds no JSON object, or one of another format version.
    """
    with open(path, encoding="utf-8") as file:
        try:
            manifest = json.load(file)
        except ValueError:
            manifest = None
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    if found != format_version or needs not in manifest:
        raise ValueError(
            f"{path} must be the manifest of {of} with format version {format_version}. "
            f"Received version {found!r}. {advice}"
        )
    return manifest


def _check_absent(path):
    if os.path.lexists(path):
        raise ValueError(
            f"{path} exists, and nothing is ever overwritten. Choose another name or remove it."
        )
