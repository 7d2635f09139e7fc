"""Asks an exported model through TensorFlow's C API, without TensorFlow's Python.

python c_api_client.py CASES.json ANSWERS.json
"""

import json
import pathlib
import sys

import numpy as np

sys.path[0] = str(pathlib.Path(__file__).parents[2])

from recipes.benchmarks.parts.c_api import Library, Model  # noqa: E402 (found by the path above)


def main(cases_file, answers_file):
    with open(cases_file) as file:
        cases = json.load(file)
    queries = np.array(cases["queries"], "float32")
    library, answers = Library(), {}
    library.load_scann_ops()
    for name, path in cases["models"].items():
        tensors, model = cases["tensors"][name], Model(library, path)
        outputs = ["indices", "scores"]
        found = model.run({tensors["embedding"]: queries}, [tensors[name] for name in outputs])
        answers[name] = {key: x.tolist() for key, x in zip(outputs, found, strict=True)}
    answers["python_tensorflow"] = "tensorflow" in sys.modules
    with open(answers_file, "w") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
