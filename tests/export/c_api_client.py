"""Asks an exported model through TensorFlow's C API, without TensorFlow's Python.

    python c_api_client.py CASES.json ANSWERS.json

`TF_LoadSessionFromSavedModel` is the C++ loader that TF Serving uses.
"""

import ctypes
import importlib.util
import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np

FLOAT, INT64 = 1, 9


class Output(ctypes.Structure):
    """TF_Output: an operation and the number of its output."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def folder(package):
    return importlib.util.find_spec(package).submodule_search_locations[0]


class Library:
    """The C functions, each with its result type; a status that is not OK raises."""

    def __init__(self):
        names = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
        paths = [os.path.join(folder("tensorflow"), name) for name in names]
        self._libraries = [ctypes.CDLL(path, ctypes.RTLD_GLOBAL) for path in paths]
        self.status = self("TF_NewStatus", ctypes.c_void_p)()

    def __call__(self, name, result=ctypes.c_void_p):
        found = [getattr(one, name) for one in self._libraries[::-1] if hasattr(one, name)]
        found[0].restype = result
        return found[0]

    def checked(self, name, *arguments):
        result = self(name)(*arguments, ctypes.c_void_p(self.status))
        if self("TF_GetCode", ctypes.c_int)(ctypes.c_void_p(self.status)):
            message = self("TF_Message", ctypes.c_char_p)(ctypes.c_void_p(self.status))
            raise RuntimeError(message.decode())
        return result


class Model:
    """A session over a SavedModel."""

    def __init__(self, library, path):
        self._library = library
        self._graph = ctypes.c_void_p(library("TF_NewGraph")())
        options = ctypes.c_void_p(library("TF_NewSessionOptions")())
        tags = (ctypes.c_char_p * 1)(b"serve")
        session = library.checked(
            "TF_LoadSessionFromSavedModel",
            *(options, None, path.encode(), tags, 1, self._graph, None),
        )
        self._session = ctypes.c_void_p(session)

    def _output(self, name):
        operation, index = name.split(":")
        found = self._library("TF_GraphOperationByName")(self._graph, operation.encode())
        return Output(found, int(index))

    def run(self, feed, value, fetches):
        """`fetches` (tensor name -> NumPy dtype) with one float32 input."""
        shape = (ctypes.c_int64 * value.ndim)(*value.shape)
        tensor = self._library("TF_AllocateTensor")(
            FLOAT, shape, value.ndim, ctypes.c_size_t(value.nbytes)
        )
        ctypes.memmove(self._data(tensor), value.ctypes.data, value.nbytes)
        inputs, outputs = (Output * 1)(self._output(feed)), (Output * len(fetches))()
        outputs[:] = [self._output(name) for name in fetches]
        results = (ctypes.c_void_p * len(fetches))()
        self._library.checked(
            "TF_SessionRun",
            *(self._session, None, inputs, (ctypes.c_void_p * 1)(tensor), 1),
            *(outputs, results, len(fetches), None, 0, None),
        )
        return [
            self._array(result, dtype)
            for result, dtype in zip(results, fetches.values(), strict=True)
        ]

    def _data(self, tensor):
        return self._library("TF_TensorData")(ctypes.c_void_p(tensor))

    def _array(self, tensor, dtype):
        dims = self._library("TF_NumDims", ctypes.c_int)(ctypes.c_void_p(tensor))
        size = self._library("TF_Dim", ctypes.c_int64)
        shape = [size(ctypes.c_void_p(tensor), axis) for axis in range(dims)]
        array = np.empty(shape, dtype)
        ctypes.memmove(array.ctypes.data, self._data(tensor), array.nbytes)
        return array


def main(cases_file, answers_file):
    with open(cases_file) as file:
        cases = json.load(file)
    queries = np.array(cases["queries"], "float32")
    library, answers = Library(), {}
    ops = os.path.join(folder("scann"), "scann_ops", "cc", "_scann_ops.so")
    library.checked("TF_LoadLibrary", ops.encode())
    for name, path in cases["models"].items():
        tensors = cases["tensors"][name]
        model = Model(library, path)
        fetches = {tensors["indices"]: "int64", tensors["scores"]: "float32"}
        found = model.run(tensors["embedding"], queries, fetches)
        answers[name] = {"indices": found[0].tolist(), "scores": found[1].tolist()}
    answers["python_tensorflow"] = "tensorflow" in sys.modules
    with open(answers_file, "w") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
