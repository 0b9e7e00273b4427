"""Messages of TensorFlow and TensorFlow Serving, in a process that does not load TensorFlow.

The generated modules need only protobuf, but are inside the package `tensorflow`, whose import
takes some seconds and half a gigabyte. During their import an empty module with the same search
path replaces it. Afterwards all its modules are removed from sys.modules, so that TensorFlow can
be imported as usual; protobuf then returns the same classes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def _without_initialization() -> Iterator[None]:
    spec = None if "tensorflow" in sys.modules else importlib.util.find_spec("tensorflow")
    if spec is None:
        yield
        return
    package = types.ModuleType(spec.name)
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[spec.name] = package
    try:
        yield
    finally:
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{spec.name}.")]:
            del sys.modules[name]


with _without_initialization():
    from tensorflow.core.example.example_pb2 import Example
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.framework.types_pb2 import DT_FLOAT, DT_STRING
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

__all__ = ["Example", "PredictRequest", "PredictionServiceStub", "array", "strings"]


def strings(values: list[bytes]) -> TensorProto:
    """Make a tensor of dtype string [N]."""
    proto = TensorProto(dtype=DT_STRING, string_val=values)
    proto.tensor_shape.dim.add(size=len(values))
    return proto


def array(proto: TensorProto) -> np.ndarray:
    """Read a tensor of dtype float32, or string (bytes, dtype object).

    Raises ValueError for another dtype, or where the values do not fill the shape.
    """
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.dtype == DT_STRING:
        return np.array(proto.string_val, object).reshape(shape)
    if proto.dtype != DT_FLOAT:
        raise ValueError(f"a tensor of dtype {proto.dtype}, where float or string is expected")
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, "<f4").reshape(shape)
    values = np.array(proto.float_val, np.float32)
    if len(values) == 1:  # shorthand for any number of equal values
        return np.broadcast_to(values, shape)
    return values.reshape(shape)
