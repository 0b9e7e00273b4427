"""The record of one image of a request, a tf.Example, which TFDV and Beam read.

Derived features have the names of the training examples (`components.features`), so that both have
the same statistics. TensorFlow Serving's own PredictionLog has no field for a request's id, and
cannot leave out the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from components import features
from components.image_example_gen.conversion import Summary
from pipeline.monitoring.messages import Example

if TYPE_CHECKING:
    from components.image_example_gen.images import Picture

REQUEST, POSITION = "request/id", "request/position"
TIME, PROTOCOL, LABEL = "request/time", "request/protocol", "request/label"
IS_SHADOW = "request/shadow"
MODEL, VERSION, STATUS = "model/name", "model/version", "model/status"
PROBABILITIES, PREDICTED = "prediction/probabilities", "prediction/label"
EMBEDDING = "prediction/embedding"
OK = "OK"

Vector = Sequence[float] | npt.NDArray[np.floating]

_TEXTS = {
    "request": REQUEST,
    "protocol": PROTOCOL,
    "label": LABEL,
    "model": MODEL,
    "status": STATUS,
    "predicted": PREDICTED,
    "format": features.FORMAT,
    "sha256": features.SHA256,
}
_WHOLE = {
    "position": POSITION,
    "time": TIME,
    "is_shadow": IS_SHADOW,
    "version": VERSION,
    "height": features.HEIGHT,
    "width": features.WIDTH,
    "channels": features.CHANNELS,
    "size": features.BYTES,
}
_REAL = {
    "aspect": features.ASPECT,
    "mean": features.MEAN,
    "contrast": features.CONTRAST,
}
_VECTORS = {"probabilities": PROBABILITIES, "embedding": EMBEDDING}
# Fields of a Row by the names of the features.
FIELDS = {key: name for table in (_TEXTS, _WHOLE, _REAL) for name, key in table.items()}


@dataclasses.dataclass(frozen=True)
class Row:
    """An image of a request, with the answer.

    Attributes:
      request: the id in the answer's header.
      position: of the image in the request.
      time: of the request, ms since 1970.
      protocol: "rest" or "grpc".
      model: its name.
      label: in the request; "" for none.
      is_shadow: whether the label is the recorder's and not the caller's.
      version: that predicted; 0 if the request was refused.
      status: OK, or the gRPC code of the refusal.
      sha256: hex digest of the image.
      format: "jpeg", "png", or the name of another format; "unknown".
      size: of the image, in bytes.
      height, width, channels, aspect, mean, contrast: as in `components.features`; 0 where the
        image cannot be decoded.
      predicted: the likeliest class.
      probabilities: float [classes]; empty where there is no answer.
      embedding: float [D]; empty where it was not asked for.
      image: encoded; empty where it is left out.
    """

    request: str
    position: int
    time: int
    protocol: str
    model: str
    label: str = ""
    is_shadow: bool = False
    version: int = 0
    status: str = OK
    sha256: str = ""
    format: str = "unknown"
    size: int = 0
    height: int = 0
    width: int = 0
    channels: int = 0
    aspect: float = 0.0
    mean: float = 0.0
    contrast: float = 0.0
    predicted: str = ""
    probabilities: Vector = ()
    embedding: Vector = ()
    image: bytes = b""

    @property
    def is_decoded(self) -> bool:
        return self.height > 0


def pictured(picture: Summary | Picture) -> dict[str, Any]:
    """Return the fields of a Row that describe the image itself."""
    return {
        "format": picture.format,
        "height": picture.height,
        "width": picture.width,
        "channels": picture.channels,
        "aspect": picture.width / picture.height,
        "mean": picture.mean,
        "contrast": picture.contrast,
    }


def to_example(row: Row) -> bytes:
    """Serialize a row as a tf.Example."""
    example = Example()
    values = example.features.feature
    for name, key in _TEXTS.items():
        values[key].bytes_list.value.append(getattr(row, name).encode())
    for name, key in _WHOLE.items():
        values[key].int64_list.value.append(int(getattr(row, name)))
    for name, key in _REAL.items():
        values[key].float_list.value.append(getattr(row, name))
    for name, key in _VECTORS.items():
        if len(vector := getattr(row, name)):
            values[key].float_list.value.extend(vector)
    if row.image:
        values[features.IMAGE].bytes_list.value.append(row.image)
    return example.SerializeToString()


def from_example(content: bytes) -> Row:
    """Undo `to_example`. Raises ValueError for anything else."""
    try:
        values = Example.FromString(content).features.feature
        fields: dict[str, Any] = {
            name: values[key].bytes_list.value[0].decode() for name, key in _TEXTS.items()
        }
        fields |= {name: values[key].int64_list.value[0] for name, key in _WHOLE.items()}
        fields |= {name: values[key].float_list.value[0] for name, key in _REAL.items()}
    except (DecodeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"no record of a request: {type(error).__name__}") from error
    fields["is_shadow"] = bool(fields["is_shadow"])
    for name, key in _VECTORS.items():
        fields[name] = np.array(values[key].float_list.value, np.float32)
    images = values[features.IMAGE].bytes_list.value
    return Row(**fields, image=images[0] if images else b"")
