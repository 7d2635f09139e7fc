"""SavedModels by TensorFlow's C API, without TensorFlow's Python.

`TF_LoadSessionFromSavedModel` is the C++ loader that TF Serving uses. Threads may share a `Model`.
"""

import contextlib
import ctypes
import importlib.util
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

# TensorFlow's numbers of types.
TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64",
    10: "bool", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
STRING, STRING_BYTES = 7, 24
NUMBERS = {np.dtype(name): number for number, name in TYPES.items()}

_pointer, _int, _long, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t


class Output(ctypes.Structure):
    """TF_Output: an operation and the number of its output."""

    _fields_ = [("operation", _pointer), ("index", _int)]


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = [("data", _pointer), ("length", _size), ("deallocator", _pointer)]


# {function: (result, types of its arguments)}
_PROTOTYPES = {
    "TF_NewStatus": (_pointer,),
    "TF_DeleteStatus": (None, _pointer),
    "TF_GetCode": (_int, _pointer),
    "TF_Message": (ctypes.c_char_p, _pointer),
    "TF_LoadLibrary": (_pointer, ctypes.c_char_p, _pointer),
    "TF_NewGraph": (_pointer,),
    "TF_DeleteGraph": (None, _pointer),
    "TF_NewSessionOptions": (_pointer,),
    "TF_DeleteSessionOptions": (None, _pointer),
    "TF_SetConfig": (None, _pointer, ctypes.c_char_p, _size, _pointer),
    "TF_LoadSessionFromSavedModel": (
        *(_pointer, _pointer, _pointer, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p)),
        *(_int, _pointer, _pointer, _pointer),
    ),
    "TF_GraphOperationByName": (_pointer, _pointer, ctypes.c_char_p),
    "TF_SessionRun": (
        *(None, _pointer, _pointer, ctypes.POINTER(Output), ctypes.POINTER(_pointer), _int),
        *(ctypes.POINTER(Output), ctypes.POINTER(_pointer), _int, _pointer, _int, _pointer),
        _pointer,
    ),
    "TF_CloseSession": (None, _pointer, _pointer),
    "TF_DeleteSession": (None, _pointer, _pointer),
    "TF_AllocateTensor": (_pointer, _int, ctypes.POINTER(_long), _int, _size),
    "TF_TensorFromProto": (None, ctypes.POINTER(Buffer), _pointer, _pointer),
    "TF_DeleteTensor": (None, _pointer),
    "TF_TensorData": (_pointer, _pointer),
    "TF_TensorType": (_int, _pointer),
    "TF_NumDims": (_int, _pointer),
    "TF_Dim": (_long, _pointer, _int),
    "TF_StringGetDataPointer": (_pointer, _pointer),
    "TF_StringGetSize": (_size, _pointer),
}


def folder(package):
    return importlib.util.find_spec(package).submodule_search_locations[0]


class StatusError(RuntimeError):
    """A status that is not OK: its `code`, gRPC's number, and its message."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Library:
    """The C functions by their names without "TF_"."""

    def __init__(self):
        names = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
        paths = [os.path.join(folder("tensorflow"), name) for name in names]
        # The last one first: it has most of the functions.
        libraries = [ctypes.CDLL(path) for path in paths][::-1]
        for name, (result, *arguments) in _PROTOTYPES.items():
            function = next(getattr(one, name) for one in libraries if hasattr(one, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("TF_"), function)

    def checked(self, name, *arguments):
        """Calls a function whose last argument is a status; `StatusError` where it is not OK."""
        status = self.NewStatus()
        try:
            result = getattr(self, name)(*arguments, status)
            code = self.GetCode(status)
            if code:
                raise StatusError(code, self.Message(status).decode("utf-8", "replace"))
            return result
        finally:
            self.DeleteStatus(status)

    def load_scann_ops(self):
        ops = os.path.join(folder("scann"), "scann_ops", "cc", "_scann_ops.so")
        self.checked("LoadLibrary", ops.encode())

    def tensor(self, value):
        """A tensor of an array of numbers, or of the bytes of a TensorProto."""
        if isinstance(value, bytes):
            tensor = self.AllocateTensor(1, None, 0, 4)
            content = ctypes.create_string_buffer(value, len(value))
            buffer = Buffer(ctypes.addressof(content), len(value), None)
            try:
                self.checked("TensorFromProto", ctypes.byref(buffer), tensor)
            except StatusError:
                self.DeleteTensor(tensor)
                raise
            return tensor
        value = np.ascontiguousarray(value).reshape(np.shape(value))
        shape = (_long * value.ndim)(*value.shape)
        tensor = self.AllocateTensor(NUMBERS[value.dtype], shape, value.ndim, value.nbytes)
        ctypes.memmove(self.TensorData(tensor), value.ctypes.data, value.nbytes)
        return tensor

    def array(self, tensor):
        """The array of a tensor; strings become an object array of bytes."""
        shape = [self.Dim(tensor, axis) for axis in range(self.NumDims(tensor))]
        number, data = self.TensorType(tensor), self.TensorData(tensor)
        if number == STRING:
            count = int(np.prod(shape, dtype="int64"))
            values = [self._string(data + STRING_BYTES * i) for i in range(count)]
            return np.array(values, object).reshape(shape)
        array = np.empty(shape, TYPES[number])
        if array.size:
            ctypes.memmove(array.ctypes.data, data, array.nbytes)
        return array

    def _string(self, place):
        return ctypes.string_at(self.StringGetDataPointer(place), self.StringGetSize(place))


class Model:
    """A session over the SavedModel in `path`; `config` are the bytes of a ConfigProto.

    Raises:
        StatusError: it cannot be loaded.
    """

    def __init__(self, library, path, config=b""):
        self._library, self._graph = library, library.NewGraph()
        options, tags = library.NewSessionOptions(), (ctypes.c_char_p * 1)(b"serve")
        try:
            library.checked("SetConfig", options, config, len(config))
            self._session = library.checked(
                "LoadSessionFromSavedModel",
                *(options, None, path.encode(), tags, 1, self._graph, None),
            )
        except StatusError:
            library.DeleteGraph(self._graph)
            raise
        finally:
            library.DeleteSessionOptions(options)

    def run(self, feeds, fetches):
        """The arrays of the tensors that `fetches` names.

        Args:
            feeds: {name of a tensor: array of numbers, or the bytes of a TensorProto}.
            fetches: list of names of tensors.
        """
        with self.call(feeds, fetches) as call:
            return call(self._library.array)

    @contextlib.contextmanager
    def call(self, feeds, fetches):
        """Within it, a function that runs the session once on the same inputs.

        The function gives `read(tensor)` of each tensor that it fetches; it frees them.
        """
        library, tensors = self._library, []
        try:
            for value in feeds.values():
                tensors.append(library.tensor(value))
            inputs = self._outputs(feeds), (_pointer * len(tensors))(*tensors), len(tensors)
            outputs = self._outputs(fetches)

            def call(read):
                results = (_pointer * len(fetches))()
                try:
                    library.checked(
                        "SessionRun",
                        *(self._session, None, *inputs),
                        *(outputs, results, len(fetches), None, 0, None),
                    )
                    return [read(result) for result in results]
                finally:
                    for tensor in filter(None, results):
                        library.DeleteTensor(tensor)

            yield call
        finally:
            for tensor in tensors:
                library.DeleteTensor(tensor)

    def close(self):
        """Frees the session, its variables and its graph."""
        self._library.checked("CloseSession", self._session)
        self._library.checked("DeleteSession", self._session)
        self._library.DeleteGraph(self._graph)

    def _outputs(self, names):
        found = [name.split(":") for name in names]
        return (Output * len(found))(
            *(
                Output(self._library.GraphOperationByName(self._graph, name.encode()), int(index))
                for name, index in found
            )
        )
