"""assets.extra/tf_serving_warmup_requests: requests that TF Serving sends to itself on loading.

They build each signature's executor before the first user waits for it. The file is a TFRecord of
`tensorflow.serving.PredictionLog` messages. They are encoded here field by field, so that
tensorflow-serving-api need not be installed.
"""

from __future__ import annotations

import os

import tensorflow as tf

from mrl_keras.export.manifest import EXTRA

FILE_NAME = "tf_serving_warmup_requests"

# Field numbers of PredictionLog, PredictLog, PredictRequest, ModelSpec and of a map's entries.
_PREDICT_LOG, _REQUEST = 6, 1
_MODEL_SPEC, _INPUTS = 1, 2
_NAME, _SIGNATURE_NAME = 1, 3
_KEY, _VALUE = 1, 2


def example_proto(spec: tf.TensorSpec, batch: int, value=None):
    """A TensorProto of one repeated value for `spec`; `None` if more axes than the first are open.

    The value is stored once, so that a batch of images takes a few bytes.
    """
    if None in spec.shape[1:]:
        return None
    if value is None:
        value = b"" if spec.dtype == tf.string else 0
    shape = [batch, *spec.shape[1:]] if spec.shape.rank else []
    return tf.make_tensor_proto(value, spec.dtype, shape)


def prediction_log(name: str, signature: str, inputs: dict) -> bytes:
    """A serialized PredictionLog of one PredictRequest.

    Args:
        name: the model's name.
        signature: the signature's name.
        inputs: dict from input names to TensorProtos.
    """
    spec = _field(_NAME, name.encode()) + _field(_SIGNATURE_NAME, signature.encode())
    request = _field(_MODEL_SPEC, spec)
    for key, tensor in inputs.items():
        entry = _field(_KEY, key.encode()) + _field(_VALUE, tensor.SerializeToString())
        request += _field(_INPUTS, entry)
    return _field(_PREDICT_LOG, _field(_REQUEST, request))


def write_warmup(directory: str, name: str, signatures: dict, values: dict, batch_sizes) -> list:
    """Writes one request for each signature and batch size.

    Args:
        directory: the SavedModel's folder.
        name: the model's name.
        signatures: dict from signature names to lists of named `tf.TensorSpec`s. One that has an
            open axis besides the batch is left out.
        values: dict from input names to the number that fills the tensor; 0 or "" for others.
        batch_sizes: ints. No file is written where there are none, or no signatures.

    Returns:
        The names of the signatures that have requests.
    """
    records, warmed = [], []
    for signature, specs in signatures.items():
        for batch in batch_sizes:
            inputs = {
                spec.name: example_proto(spec, batch, values.get(spec.name)) for spec in specs
            }
            if None not in inputs.values():
                records.append(prediction_log(name, signature, inputs))
                warmed.append(signature)
    if records:
        os.makedirs(os.path.join(directory, EXTRA), exist_ok=True)
        with tf.io.TFRecordWriter(os.path.join(directory, EXTRA, FILE_NAME)) as writer:
            for record in records:
                writer.write(record)
    return list(dict.fromkeys(warmed))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protocol buffer field (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
