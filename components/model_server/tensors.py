"""Tensors as they travel: TensorProto for gRPC, JSON for REST, NumPy arrays in between.

String tensors are arrays of dtype object that hold bytes. The JSON forms are those of TensorFlow
Serving's REST API: rows ("instances" and "predictions") and columns ("inputs" and "outputs").
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

from components.model_server.errors import ServingError, invalid

Arrays = dict[str, np.ndarray]


def _double(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError("Number too big to be stored in double")
    return number


_JSON = json.JSONDecoder(  # the first of keys that come twice counts
    object_pairs_hook=lambda pairs: dict(reversed(pairs)), parse_float=_double
)
_KINDS: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}


class JsonRequest(NamedTuple):
    """A parsed body: `by_row` says which of the two forms it has and so the answer must have."""

    signature: str
    by_row: bool
    content: Any


def from_proto(name: str, proto: TensorProto, max_bytes: int) -> np.ndarray:
    """Read a TensorProto that a client sent.

    Raises:
        ServingError: INVALID_ARGUMENT where it contradicts itself, or where its shape promises more
            than `max_bytes` (one value can stand for any number of equal ones).
    """
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid(f"input {name!r} has no fully defined shape: {shape}")
    try:
        dtype = tf.dtypes.as_dtype(proto.dtype)
        item_bytes = 1 if dtype == tf.string else dtype.size
        if math.prod(shape) * item_bytes > max_bytes:
            raise invalid(f"input {name!r} of shape {shape} is larger than {max_bytes} bytes")
        array = tf.make_ndarray(proto)
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(f"input {name!r} is not a valid tensor: {error}") from error
    if dtype == tf.string and not all(isinstance(value, bytes) for value in array.ravel()):
        raise invalid(f"input {name!r} has the wrong number of strings for shape {shape}")
    return array


def to_proto(array: np.ndarray) -> TensorProto:
    """Write an array as a TensorProto."""
    return tf.make_tensor_proto(array, tf.string if array.dtype == object else array.dtype)


def parse_json(body: bytes | bytearray) -> JsonRequest:
    """Read the body of a predict request as TensorFlow Serving does.

    Text after the JSON, other keys, NaN and Infinity are taken; of keys that come twice the first.

    Raises:
        ServingError: INVALID_ARGUMENT; what is wrong with it.
    """
    try:
        text = body.decode("utf-8-sig").lstrip()
        document, _ = _JSON.raw_decode(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid("the request must be a JSON object with 'instances' or 'inputs'")
    forms = [form for form in ("instances", "inputs") if form in document]
    if len(forms) != 1:
        raise invalid(f"the request must have either 'instances' or 'inputs', found {forms}")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid(f"'signature_name' must be a string, found {_short(signature)}")
    by_row = forms == ["instances"]
    content = document[forms[0]]
    if by_row and not (isinstance(content, list) and content):
        raise invalid(f"'instances' must be a list of at least one, found {_short(content)}")
    return JsonRequest(signature, by_row, content)


def from_json(request: JsonRequest, inputs: Mapping[str, TensorInfo]) -> Arrays:
    """Make the arrays for a signature's `inputs` from the JSON of a request.

    Raises:
        ServingError: INVALID_ARGUMENT; which input is wrong and why.
    """
    columns = _columns(request, inputs)
    return {name: _from_json(name, columns[name], info.dtype) for name, info in inputs.items()}


def to_json(outputs: Arrays, by_row: bool) -> dict[str, Any]:
    """Write a signature's outputs in the form of the request: one alone stands without its name.

    Raises:
        ServingError: INVALID_ARGUMENT where rows are wanted but the outputs share no batch size.
    """
    columns = {name: _to_json(name, array) for name, array in outputs.items()}
    if not by_row:
        return {"outputs": _unnamed(columns)}
    sizes = {array.shape[0] if array.ndim else None for array in outputs.values()}
    if len(sizes) != 1 or None in sizes:
        shapes = {name: array.shape for name, array in outputs.items()}
        raise invalid(f"outputs without a common batch size have no row format: {shapes}")
    if len(columns) == 1:
        return {"predictions": _unnamed(columns)}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _columns(request: JsonRequest, inputs: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
    content = request.content
    if not _is_named(content[0] if request.by_row else content):
        if len(inputs) != 1:
            raise invalid(f"the signature has several inputs, so name them: {sorted(inputs)}")
        if request.by_row and any(map(_is_named, content)):
            raise invalid("'instances' must be all values, or all objects of named values")
        return dict.fromkeys(inputs, content)
    if not request.by_row:
        if missing := inputs.keys() - content.keys():
            raise invalid(f"missing inputs {sorted(missing)} in 'inputs'")
        return content
    for index, row in enumerate(content):
        if not (_is_named(row) and row.keys() == inputs.keys()):
            raise invalid(f"instance {index} must have the inputs {sorted(inputs)}: {_short(row)}")
    return {name: [row[name] for row in content] for name in inputs}


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _from_json(name: str, value: Any, number: int) -> np.ndarray:
    dtype = tf.dtypes.as_dtype(number)
    try:
        cells = np.array(value, object)
        kinds = {type(cell) for cell in cells.ravel()}
    except ValueError:
        kinds = {list}
    if list in kinds:
        raise invalid(f"input {name!r} is not a full array: {_short(value)}")
    if dtype == tf.string:
        texts = np.empty(cells.shape, object)
        texts.ravel()[:] = [_string(name, cell) for cell in cells.ravel()]
        return texts
    wanted = np.dtype(dtype.as_numpy_dtype)
    if not kinds <= _KINDS.get(wanted.kind, set()):
        raise invalid(f"input {name!r} must hold {dtype.name} values: {_short(value)}")
    # As in TensorFlow Serving, small integers wrap around and floats are rounded, also to infinity.
    is_small = wanted.kind in "iu" and wanted.itemsize < 4
    if wanted.kind in "iu":
        held = np.iinfo(np.int32 if is_small else wanted)
        if any(not held.min <= cell <= held.max for cell in cells.ravel()):
            raise invalid(f"input {name!r} has values outside of {held.dtype}: {_short(value)}")
    try:
        with np.errstate(over="ignore"):
            return cells.astype(np.int64 if is_small else wanted).astype(wanted)
    except OverflowError as error:
        raise invalid(f"input {name!r}: {error}") from error


def _string(name: str, value: Any) -> bytes:
    try:
        if isinstance(value, str):
            return value.encode()
        if _is_base64(value):
            text = "".join(value["b64"].split())
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:  # half a surrogate pair, or no base64
        raise invalid(f"input {name!r} cannot be decoded: {error}") from error
    raise invalid(f'input {name!r} must hold text or {{"b64": "..."}}, found {_short(value)}')


def _to_json(name: str, array: np.ndarray) -> Any:
    if array.dtype != object:
        if array.dtype.kind not in "iufb":
            array = array.astype(np.float32)  # bfloat16 and the like
        return (_shortened(array) if array.dtype == np.float32 else array).tolist()
    # Only the name can tell bytes from text.
    encode = _encoded if name.endswith("_bytes") else _decoded
    return np.vectorize(encode, [object])(array).tolist()


def _shortened(array: np.ndarray) -> np.ndarray:
    """As float64 with 6 digits or, where that would be another float32, with 9."""
    numbers = array.ravel().tolist()
    six = np.array([float(f"{number:.6g}") for number in numbers])
    nine = np.array([float(f"{number:.9g}") for number in numbers])
    return np.where(six.astype(np.float32) == array.ravel(), six, nine).reshape(array.shape)


def _encoded(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ServingError("INTERNAL", f"an output is not UTF-8 text: {error}") from error


def _unnamed(columns: dict[str, Any]) -> Any:
    return next(iter(columns.values())) if len(columns) == 1 else columns


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, list | dict) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."
