"""Ask an exported model for the nearest rows of raw inputs, as a server would.

    python recipes/query.py runs/quickstart/saved_models/digits_mrl/1 inputs.npy

Imports TensorFlow, and ScaNN's op library where the model uses it; neither Keras nor this
package. Prints one line of JSON for each input: ids and scores, best first.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf


def main(model_directory, inputs_file):
    directory = pathlib.Path(model_directory)
    manifest = json.loads((directory / "assets.extra" / "manifest.json").read_text())
    if manifest["custom_ops"]:
        from scann.scann_ops.py import scann_ops  # noqa: F401  (registers the ops with TensorFlow)
    model = tf.saved_model.load(str(directory))
    retrieve = model.signatures["retrieve"]
    ((name, spec),) = retrieve.structured_input_signature[1].items()
    inputs = tf.cast(np.load(inputs_file, allow_pickle=False), spec.dtype)
    answer = retrieve(**{name: inputs})
    for ids, scores in zip(answer["ids"].numpy(), answer["scores"].numpy(), strict=True):
        print(json.dumps({"ids": [i.decode() for i in ids], "scores": scores.tolist()}))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: query.py MODEL_DIRECTORY INPUTS.npy")
    main(*sys.argv[1:])
