"""Asks an exported model for the nearest rows of raw inputs, as a server would.

    python recipes/query.py runs/quickstart/saved_models/digits_mrl/1 inputs.npy

Imports TensorFlow, and ScaNN's op library where the model uses it; neither Keras nor this
package, so the argument parser is its own. Prints one line of JSON for each input: ids and
scores, best first.
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=pathlib.Path, help="folder of one exported version")
    parser.add_argument("inputs", help=".npy file of raw inputs, as the model's encoder takes them")
    return parser.parse_args(arguments)


def main(options):
    manifest = json.loads((options.model / "assets.extra" / "manifest.json").read_text())
    if manifest["custom_ops"]:
        from scann.scann_ops.py import scann_ops  # noqa: F401  (registers the ops with TensorFlow)
    model = tf.saved_model.load(str(options.model))
    retrieve = model.signatures["retrieve"]
    ((name, spec),) = retrieve.structured_input_signature[1].items()
    inputs = tf.cast(np.load(options.inputs, allow_pickle=False), spec.dtype)
    answer = retrieve(**{name: inputs})
    for ids, scores in zip(answer["ids"].numpy(), answer["scores"].numpy(), strict=True):
        print(json.dumps({"ids": [i.decode() for i in ids], "scores": scores.tolist()}))


if __name__ == "__main__":
    main(parse_arguments())
