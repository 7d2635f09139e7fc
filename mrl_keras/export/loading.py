"""Loading an exported model into Python, with its libraries checked first."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from mrl_keras.checks import whole_number
from mrl_keras.export.custom_ops import OP_LIBRARIES
from mrl_keras.export.manifest import manifest_of
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
        tf.errors.ResourceExhaustedError: more memory is needed than there is.

    Example:

    >>> model = load("saved_models/digits")                              # doctest: +SKIP
    >>> model.signatures["retrieve_embeddings"](embeddings)["ids"]       # doctest: +SKIP
    """
    directory = _prepared(path, check_versions)
    with _whole_export(directory):
        return tf.saved_model.load(directory)


class SessionModel:
    """An exported model from NumPy to NumPy, with the least work beside its own.

    What `load` gives makes a tensor of every array and hands ops to a pool of threads. Waking a
    thread takes longer than all the ops of one query: one query, or a few, are answered here on
    the thread that asks. Larger batches get the pool, where their ops run side by side. Threads may
    share a `SessionModel`. The first call of a signature, in each of the two ways, prepares it.

    In TF Serving the environment variable TF_NUM_INTEROP_THREADS=-1 answers all requests on the
    thread that asks.

    Args:
        path, check_versions: as for `load`.
        inline_rows: int, up to how many rows of an input are answered on the thread that asks.
            Defaults to 32, where both take as long; 0 gives the pool everything.

    Attributes:
        signatures: dict from names to {name of an input: (dtype, shape)}.

    Raises:
        ValueError: as `load`, or `inline_rows` below 0.
        OSError, ImportError, tf.errors.ResourceExhaustedError: as `load`.

    Example:

    >>> with SessionModel("saved_models/digits") as model:               # doctest: +SKIP
    ...     model("retrieve_embeddings", embedding=query[None])["ids"]
    """

    def __init__(self, path: str, check_versions: bool = True, inline_rows: int = 32):
        inline_rows = whole_number(inline_rows, "`inline_rows`", least=0)
        directory = _prepared(path, check_versions)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with contextlib.ExitStack() as unless_loaded:
            unless_loaded.callback(self._session.close)
            with _whole_export(directory), self._session.graph.as_default():
                loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], directory)
            unless_loaded.pop_all()
        self._calls = {
            name: _Call(self._session, name, signature, inline_rows)
            for name, signature in loaded.signature_def.items()
            if not name.startswith("__")
        }
        self.signatures = {name: dict(call.inputs) for name, call in self._calls.items()}

    def __call__(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        """The outputs of a signature.

        Args:
            signature: str, a name in `signatures`.
            inputs: arrays, or what NumPy makes arrays of, by name. An optional one that is left out
                has its default.

        Raises:
            ValueError: an unknown signature, a missing, unknown or misshaped input, or a closed
                model.
        """
        call = self._calls.get(signature)
        if call is None:
            known = ", ".join(self._calls) or "none: the model is closed"
            raise ValueError(f"`signature` must be one of {known}. Received {signature!r}.")
        return call(inputs)

    def close(self):
        """Frees the model's memory."""
        self._calls = {}
        self._session.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class _Call:
    """One signature of a session, and its inputs {name: (dtype, shape)}."""

    def __init__(self, session, name, signature, inline_rows):
        self._session, self._name, self._outputs = session, name, list(signature.outputs)
        self._inline_rows = inline_rows
        self.inputs = {
            one: (tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape))
            for one, info in signature.inputs.items()
        }
        # Asking a DType or a TensorShape takes microseconds, which one query feels.
        self._wanted = {
            one: (np.dtype(dtype.as_numpy_dtype), None if shape.rank is None else tuple(shape))
            for one, (dtype, shape) in self.inputs.items()
        }
        self._defaults = {one: tf.make_ndarray(p) for one, p in signature.defaults.items()}
        self._feed = [info.name for info in signature.inputs.values()]
        self._fetch = [info.name for info in signature.outputs.values()]

    def __call__(self, given):
        if given.keys() != self.inputs.keys():
            given = self._complete(given)
        values = [self._array(name, given[name]) for name in self.inputs]
        rows = max((len(value) for value in values if value.ndim), default=1)
        run = self._run_inline if rows <= self._inline_rows else self._run_in_pool
        return dict(zip(self._outputs, run(*values), strict=True))

    # The session prepares its graph for each of these, which takes time and memory: when asked.

    @functools.cached_property
    def _run_in_pool(self):
        return self._callable(pool=0)

    @functools.cached_property
    def _run_inline(self):
        return self._callable(pool=-1)

    def _callable(self, pool):
        options = config_pb2.CallableOptions(feed=self._feed, fetch=self._fetch)
        options.run_options.inter_op_thread_pool = pool
        # The public make_callable goes through Session.run, which takes twice as long.
        return self._session._make_callable_from_options(options)

    def _complete(self, given):
        given = {**self._defaults, **given}
        if given.keys() != self.inputs.keys():
            wanted, received = ", ".join(self.inputs), ", ".join(given) or "none"
            raise ValueError(f"{self._name} takes {wanted}. Received {received}.")
        return given

    def _array(self, name, value):
        known, shape = self._wanted[name]
        array = np.asarray(value)
        if array.dtype != known:
            dtype = self.inputs[name][0]
            text = dtype == tf.string
            fits = (
                array.dtype.kind in "US" if text else np.can_cast(array.dtype, known, "same_kind")
            )
            if not fits:
                raise ValueError(
                    f"`{name}` of {self._name} must be {dtype.name}. Received {array.dtype}."
                )
            array = _cast(array, known)
        if shape is not None and not _fits(array.shape, shape):
            raise ValueError(
                f"`{name}` of {self._name} must have the shape {self.inputs[name][1]}. Received "
                f"{array.shape}."
            )
        return array


def _cast(array, dtype):
    """`array` in another dtype of its kind; whole numbers out of range become the nearest one."""
    if dtype.kind in "iu" and array.dtype.kind in "iu":
        to, own = np.iinfo(dtype), np.iinfo(array.dtype)
        array = np.clip(array, max(to.min, own.min), min(to.max, own.max))
    with np.errstate(over="ignore"):  # inf, as the search takes what is no number
        return array.astype(dtype)


def _fits(shape, wanted):
    """Whether a shape is a wanted one, whose open axes are `None`."""
    return len(shape) == len(wanted) and all(
        size in (one, None) for one, size in zip(shape, wanted, strict=True)
    )


def _prepared(path, check_versions):
    """The folder of a version, once its libraries are checked and its custom ops are there."""
    directory = version_directory(path)
    manifest = manifest_of(directory)
    if check_versions:
        _check_versions(manifest)
    for package, library in OP_LIBRARIES.items():
        if package in manifest["custom_ops"]:
            library.import_ops(manifest["name"])
    return directory


@contextlib.contextmanager
def _whole_export(directory):
    """Within it, what TensorFlow says of missing or damaged files of a model is a `ValueError`."""
    try:
        with remote_errors(directory):
            yield
    except (PermissionError, tf.errors.ResourceExhaustedError):  # no memory is no damage
        raise
    except (OSError, ValueError, tf.errors.OpError) as error:
        if "not registered" in str(error):  # an op of a library that is not known here
            raise
        raise ValueError(
            f"The files of {directory} must be those of one whole export. One is missing or "
            f"damaged: {(str(error) or type(error).__name__).splitlines()[0][:300]} Copy or export "
            "the model again."
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
