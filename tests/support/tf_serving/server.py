"""The process of the double: see this package's docstring.

    python -m tests.support.tf_serving.server --model_config_file=models.config --lifetime=60

Prints one line of JSON, its ports, once every model is loaded. It ends when its standard input is
closed, and after --lifetime seconds in any case.
"""

import argparse
import concurrent.futures
import functools
import http.server
import json
import os
import re
import sys
import threading
import urllib.parse

import grpc
from google.protobuf import json_format

from recipes.benchmarks.parts.c_api import Library, StatusError
from tests.support.tf_serving.models import FAILED_PRECONDITION, INVALID_ARGUMENT, Models
from tests.support.tf_serving.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tests.support.tf_serving.tensors import parse_request, to_json, to_proto

DEFAULT_SIGNATURE = "serving_default"
METRICS = "/monitoring/prometheus/metrics"
GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
HTTP_CODES = {
    1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400,
    12: 501, 13: 500, 14: 503, 15: 500, 16: 401,
}  # fmt: skip
_NAME = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<number>\d+)|/labels/(?P<label>[^/:]+))?"
_ASKED, _TOLD = re.compile(f"{_NAME}:predict"), re.compile(f"{_NAME}(?P<metadata>/metadata)?")


def parse_arguments():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add = parser.add_argument
    add("--port", type=int, default=0)
    add("--rest_api_port", type=int, default=0)
    add("--model_config_file", required=True)
    add("--model_config_file_poll_wait_seconds", type=float, default=0.0)
    add("--monitoring_config_file")
    add("--batching_parameters_file")
    add("--enable_batching", **_switch(False))
    add("--enable_model_warmup", **_switch(True))
    add("--allow_version_labels_for_unavailable_models", **_switch(False))
    add("--file_system_poll_wait_seconds", type=float, default=1.0)
    # The double's own.
    add("--mount", action="append", default=[], help="FOLDER IN THE CONFIG=FOLDER HERE")
    add("--lifetime", type=float, default=60.0)
    add("--scann", action="store_true")
    return parser.parse_args()


def _switch(default):
    values = {"true": True, "false": False}
    return {"type": values.__getitem__, "nargs": "?", "const": True, "default": default}


def prepare(version, request, batching=False):
    """(feeds, {output: tensor's name}) of a PredictRequest, as predict_util.cc checks it."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = version.signatures.get(name)
    if signature is None:
        raise StatusError(FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    given, wanted = set(request.inputs), set(signature.inputs)
    if len(given) > len(wanted) or (len(given) < len(wanted) and not signature.defaults):
        raise StatusError(
            INVALID_ARGUMENT,
            f"input size does not match signature: {len(given)}!={len(wanted)} "
            f"len({{{_set(given)}}}) != len({{{_set(wanted)}}}). Sent extra: "
            f"{{{_set(given - wanted)}}}. Missing but required: {{{_set(wanted - given)}}}.",
        )
    for alias in sorted(given - wanted):
        raise StatusError(
            INVALID_ARGUMENT,
            f"input tensor alias not found in signature: {alias}. Inputs expected to be in the set "
            f"{{{_set(wanted)}}}.",
        )
    tensors = {**signature.defaults, **request.inputs}
    if batching and not all(tensor.tensor_shape.dim for tensor in tensors.values()):
        raise StatusError(
            INVALID_ARGUMENT, "Batching Run() input tensors must have at least one dimension"
        )
    feeds = {signature.inputs[k].name: v.SerializeToString() for k, v in tensors.items()}
    filtered = list(request.output_filter) or sorted(signature.outputs)
    for alias in filtered:
        if alias not in signature.outputs:
            raise StatusError(
                INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {{{_set(signature.outputs)}}}.",
            )
    return feeds, {alias: signature.outputs[alias].name for alias in filtered}


def _set(names):
    return ",".join(sorted(names))


def answer(version, request, batching=False):
    """{output: array} of a PredictRequest."""
    feeds, fetches = prepare(version, request, batching)
    return dict(zip(fetches, version.model.run(feeds, list(fetches.values())), strict=True))


class Server:
    """What both protocols ask."""

    def __init__(self, options):
        self.batching = options.enable_batching
        self.counts, self._lock = {"OK": 0, "error": 0}, threading.Lock()
        library = Library()
        if options.scann:
            library.load_scann_ops()
        mounts = dict(mount.split("=", 1) for mount in options.mount)
        early = options.allow_version_labels_for_unavailable_models
        play = functools.partial(answer, batching=self.batching)
        play = play if options.enable_model_warmup else None
        self.models = Models(library, options.model_config_file, mounts, play, early)

    def predict(self, request):
        """({output: array}, number of the version)."""
        try:
            with self.models.find(request.model_spec) as version:
                found = answer(version, request, self.batching), version.number
        except StatusError:
            self._count("error")
            raise
        self._count("OK")
        return found

    def _count(self, kind):
        with self._lock:
            self.counts[kind] += 1

    def metadata(self, spec):
        with self.models.find(spec) as version:
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=version.signatures)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = version.name
            response.model_spec.version.value = version.number
        response.metadata["signature_def"].Pack(signatures)
        return response, signatures

    def status(self, spec):
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self.models.statuses(spec):
            one = response.model_version_status.add(version=version.number, state=version.state)
            one.status.SetInParent()
            if version.error is not None:
                one.status.error_code = version.error.code
                one.status.error_message = str(version.error)
        return response


def as_grpc(method):
    """A StatusError becomes gRPC's status."""

    @functools.wraps(method)
    def call(self, request, context):
        try:
            return method(self, request)
        except StatusError as error:
            return context.abort(GRPC_CODES[error.code], str(error))

    return call


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, server):
        self._server = server

    @as_grpc
    def Predict(self, request):
        outputs, number = self._server.predict(request)
        response = predict_pb2.PredictResponse(model_spec=request.model_spec)
        response.model_spec.version.value = number
        response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(to_proto(array))
        return response

    @as_grpc
    def GetModelMetadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            raise StatusError(
                INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"
            )
        return self._server.metadata(request.model_spec)[0]


class Status(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, server):
        self._server = server

    @as_grpc
    def GetModelStatus(self, request):
        return self._server.status(request.model_spec)


class Rest(http.server.BaseHTTPRequestHandler):
    """TF Serving's REST API."""

    protocol_version = "HTTP/1.1"
    server_core = None

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.path == METRICS:
            lines = [
                f':tensorflow:serving:request_count{{status="{status}"}} {count}\n'
                for status, count in self.server_core.counts.items()
            ]
            header = "# TYPE :tensorflow:serving:request_count counter\n"
            return self._send(200, (header + "".join(lines)).encode(), "text/plain")
        return self._answer(_TOLD, self._told)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self._answer(_ASKED, functools.partial(self._asked, body))

    def _told(self, spec, match):
        if not match["metadata"]:
            return _json(self.server_core.status(spec))
        response, signatures = self.server_core.metadata(spec)
        spec = json.loads(_json(response.model_spec))
        found = json.loads(_json(signatures))
        return json.dumps({"model_spec": spec, "metadata": {"signature_def": found}}).encode()

    def _asked(self, body, spec, match):
        def inputs_of(name):
            with self.server_core.models.find(spec) as version:
                signature = version.signatures.get(name or DEFAULT_SIGNATURE)
            if signature is None:
                text = f'Serving signature name: "{name}" not found in signature def'
                raise StatusError(INVALID_ARGUMENT, text)
            return dict(signature.inputs)

        spec.signature_name, inputs, rows = parse_request(body, inputs_of)
        request = predict_pb2.PredictRequest(model_spec=spec, inputs=inputs)
        return to_json(self.server_core.predict(request)[0], rows)

    def _answer(self, pattern, make):
        try:
            match = pattern.fullmatch(self.path)
            if match is None:
                text = f"Malformed request: {self.command} {self.path}"
                raise StatusError(INVALID_ARGUMENT, text)
            spec = predict_pb2.PredictRequest().model_spec
            spec.name = urllib.parse.unquote(match["name"])
            if match["number"]:
                spec.version.value = int(match["number"])
            elif match["label"]:
                spec.version_label = urllib.parse.unquote(match["label"])
            self._send(200, make(spec, match))
        except StatusError as error:
            self._send(HTTP_CODES[error.code], json.dumps({"error": str(error)}).encode())

    def _send(self, code, content, kind="application/json"):
        try:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the client did not wait
            self.close_connection = True


def _json(message):
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    ).encode()


def main():
    options = parse_arguments()
    limit = threading.Timer(options.lifetime, os._exit, [3])
    limit.daemon = True
    limit.start()
    server = Server(options)

    class Http(http.server.ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 128

    rest = Http(
        ("127.0.0.1", options.rest_api_port), type("Rest", (Rest,), {"server_core": server})
    )
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    pool = concurrent.futures.ThreadPoolExecutor(8)
    served = grpc.server(pool, options=[("grpc.max_receive_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(server), served)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(server), served)
    port = served.add_insecure_port(f"127.0.0.1:{options.port}")
    served.start()
    seconds = (options.file_system_poll_wait_seconds, options.model_config_file_poll_wait_seconds)
    threading.Thread(target=server.models.poll_forever, args=seconds, daemon=True).start()
    print(json.dumps({"rest": rest.server_address[1], "grpc": port}), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
