"""TensorProtos as JSON and arrays, as TF Serving's json_tensor.cc has them."""

import base64
import json

import numpy as np

from recipes.benchmarks.parts.c_api import NUMBERS, STRING, TYPES, StatusError
from tests.support.tf_serving.protos import tensor_pb2, types_pb2

INVALID_ARGUMENT = 3
# The field of a TensorProto with the values of a type.
_FIELDS = {
    "float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val",
    "uint32": "uint32_val", "uint64": "uint64_val",
}  # fmt: skip


def bad(text):
    return StatusError(INVALID_ARGUMENT, text)


def parse_request(body, inputs_of):
    """(name of the signature, {input: TensorProto}, whether in rows) of a request in JSON.

    Args:
        body: bytes.
        inputs_of: function of the signature's name: {input: TensorInfo}.
    """
    try:
        content = json.loads(body.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise bad(f"JSON Parse error: {error}") from error
    if not isinstance(content, dict):
        raise bad(f"JSON Value: {content} Is not object")
    signature = content.get("signature_name", "")
    if not isinstance(signature, str):
        raise bad("not formatted correctly. 'signature_name' key must be a string value.")
    infos = inputs_of(signature)
    if len({"inputs", "instances"} & set(content)) != 1:
        raise bad("Missing 'inputs' or 'instances' key")
    if "instances" in content:
        return signature, _from_rows(content["instances"], infos), True
    return signature, _from_columns(content["inputs"], infos), False


def _from_columns(values, infos):
    if not isinstance(values, dict) or set(values) == {"b64"}:
        if len(infos) > 1:
            raise bad("inputs is a plain value/list, but expecting an object as multiple input ")
        values = {next(iter(infos)): values}
    for name in infos:
        if name not in values:
            raise bad(f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(values[name], info.dtype) for name, info in infos.items()}


def _from_rows(rows, infos):
    if not isinstance(rows, list) or not rows:
        raise bad("No values in 'instances' array")
    if not isinstance(rows[0], dict) or set(rows[0]) == {"b64"}:
        if len(infos) > 1:
            raise bad("instances is a plain list, but expecting list of objects as multiple input ")
        rows = [{next(iter(infos)): row} for row in rows]
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(infos):
            names = ",".join(sorted(infos))
            raise bad(
                f"Failed to process element: {number} of 'instances' list. JSON object: {row} keys "
                f"must be equal to: {names}"
            )
    return {name: _tensor([r[name] for r in rows], info.dtype) for name, info in infos.items()}


def _tensor(value, number):
    """The TensorProto of a JSON value; its shape is that of the first elements."""
    tensor, first = tensor_pb2.TensorProto(dtype=number), value
    while isinstance(first, list):
        tensor.tensor_shape.dim.add(size=len(first))
        first = first[0] if first else None
    _fill(value, 0, tensor)
    return tensor


def _fill(value, level, tensor):
    sizes = [axis.size for axis in tensor.tensor_shape.dim]
    if not isinstance(value, list):
        if level != len(sizes):
            raise bad(
                f"JSON Value: {value} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(sizes)}"
            )
        _add(value, tensor)
        return
    if level >= len(sizes):
        raise bad(f"Encountered list at unexpected level: {level} expected < {len(sizes)}")
    if len(value) != sizes[level]:
        raise bad(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{sizes[level]}"
        )
    for one in value:
        _fill(one, level + 1, tensor)


def _add(value, tensor):
    number = tensor.dtype
    kind = "string" if number == STRING else np.dtype(TYPES[number]).kind
    fits = {
        "string": isinstance(value, str),
        "b": isinstance(value, bool),
        "f": isinstance(value, (int, float)) and not isinstance(value, bool),
    }.get(kind, isinstance(value, int) and not isinstance(value, bool))
    if kind == "string" and isinstance(value, dict) and set(value) == {"b64"}:
        value, fits = base64.b64decode(value["b64"]), True
    if not fits:
        name = types_pb2.DataType.Name(number).removeprefix("DT_").lower()
        text = f"JSON Value: {json.dumps(value)} Type: {type(value).__name__}"
        raise bad(f"{text} is not of expected type: {name}")
    if kind == "string":
        value = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        tensor.string_val.append(value)
    else:
        getattr(tensor, _FIELDS.get(TYPES[number], "int_val")).append(value)


def to_proto(array):
    """The TensorProto of an answer, its values in the field of their type."""
    strings = array.dtype == object
    tensor = tensor_pb2.TensorProto(dtype=STRING if strings else NUMBERS[array.dtype])
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if strings:
        tensor.string_val.extend(array.ravel().tolist())
    elif array.dtype == np.float16:
        tensor.half_val.extend(array.view("uint16").ravel().tolist())
    else:
        getattr(tensor, _FIELDS.get(array.dtype.name, "int_val")).extend(array.ravel().tolist())
    return tensor


def to_json(outputs, rows):
    """The bytes of an answer: `outputs` (name -> array) in columns, or in rows."""
    values = {name: _listed(name, array) for name, array in outputs.items()}
    if rows:
        counts = {np.shape(array)[:1] for array in outputs.values()}
        if len(counts) != 1 or counts == {()}:
            raise bad("Tensor has inconsistent batch size")
        listed = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        if len(values) == 1:
            (listed,) = values.values()
        content = {"predictions": listed}
    else:
        content = {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _listed(name, array):
    if array.dtype == object:
        array = np.frompyfunc(_coded if name.endswith("_bytes") else _text, 1, 1)(array)
    elif array.dtype == np.float32:
        # The shortest decimals that are this float32, not this value as a float64.
        array = np.frompyfunc(lambda x: float(str(np.float32(x))), 1, 1)(array)
    return np.asarray(array).tolist()


def _text(value):
    return value.decode("utf-8", "surrogateescape")


def _coded(value):
    return {"b64": base64.b64encode(value).decode()}
