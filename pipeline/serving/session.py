"""TensorFlow's C++ SavedModel session, which is what TensorFlow Serving runs, through its C API.

The eager loader cannot stand in for it: a model can work there and fail here. The C API's library
is the one that TensorFlow's wheel ships.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.wording import of_op
from pipeline.serving.errors import CODES, LONGEST_MESSAGE, ServingError, invalid

if TYPE_CHECKING:
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

_STRING = 7  # DT_STRING
_STRING_BYTES = 24  # sizeof(TF_TString)
_SERVE_TAG = b"serve"


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    )


class Session:
    """A loaded SavedModel. `run` may be called by many threads at once, `close` after all of them.

    signatures: SignatureDef by name, without TensorFlow's internal ones.
    """

    def __init__(self, directory: Path) -> None:
        """Load the model in `directory` and run its initialisers.

        A missing `variables` folder is not noticed here but by the first `run`.

        Raises:
            ServingError: TensorFlow cannot load it; with TensorFlow's code and message.
        """
        from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

        lib = _library()
        self._operations: dict[str, _Output] = {}
        self._graph = lib.TF_NewGraph()
        meta_graph = lib.TF_NewBuffer()
        options = lib.TF_NewSessionOptions()
        try:
            with _status() as status:
                config = _session_config()
                lib.TF_SetConfig(options, config, len(config), status)
            with _status() as status:
                self._session = lib.TF_LoadSessionFromSavedModel(
                    options,
                    None,
                    os.fsencode(directory),
                    (ctypes.c_char_p * 1)(_SERVE_TAG),
                    1,
                    self._graph,
                    meta_graph,
                    status,
                )
            found = ctypes.cast(meta_graph, ctypes.POINTER(_Buffer)).contents
            parsed = MetaGraphDef.FromString(ctypes.string_at(found.data, found.length))
        except ServingError:
            lib.TF_DeleteGraph(self._graph)
            raise
        finally:
            lib.TF_DeleteSessionOptions(options)
            lib.TF_DeleteBuffer(meta_graph)
        self.signatures: dict[str, SignatureDef] = {
            name: signature
            for name, signature in parsed.signature_def.items()
            if not name.startswith("__saved_model")
        }

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout: float | None = None,
    ) -> list[np.ndarray]:
        """Compute the tensors named in `fetches` ("operation:0") from those in `feeds`.

        String tensors are arrays of dtype object that hold bytes. `timeout` is in seconds.

        Raises:
            ServingError: TensorFlow's code and message; DEADLINE_EXCEEDED after `timeout`.
        """
        lib = _library()
        with contextlib.ExitStack() as stack:
            tensors = [stack.enter_context(_tensor(array)) for array in feeds.values()]
            outputs = (ctypes.c_void_p * len(fetches))()
            options = None
            if timeout is not None:
                options = stack.enter_context(_run_options(timeout))
            with _status() as status:
                lib.TF_SessionRun(
                    self._session,
                    options,
                    (_Output * len(feeds))(*map(self._output, feeds)),
                    (ctypes.c_void_p * len(feeds))(*tensors),
                    len(feeds),
                    (_Output * len(fetches))(*map(self._output, fetches)),
                    outputs,
                    len(fetches),
                    None,
                    0,
                    None,
                    status,
                )
            for output in outputs:
                stack.callback(lib.TF_DeleteTensor, output)
            # Copied while the inputs live: a graph may hand one of them through as an output.
            return [_array(output) for output in outputs]

    def close(self) -> None:
        """Free the model's memory; nothing may run in it any more."""
        lib = _library()
        with contextlib.suppress(ServingError), _status() as status:
            lib.TF_CloseSession(self._session, status)
        with contextlib.suppress(ServingError), _status() as status:
            lib.TF_DeleteSession(self._session, status)
        lib.TF_DeleteGraph(self._graph)

    def _output(self, tensor: str) -> _Output:
        output = self._operations.get(tensor)
        if output is None:
            name, _, index = tensor.partition(":")
            operation = _library().TF_GraphOperationByName(self._graph, name.encode())
            if not operation:
                raise invalid(f"the model's graph has no operation {name!r}")
            output = _Output(operation, int(index or 0))
            self._operations[tensor] = output
        return output


@functools.cache
def _library() -> ctypes.CDLL:
    import tensorflow as tf  # loads the libraries that this one is linked to, and registers kernels

    lib = ctypes.CDLL(str(Path(tf.__file__).with_name("libtensorflow_cc.so.2")))
    pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    text, longs = ctypes.c_char_p, ctypes.POINTER(ctypes.c_int64)
    outputs, pointers = ctypes.POINTER(_Output), ctypes.POINTER(ctypes.c_void_p)
    run = (pointer, pointer, outputs, pointers, integer, outputs, pointers, integer)
    prototypes: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "TF_NewStatus": (pointer, ()),
        "TF_DeleteStatus": (None, (pointer,)),
        "TF_GetCode": (integer, (pointer,)),
        "TF_Message": (text, (pointer,)),
        "TF_NewBuffer": (pointer, ()),
        "TF_NewBufferFromString": (pointer, (text, size)),
        "TF_DeleteBuffer": (None, (pointer,)),
        "TF_NewGraph": (pointer, ()),
        "TF_DeleteGraph": (None, (pointer,)),
        "TF_GraphOperationByName": (pointer, (pointer, text)),
        "TF_NewSessionOptions": (pointer, ()),
        "TF_SetConfig": (None, (pointer, text, size, pointer)),
        "TF_DeleteSessionOptions": (None, (pointer,)),
        "TF_LoadSessionFromSavedModel": (
            pointer,
            (pointer, pointer, text, ctypes.POINTER(text), integer, pointer, pointer, pointer),
        ),
        "TF_SessionRun": (None, (*run, pointers, integer, pointer, pointer)),
        "TF_CloseSession": (None, (pointer, pointer)),
        "TF_DeleteSession": (None, (pointer, pointer)),
        "TF_AllocateTensor": (pointer, (integer, longs, integer, size)),
        "TF_DeleteTensor": (None, (pointer,)),
        "TF_TensorType": (integer, (pointer,)),
        "TF_NumDims": (integer, (pointer,)),
        "TF_Dim": (ctypes.c_int64, (pointer, integer)),
        "TF_TensorByteSize": (size, (pointer,)),
        "TF_TensorData": (pointer, (pointer,)),
        "TF_StringInit": (None, (pointer,)),
        "TF_StringCopy": (None, (pointer, text, size)),
        "TF_StringDealloc": (None, (pointer,)),
        "TF_StringGetDataPointer": (pointer, (pointer,)),
        "TF_StringGetSize": (size, (pointer,)),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


@functools.cache
def _session_config() -> bytes:
    from tensorflow.core.protobuf.config_pb2 import ConfigProto

    config = ConfigProto()
    # Else a second session or process finds no memory left on the device.
    config.gpu_options.allow_growth = True
    return config.SerializeToString()


@contextlib.contextmanager
def _status() -> Iterator[int]:
    """Yield a TF_Status to fill, and raise what it says after the block."""
    lib = _library()
    status = lib.TF_NewStatus()
    try:
        yield status
        code = lib.TF_GetCode(status)
        if code:
            message = of_op(lib.TF_Message(status).decode(errors="replace"), LONGEST_MESSAGE)
            raise ServingError(CODES[code] if code < len(CODES) else "UNKNOWN", message)
    finally:
        lib.TF_DeleteStatus(status)


@contextlib.contextmanager
def _run_options(timeout: float) -> Iterator[int]:
    from tensorflow.core.protobuf.config_pb2 import RunOptions

    # 0 would mean no limit.
    text = RunOptions(timeout_in_ms=max(1, int(timeout * 1000))).SerializeToString()
    lib = _library()
    buffer = lib.TF_NewBufferFromString(text, len(text))
    try:
        yield buffer
    finally:
        lib.TF_DeleteBuffer(buffer)


@contextlib.contextmanager
def _tensor(array: np.ndarray) -> Iterator[int]:
    """Yield a TF_Tensor with a copy of `array`."""
    lib = _library()
    is_string = array.dtype == object
    number = _STRING if is_string else _type_number(array.dtype)
    length = array.size * _STRING_BYTES if is_string else array.nbytes
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    tensor = lib.TF_AllocateTensor(number, shape, array.ndim, length)
    data = lib.TF_TensorData(tensor)
    strings: list[int] = []
    try:
        if is_string:
            for index, value in enumerate(array.ravel()):
                string = data + index * _STRING_BYTES
                lib.TF_StringInit(string)
                strings.append(string)
                lib.TF_StringCopy(string, value, len(value))
        elif length:
            contiguous = np.ascontiguousarray(array)
            ctypes.memmove(data, contiguous.ctypes.data, length)
        yield tensor
    finally:
        # The tensor does not own what its strings point to.
        for string in strings:
            lib.TF_StringDealloc(string)
        lib.TF_DeleteTensor(tensor)


def _array(tensor: int | None) -> np.ndarray:
    """Copy a TF_Tensor."""
    lib = _library()
    shape = tuple(lib.TF_Dim(tensor, axis) for axis in range(lib.TF_NumDims(tensor)))
    number = lib.TF_TensorType(tensor)
    data = lib.TF_TensorData(tensor)
    if number == _STRING:
        flat = np.empty(int(np.prod(shape, dtype=np.int64)), object)
        for index in range(flat.size):
            string = data + index * _STRING_BYTES
            length = lib.TF_StringGetSize(string)
            flat[index] = ctypes.string_at(lib.TF_StringGetDataPointer(string), length)
        return flat.reshape(shape)
    content = ctypes.string_at(data, lib.TF_TensorByteSize(tensor)) if data else b""
    return np.frombuffer(content, _numpy_type(number)).reshape(shape)


@functools.cache
def _type_number(dtype: np.dtype) -> int:
    import tensorflow as tf

    return tf.dtypes.as_dtype(dtype).as_datatype_enum


@functools.cache
def _numpy_type(number: int) -> np.dtype:
    import tensorflow as tf

    return np.dtype(tf.dtypes.as_dtype(number).as_numpy_dtype)
