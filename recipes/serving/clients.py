"""One way to ask an exported model: from its folder, or from a server by REST or gRPC.

    model = connect(model="saved_models/digit_pairs")
    model = connect(url="http://localhost:8501/v1/models/digit_pairs")
    model = connect(grpc="localhost:8500/digit_pairs")
    model.call("retrieve", images=images)["ids"]                    # (batch, k) of bytes

Imports TensorFlow and NumPy, ScaNN's or tensorflow-text's ops where a folder needs them, and
tensorflow-serving-api for gRPC (`pip install "mrl_keras[serving]"`); neither Keras nor mrl_keras.
Nothing is tried twice, and no proxy is used.
"""

from __future__ import annotations

import base64
import http.client
import importlib
import json
import os
import time
import urllib.parse
from collections.abc import Mapping

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

# {name in a manifest's `custom_ops`: (the module that registers the ops, its name for pip)}
_OP_LIBRARIES = {
    "Scann": ("scann.scann_ops.py.scann_ops", "scann[tf]"),
    "TFText": ("tensorflow_text", "tensorflow-text"),
}
_PORTS = "TF Serving's ports are 8501 for REST and 8500 for gRPC unless it was told others."


class ServingError(ValueError):
    """What a model or its server did not do, in one line.

    Args:
        text: str, the line.
        code: str, gRPC's name of the status, such as "INVALID_ARGUMENT", or HTTP's number.
        refused: bool, whether the request was refused as a wrong one; `False` for a server that
            does not answer or that failed. Defaults to `False`.
    """

    def __init__(self, text, code, refused=False):
        super().__init__(f"T{text[1:]}" if text.startswith("the ") else text)
        self.code, self.refused = code, refused


class Model:
    """What the three kinds of models share.

    Attributes:
        signatures: {signature: {"inputs": {name: (dtype, shape)}, "outputs": {name: (dtype,
            shape)}, "defaults": {name: array}}}. A dtype is NumPy's or "string"; a shape is a
            list with `None` for open axes, or `None` where even the rank is open.
    """

    def __init__(self, where, signature_defs):
        self._where = where
        self.signatures = {
            name: {
                "inputs": _tensors(signature.inputs),
                "outputs": _tensors(signature.outputs),
                "defaults": {key: tf.make_ndarray(x) for key, x in signature.defaults.items()},
            }
            for name, signature in sorted(signature_defs.items())
            if not name.startswith("__saved_model")
        }

    def __str__(self):
        return self._where

    def call(self, signature: str, **arrays) -> dict[str, np.ndarray]:
        """Asks one signature.

        Args:
            signature: its name.
            **arrays: the inputs by name, as arrays or lists; for strings `str` or `bytes`. An
                input that has a default may be left out.

        Returns:
            {output: array}; strings come as an object array of `bytes`.

        Raises:
            ValueError: the model has no such signature, or one of other inputs; a server does not
                answer, takes longer than the timeout, or answers with an error.
        """
        return self.send(signature, self._checked(signature, arrays))

    def send(self, signature: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As `call`, with arrays that are sent as they are, without a check or a default."""
        raise NotImplementedError

    def _checked(self, signature, arrays):
        """The inputs as the signature takes them, with its defaults."""
        if signature not in self.signatures:
            raise ServingError(
                f"{self} has no signature {signature!r}; it serves {', '.join(self.signatures)}. "
                "Name one of these, or the model and version that has it.",
                "NOT_FOUND",
                True,
            )
        wanted, defaults = (self.signatures[signature][part] for part in ("inputs", "defaults"))
        given = {name: as_array(value) for name, value in arrays.items()}
        checked = {}
        for name, (dtype, shape) in wanted.items():
            value = given.get(name, defaults.get(name))
            if value is None or not _fits(value, dtype, shape):
                break
            checked[name] = value.astype(object if dtype == "string" else dtype)
        if len(checked) < len(wanted) or set(given) - set(wanted):
            takes = {n: spec for n, spec in wanted.items() if n not in defaults or n in given}
            sent = {name: (_dtype_of(value), list(value.shape)) for name, value in given.items()}
            raise ServingError(
                f"The signature {signature!r} of {self} takes {_show(takes)}. Received "
                f"{_show(sent)}. Give what it takes; where you know it with other inputs, this is "
                "another model's: name the right model and version.",
                "INVALID_ARGUMENT",
                True,
            )
        return checked

    def _answered(self, signature, outputs):
        """`outputs`, if they are those that the signature had when it was asked for."""
        wanted = self.signatures.get(signature, {}).get("outputs", outputs)
        if set(outputs) != set(wanted):
            raise ServingError(
                f"{self} answered {signature!r} with {', '.join(sorted(outputs))} instead of "
                f"{', '.join(wanted)}. It serves another model or version now: connect again.",
                "FAILED_PRECONDITION",
            )
        return outputs

    def _slow(self, seconds):
        return ServingError(
            f"{self} did not answer within {seconds:g} seconds. Give a longer timeout, send fewer "
            "rows at once, or see what keeps the server busy.",
            "DEADLINE_EXCEEDED",
        )

    def _silent(self, reason):
        return ServingError(
            f"{self} does not answer: {reason}. Start the server, or repair the address. {_PORTS}",
            "UNAVAILABLE",
        )

    def _error(self, code, message, refused):
        text = " ".join(str(message).split())[:500]
        return ServingError(
            f"{self} answered with an error ({code}): {text} -- "
            + (
                "repair the request, or name the model and version that it is meant for."
                if refused
                else "the server's log says more."
            ),
            code,
            refused,
        )


class FolderModel(Model):
    """An exported model in this process.

    Args:
        path: a version's folder, or a model's folder, whose highest version is taken.

    Raises:
        ValueError: there is no whole SavedModel, or TensorFlow does not know its ops.
        ImportError: the library of its custom ops is not installed.

    >>> FolderModel("saved_models/digit_pairs").signatures["embed"]["outputs"]    # doctest: +SKIP
    {'embedding': (dtype('float32'), [None, 32])}
    """

    def __init__(self, path):
        path = version_folder(path)
        manifest = read_manifest(path)
        for package in manifest.get("custom_ops", ()):
            _import_ops(path, package)
        try:
            with open(os.path.join(path, "saved_model.pb"), "rb") as file:
                saved = saved_model_pb2.SavedModel.FromString(file.read())
            self._loaded = tf.saved_model.load(path)
        except (OSError, ValueError, DecodeError, tf.errors.OpError) as error:
            raise ServingError(
                f"{path} cannot be loaded: {' '.join(str(error).split())[:300]} -- copy or export "
                "the model again; a model of custom ops needs their library installed.",
                "DATA_LOSS",
            ) from error
        self.path, self.manifest = path, manifest
        super().__init__(f"the model in {path}", saved.meta_graphs[0].signature_def)

    def send(self, signature, arrays):
        tensors = {name: tf.constant(value) for name, value in arrays.items()}
        try:
            answer = self._loaded.signatures[signature](**tensors)
        except (tf.errors.OpError, TypeError, ValueError, KeyError) as error:
            raise self._error("INVALID_ARGUMENT", error, True) from error
        return {name: value.numpy() for name, value in answer.items()}


class RestModel(Model):
    """A model of a server, by REST.

    Args:
        url: str, `http://HOST:8501/v1/models/NAME`, for one version with `/versions/N` or
            `/labels/LABEL` after it.
        timeout: float, seconds for one answer. Defaults to 30.

    Raises:
        ValueError: the address is not of this form, or as for `call`.
    """

    def __init__(self, url: str, timeout: float = 30.0):
        parts = urllib.parse.urlsplit(url)
        self._path, self._timeout = parts.path.rstrip("/"), timeout
        if parts.scheme not in ("http", "https") or not self._path.startswith("/v1/models/"):
            raise ServingError(
                f"A REST address is http://HOST:8501/v1/models/NAME, with /versions/N or "
                f"/labels/LABEL after it where you like. Received {url!r}.",
                "INVALID_ARGUMENT",
            )
        try:
            _ = parts.port
        except ValueError as error:
            raise ServingError(
                f"The port of {url!r} must be a number: {error}. {_PORTS}", "INVALID_ARGUMENT"
            ) from error
        secure = parts.scheme == "https"
        self._connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._host, self._where = parts.netloc, f"the server at {url}"
        answer = self._ask("GET", f"{self._path}/metadata")
        try:
            found = answer["metadata"]["signature_def"]["signature_def"]
            signatures = {
                name: json_format.ParseDict(
                    value, meta_graph_pb2.SignatureDef(), ignore_unknown_fields=True
                )
                for name, value in found.items()
            }
        except (KeyError, TypeError, AttributeError, json_format.ParseError) as error:
            raise self._no_server(f"{self._path}/metadata has no signatures") from error
        super().__init__(self._where, signatures)

    def send(self, signature, arrays):
        inputs = {name: _to_json(value) for name, value in arrays.items()}
        request = {"signature_name": signature, "inputs": inputs}
        answer = self._ask("POST", f"{self._path}:predict", request)
        if "outputs" not in answer:
            raise self._no_server("the answer has no outputs")
        specs = self.signatures.get(signature, {}).get("outputs", {})
        outputs = answer["outputs"]
        if len(specs) == 1 and not (isinstance(outputs, dict) and set(outputs) == set(specs)):
            outputs = {next(iter(specs)): outputs}  # TF Serving leaves out an only output's name
        if not isinstance(outputs, dict):
            outputs = {"one output without a name": outputs}
        self._answered(signature, outputs)
        return {name: self._array(name, value, *specs[name]) for name, value in outputs.items()}

    def _array(self, name, value, dtype, shape):
        try:
            return _from_json(value, dtype, shape)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise self._no_server(f"it answered an output {name} that is no {dtype}") from error

    def _checked(self, signature, arrays):
        checked = super()._checked(signature, arrays)
        for name, value in checked.items():
            if value.size == 0 and value.ndim > 1:
                what = "no rows"
            elif value.dtype.kind not in "Obiu" and not np.isfinite(value.astype("float64")).all():
                what = "NaN or infinity"
            else:
                continue
            raise ServingError(
                f"The input {name!r} holds {what}, which REST's JSON cannot carry. Leave it out or "
                "ask by gRPC.",
                "INVALID_ARGUMENT",
                True,
            )
        return checked

    def _ask(self, method, path, content=None):
        """The JSON object that the server answers."""
        body = None if content is None else json.dumps(content)
        connection = self._connect(self._host, timeout=self._timeout)
        deadline = time.monotonic() + self._timeout
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response, chunks = connection.getresponse(), []
            while chunk := response.read1(1 << 20):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError
        except TimeoutError as error:
            raise self._slow(self._timeout) from error
        except ConnectionResetError as error:
            raise self._silent("it closed the connection without an answer") from error
        except OSError as error:
            raise self._silent(error.strerror or error) from error
        except http.client.HTTPException as error:
            raise self._no_server("the answer is not HTTP") from error
        finally:
            connection.close()
        try:
            # An id need not be UTF-8; what is not stays as it is.
            answer = json.loads(b"".join(chunks).decode("utf-8", "surrogateescape"))
            answer = answer if isinstance(answer, dict) else {}
        except ValueError:
            answer = {}
        status = response.status
        if status != 200 and "error" in answer:
            raise self._error(f"HTTP {status}", answer["error"], 400 <= status < 500)
        if status != 200 or not answer:
            raise self._no_server(f"HTTP {status} {response.reason}, without TF Serving's JSON")
        return answer

    def _no_server(self, what):
        return ServingError(
            f"{self} does not speak TF Serving's REST protocol: {what}. Give the address of a TF "
            f"Serving REST port. {_PORTS}",
            "UNAVAILABLE",
        )


class GrpcModel(Model):
    """A model of a server, by gRPC.

    Args:
        address: str, `HOST:8500/NAME`, for one version with `/N` or `/LABEL` after it.
        timeout: float, seconds for one answer. Defaults to 30.

    Raises:
        ValueError: the address is not of this form, or as for `call`.
        ImportError: tensorflow-serving-api is not installed.
    """

    def __init__(self, address: str, timeout: float = 30.0):
        host, *names = address.split("/")
        if ":" not in host or not 1 <= len(names) <= 2 or not all(names):
            raise ServingError(
                "A gRPC address is HOST:8500/NAME, with /VERSION or /LABEL after it where you "
                f"like. Received {address!r}.",
                "INVALID_ARGUMENT",
            )
        try:
            import grpc
            from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2
            from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
        except ImportError as error:
            raise ImportError(
                "Asking by gRPC needs tensorflow-serving-api, which is not installed. Install it "
                'with: pip install "mrl_keras[serving]". REST needs no further package.'
            ) from error
        self._grpc, self._predict_pb2, self._timeout = grpc, predict_pb2, timeout
        self._where, self._names = f"the server at {address}", names
        options = {"grpc.max_receive_message_length": -1, "grpc.enable_http_proxy": 0}
        self._stub = PredictionServiceStub(grpc.insecure_channel(host, list(options.items())))
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._name_model(request.model_spec)
        answer = self._ask(self._stub.GetModelMetadata, request)
        found = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(found)
        super().__init__(self._where, found.signature_def)

    def send(self, signature, arrays):
        request = self._predict_pb2.PredictRequest()
        self._name_model(request.model_spec)
        request.model_spec.signature_name = signature
        for name, value in arrays.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        outputs = self._ask(self._stub.Predict, request).outputs
        self._answered(signature, outputs)
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}

    def _name_model(self, spec):
        spec.name, *version = self._names
        if version and version[0].isdecimal():
            spec.version.value = int(version[0])
        elif version:
            spec.version_label = version[0]

    def _ask(self, method, request):
        try:
            return method(request, timeout=self._timeout)
        except self._grpc.RpcError as error:
            code, codes = error.code(), self._grpc.StatusCode
            if code == codes.DEADLINE_EXCEEDED:
                raise self._slow(self._timeout) from error
            if code == codes.UNAVAILABLE:
                reason = error.details().splitlines()[0][:200]
                raise self._silent(reason.rstrip(".")) from error
            refused = code in (
                codes.INVALID_ARGUMENT,
                codes.FAILED_PRECONDITION,
                codes.NOT_FOUND,
                codes.OUT_OF_RANGE,
                codes.UNIMPLEMENTED,
            )
            raise self._error(code.name, error.details(), refused) from error


def connect(model=None, url=None, grpc=None, timeout: float = 30.0) -> Model:
    """The model of one source: exactly one of the first three arguments.

    Args:
        model: folder of an exported model or of one version.
        url: REST address, as for `RestModel`.
        grpc: gRPC address, as for `GrpcModel`.
        timeout: float, seconds for one answer of a server. Defaults to 30.

    Raises:
        ValueError: none or several sources, or as for the class.
    """
    given = {"model": model, "url": url, "grpc": grpc}
    given = {name: value for name, value in given.items() if value}
    if len(given) != 1:
        raise ServingError(
            "Give one source of answers: the folder of a model, `url` of a REST server or `grpc` "
            f"of a gRPC server. Received {given or 'none'}.",
            "INVALID_ARGUMENT",
        )
    if model:
        return FolderModel(model)
    return RestModel(url, timeout) if url else GrpcModel(grpc, timeout)


def version_folder(path) -> str:
    """`path` where it holds a SavedModel, else the folder of its highest version."""
    path = os.fspath(path)
    names = os.listdir(path) if os.path.isdir(path) else []
    if "saved_model.pb" in names:
        return path
    versions = [name for name in names if name.isascii() and name.isdecimal()]
    if not versions:
        raise ServingError(
            f"{path} must be the folder of an exported model, NAME or NAME/VERSION. "
            + ("It has no saved_model.pb and no version." if names else "It is empty or absent."),
            "NOT_FOUND",
        )
    return os.path.join(path, max(versions, key=lambda name: (int(name), -len(name))))


def read_manifest(path) -> dict:
    """The manifest of a version's folder; empty for a SavedModel that has none."""
    path = os.path.join(path, "assets.extra", "manifest.json")
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def as_array(value) -> np.ndarray:
    """An array; strings as an object array of `bytes`, `str` in UTF-8."""
    lists = isinstance(value, (list, tuple, str, bytes))  # NumPy's own bytes lose zeros at the end
    array = np.array(value, object) if lists else np.asarray(value)
    if array.dtype.kind not in "OSU":
        return array
    flat = array.ravel().tolist()
    if lists and not any(isinstance(x, (str, bytes)) for x in flat):
        return np.asarray(value)
    flat = [x.encode() if isinstance(x, str) else x for x in flat]
    return np.array(flat, object).reshape(array.shape)


def _import_ops(path, package):
    module, name = _OP_LIBRARIES.get(package, (package, package))
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"The model in {path} needs the custom ops {package}, which are not installed. Install "
            f'them with: pip install "{name}". A twin NAME_plain needs none of ScaNN\'s.'
        ) from error


def _tensors(infos):
    """{name: (dtype, shape)} of {name: TensorInfo}."""
    found = {}
    for name, info in sorted(infos.items()):
        dtype, shape = tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape)
        found[name] = (
            "string" if dtype == tf.string else np.dtype(dtype.as_numpy_dtype),
            None if shape.rank is None else shape.as_list(),
        )
    return found


def _fits(value, dtype, shape):
    """Whether an array can be fed to a tensor of `dtype` and `shape`."""
    if value.size == 0:  # an empty list is float64 to NumPy
        fits = True
    elif dtype == "string":
        fits = value.dtype.kind == "O" and all(isinstance(x, bytes) for x in value.ravel())
    else:
        fits = np.can_cast(value.dtype, dtype, "same_kind")
    if shape is None or not fits:
        return fits
    pairs = zip(value.shape, shape, strict=False)
    return value.ndim == len(shape) and all(want in (None, has) for has, want in pairs)


def _dtype_of(value):
    return "string" if value.dtype.kind == "O" else value.dtype


def _show(specs):
    """ "images float32 [None, 8, 8, 1], dim int32 []" of {name: (dtype, shape)}."""
    return ", ".join(f"{name} {dtype} {shape}" for name, (dtype, shape) in specs.items()) or "none"


def _to_json(value):
    """Nested lists; strings as base64, which any bytes survive."""
    if value.dtype.kind not in "OSU":
        return value.tolist()
    return _mapped(lambda x: {"b64": base64.b64encode(x).decode()}, value.tolist())


def _mapped(function, value):
    return [_mapped(function, x) for x in value] if isinstance(value, list) else function(value)


def _from_json(value, dtype, shape):
    """The array of a JSON value; an empty list gets the signature's other axes back."""
    if dtype == "string":
        value = _mapped(_bytes, value)
    array = np.array(value, object if dtype == "string" else dtype)
    if array.size == 0 and shape and None not in shape[1:]:
        array = array.reshape([0 if axis is None else axis for axis in shape[:1]] + shape[1:])
    return array


def _bytes(value):
    """A JSON string, or {"b64": ...} of an output whose name ends in _bytes."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return value.encode("utf-8", "surrogateescape")
