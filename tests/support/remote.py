"""Remote folders of the tests: `ram://`, which lives in one process, and failures of its writes."""

import itertools

import tensorflow as tf

_NUMBERS = itertools.count()
WRITES = "copy", "makedirs", "remove", "rmtree", "rename"


def new_folder():
    """The URL of a folder that nothing else uses."""
    folder = f"ram://tests-{next(_NUMBERS)}"
    tf.io.gfile.makedirs(folder)
    return folder


def tree(folder):
    """{name within the folder: bytes} of all files."""
    found = {}
    for name in tf.io.gfile.listdir(folder):
        path = f"{folder}/{name.rstrip('/')}"
        if tf.io.gfile.isdir(path):
            found |= {f"{name}/{key}": value for key, value in tree(path).items()}
        else:
            found[name] = tf.io.gfile.GFile(path, "rb").read()
    return found


class Stopped(BaseException):
    """What stops a write: no `except Exception` may hold it back."""


def stop_writes(monkeypatch, at, for_good, error=None):
    """Makes the write number `at` of gfile raise, from 0; `for_good`: all after it too.

    A process that is killed cleans nothing up: that is `for_good`.

    Returns:
        A list that grows by the name of each write.
    """
    calls = []

    def failing(name):
        true = getattr(tf.io.gfile, name)

        def write(*args, **kwargs):
            calls.append(name)
            if len(calls) - 1 == at or (for_good and len(calls) - 1 > at):
                raise error or Stopped(f"write {at}: {name}{args}")
            return true(*args, **kwargs)

        return write

    for name in WRITES:
        monkeypatch.setattr(tf.io.gfile, name, failing(name))
    return calls
