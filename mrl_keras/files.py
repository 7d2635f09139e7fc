"""Files and folders, local or remote: whatever reads or writes a run goes through here.

A remote path is a URL of a scheme that `tf.io.gfile` knows, such as "gs://bucket/runs/a". Writing
is atomic. Locally: a temporary name beside the target, then one rename. Remotely: a temporary local
file or folder, then one upload for each object; an object appears whole by itself, and a folder
gets the object `.complete` last, without which readers pass over it. One process at a time writes
a folder. TensorFlow is imported for remote paths only.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping

MARKER = ".complete"
"""The object that a remote folder gets last."""

_UPLOADING = ".uploading"  # the object that it gets first, and loses last
_RENAMING = {"ram", "hdfs", "viewfs"}  # schemes whose files are seen while they are written

# "scheme://...", or "scheme:/..." as pathlib shortens it. One letter is a drive, not a scheme.
_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/(/?)")


def as_path(path, what: str = "A path") -> str:
    """`path` as a str: of the local file system, or a URL of a scheme that gfile knows.

    Args:
        path: str, bytes or path-like.
        what: str that names the path in the error. Default "A path".

    Raises:
        ValueError: a URL that `pathlib.Path` shortened to "gs:/bucket/model", of the local file
            system ("file://"), or of a scheme that `tf.io.gfile` does not know.

    >>> as_path("runs/digits"), as_path("gs://bucket/runs/")
    ('runs/digits', 'gs://bucket/runs')
    """
    shown = _shown(path)
    found = _URL.match(shown)
    if not found:
        return shown
    scheme, rest = found[1], shown[found.end() :]
    if scheme.lower() == "file":
        wanted, advice = "without a scheme", f"Give the plain path, {'/' + rest.lstrip('/')!r}."
    elif not found[2]:
        wanted = "a whole URL"
        advice = f"`pathlib` shortens URLs: give the str {f'{scheme}://{rest}'!r}."
    elif scheme not in _schemes(scheme) or shown[0].isspace():
        wanted = "of a file system that TensorFlow knows"
        advice = (
            f"It knows {', '.join(f'{one}://' for one in _schemes(scheme))}; see tensorflow-io."
        )
    else:
        return shown.rstrip("/") if rest.strip("/") else shown
    raise ValueError(f"{what} must be {wanted}. Received {shown!r}. {advice}")


def is_remote(path) -> bool:
    """Whether `path` is a URL.

    Raises:
        ValueError: as `as_path`.

    >>> is_remote("runs/digits"), is_remote("gs://bucket/runs/digits")
    (False, True)
    """
    return bool(_URL.match(as_path(path)))


def local_path(path, what: str = "A path") -> str:
    """`path` as a str of the local file system; URLs are refused.

    For what needs a real file: libraries that open files themselves, memory maps that are written.

    Args:
        path: str, bytes or path-like.
        what: str that names the path in the error. Default "A path".

    Raises:
        ValueError: a URL, such as "gs://bucket/model", also where `pathlib.Path` shortened it to
            "gs:/bucket/model".

    >>> local_path("runs/digits")
    'runs/digits'
    """
    shown = _shown(path)
    found = _URL.match(shown)
    if not found or found[1].lower() == "file":
        return as_path(shown, what)
    raise ValueError(
        f"{what} must be of the local file system. Received the URL {shown!r}. Give a "
        "local path, and copy or mount what is elsewhere."
    )


def absolute_path(path, what: str = "A path") -> str:
    """`as_path`, where a local path becomes absolute."""
    path = as_path(path, what)
    return path if is_remote(path) else os.path.abspath(path)


def join(folder, *names: str) -> str:
    """The path of `names` in `folder`, local or remote.

    >>> join("gs://bucket/runs", "a", "config.json")
    'gs://bucket/runs/a/config.json'
    """
    return os.path.join(as_path(folder), *names)


@contextlib.contextmanager
def remote_errors(path) -> Iterator[None]:
    """Turns TensorFlow's errors into an OSError of one line that names `path`, if it is remote.

    Raises:
        PermissionError: no right to read or write there.
        FileNotFoundError: nothing is there, or it vanished.
        OSError: whatever else a file system reports.
    """
    if not is_remote(path):
        yield
        return
    errors = _tensorflow().errors
    try:
        yield
    except (errors.PermissionDeniedError, errors.UnauthenticatedError) as error:
        raise PermissionError(
            f"{path}: permission denied{_said(error)}. Log in as an account that may read and "
            "write there (gs://: `gcloud auth application-default login`), or name another folder."
        ) from error
    except errors.NotFoundError as error:
        raise FileNotFoundError(
            f"{path} does not exist, or vanished while it was used{_said(error)}. Check its name "
            "and whether something removes it, and start again."
        ) from error
    except errors.OpError as error:
        raise OSError(
            f"{path} can't be read or written: {type(error).__name__}{_said(error)}. Check the "
            "name and the network, and start again."
        ) from error


def exists(path) -> bool:
    """Whether there is a file or folder.

    Raises:
        OSError: a remote file system that does not answer.
    """
    path = as_path(path)
    if not is_remote(path):
        return os.path.exists(path)
    with remote_errors(path):
        return _gfile().exists(path)


def is_directory(path) -> bool:
    """Whether there is a folder, finished or not.

    Raises:
        OSError: a remote file system that does not answer.
    """
    path = as_path(path)
    if not is_remote(path):
        return os.path.isdir(path)
    try:
        with remote_errors(path):  # gfile.isdir would hide errors: no permission is no "no"
            return _gfile().stat(path).is_directory
    except FileNotFoundError:
        return False


def directory_is_complete(path) -> bool:
    """Whether there is a folder that `atomic_directory` finished: remotely, one with the marker."""
    return exists(join(path, MARKER)) if is_remote(path) else is_directory(path)


def check_complete(path) -> None:
    """Refuses a remote folder that `atomic_directory` did not finish.

    Raises:
        ValueError: it has no marker.
    """
    if not directory_is_complete(path):
        raise ValueError(
            f"{path} is no whole folder: its upload was interrupted, or it was copied without its "
            f"{MARKER}. Write it again; where all its files are there, add an empty {MARKER}."
        )


def list_names(folder) -> list[str]:
    """The names in a folder, sorted; none where there is no folder.

    Raises:
        OSError: a remote file system that does not answer.
    """
    folder = as_path(folder)
    if not is_directory(folder):
        return []
    if not is_remote(folder):
        return sorted(os.listdir(folder))
    with remote_errors(folder):
        return sorted({name.rstrip("/") for name in _gfile().listdir(folder)} - {""})


def remove(path) -> None:
    """Removes a file, or a folder with all that it holds; nothing where it is missing."""
    path = as_path(path)
    with contextlib.suppress(FileNotFoundError):
        if not is_remote(path):
            shutil.rmtree(path) if is_directory(path) else os.remove(path)
        elif is_directory(path):
            remove(join(path, MARKER))  # first: what is half removed is not read
            with remote_errors(path):
                _gfile().rmtree(path)
        else:
            with remote_errors(path):
                _gfile().remove(path)


@contextlib.contextmanager
def local_copy(path, verbose: bool = True) -> Iterator[str]:
    """Yields a local path with what `path` holds, for memory maps and libraries that open files.

    A local path is yielded as it is. A remote file or folder is copied into a temporary folder,
    which is removed at the end; memory maps that are open then stay whole.

    Args:
        path: str, bytes or path-like, of a file or a folder.
        verbose: bool, whether a line says what is copied. Default True.

    Raises:
        FileNotFoundError: nothing at a remote path, or it vanished while it was copied.
    """
    path = as_path(path)
    if not is_remote(path):
        yield path
        return
    if verbose:
        print(f"Copying {path} into a temporary local folder first", flush=True)
    with tempfile.TemporaryDirectory(prefix="mrl_keras-") as folder:
        target = os.path.join(folder, os.path.basename(path))
        with remote_errors(path):
            _download(path, target)
        yield target


@contextlib.contextmanager
def open_file(path, mode: str = "r") -> Iterator:
    """Opens a file for reading, text as UTF-8; a remote one is read from a temporary copy.

    Args:
        path: str, bytes or path-like.
        mode: "r" for text or "rb" for bytes. Default "r".

    Raises:
        ValueError: another mode; files are written by `atomic_file`.
        FileNotFoundError: no file.
    """
    if mode not in ("r", "rb"):
        raise ValueError(f'`mode` must be "r" or "rb": `atomic_file` writes. Received {mode!r}.')
    encoding = "utf-8" if mode == "r" else None
    with local_copy(path, verbose=False) as local, open(local, mode, encoding=encoding) as file:
        yield file


@contextlib.contextmanager
def atomic_file(path) -> Iterator[str]:
    """Yields a temporary local path: it replaces `path` on success, else it is removed.

    The temporary name keeps the ending, which tells some writers the format. Missing folders are
    made. The temporary file is beside a local `path`; for a remote one it is in the folder for
    temporary files (the environment variable TMPDIR), and is uploaded as one object at the end;
    hdfs:// and ram:// show objects while they are written, so there it is renamed too.

    Raises:
        ValueError: as `as_path`.
        OSError: a remote file system that does not take the file.

    >>> folder = tempfile.mkdtemp()
    >>> with atomic_file(os.path.join(folder, "page.md")) as path, open(path, "w") as file:
    ...     _ = file.write("whole")
    >>> os.listdir(folder)
    ['page.md']
    """
    path = absolute_path(path)
    folder, name = os.path.split(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="mrl_keras-") as around:
            temporary = os.path.join(around, f"new-{name}")
            yield temporary
            _upload(temporary, path)
        return
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
    """Yields a temporary local folder: it becomes `path` on success, else it is removed.

    It is beside a local `path`. For a remote one its files are uploaded at the end, those of
    subfolders first, then the marker. Remains of an upload that was interrupted are removed first.

    Raises:
        ValueError: `path` exists, nothing is ever overwritten; or as `as_path`.
        OSError: a remote file system that does not take the files.
    """
    path = absolute_path(path)
    _check_absent(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="mrl_keras-") as temporary:
            yield temporary
            _check_absent(path)
            _upload_directory(temporary, path)
        return
    parent, name = os.path.split(path)
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


def read_text(path) -> str:
    """The UTF-8 text of a file.

    Raises:
        FileNotFoundError: no file.
    """
    with open_file(path) as file:
        return file.read()


def read_json(path):
    """What a JSON file holds.

    Raises:
        FileNotFoundError: no file.
        ValueError: the file holds no JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(
            f"{path} must hold JSON. It is damaged or another file: {error}. Write it again."
        ) from error


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
    try:
        manifest = json.loads(read_text(path))
    except ValueError:
        manifest = None
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    if found != format_version or needs not in manifest:
        raise ValueError(
            f"{path} must be the manifest of {of} with format version {format_version}. "
            f"Received version {found!r}. {advice}"
        )
    return manifest


def _shown(path):
    # str() first: the path-likes of some libraries download a file when asked for its local path.
    shown = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    return shown if _URL.match(shown) else os.fsdecode(path)


def _check_absent(path):
    if is_remote(path):
        names = list_names(path) if is_directory(path) else [path] * exists(path)
        names = [name for name in names if not name.startswith(".tmp-")]
        there = names and (MARKER in names or _UPLOADING not in names)
    else:
        there = os.path.lexists(path)
    if there:
        raise ValueError(
            f"{path} exists, and nothing is ever overwritten. Choose another name or remove it."
        )


def _upload(source, path):
    with remote_errors(path):
        folder, name = os.path.split(path)
        _gfile().makedirs(folder)
        if path.partition(":")[0] in _RENAMING:
            beside = join(folder, f".tmp-{uuid.uuid4().hex[:8]}-{name}")
            _gfile().copy(source, beside)
            _gfile().rename(beside, path, overwrite=True)
        else:
            _gfile().copy(source, path, overwrite=True)


def _upload_directory(source, path):
    _remove_remains(path)
    try:
        write_text(join(path, _UPLOADING), "started\n")
        # Subfolders first: a server that looks for saved_model.pb finds it once all else is there.
        for folder, _, names in os.walk(source, topdown=False):
            for name in sorted(names):
                within = os.path.relpath(os.path.join(folder, name), source)
                _upload(os.path.join(folder, name), join(path, within))
        write_text(join(path, MARKER), "whole\n")
    except BaseException:
        with contextlib.suppress(OSError):
            _remove_remains(path)
        raise
    with contextlib.suppress(OSError):  # it is whole, whether or not this one stays
        remove(join(path, _UPLOADING))


def _remove_remains(path):
    for name in list_names(path):
        if name != _UPLOADING:
            remove(join(path, name))
    remove(path)


def _download(path, target):
    if not is_directory(path):
        _gfile().copy(path, target)
        changed = _gfile().stat(path).mtime_nsec
        os.utime(target, ns=(changed, changed))  # a copy of the same file is the same file
        return
    os.mkdir(target)
    for name in list_names(path):
        _download(join(path, name), os.path.join(target, name))


def _said(error):
    """What a TensorFlow error says, in brackets and one line."""
    said = " ".join(str(error.message).split())[:200]
    return f" ({said})" if said else ""


def _schemes(wanted):
    """The schemes that gfile knows; tensorflow-io, where it is installed, adds some."""
    gfile = _gfile()
    if wanted not in gfile.get_registered_schemes():
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorflow_io")
    return sorted(set(gfile.get_registered_schemes()) - {"", "file"})


def _gfile():
    return _tensorflow().io.gfile


def _tensorflow():
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(
            "Remote folders need TensorFlow, which is not installed. Install it with: "
            "pip install tensorflow"
        ) from error
    return tensorflow
