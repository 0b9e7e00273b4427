"""The contract of an exported model: what its signatures and files are called, hold and read.

IMAGES        (image_bytes: string [N], encoded images), to {"probabilities": float32 [N, classes],
              "label": string [N]}
EXAMPLES      (examples: string [N], serialized tf.Examples), to the same
LABELS        (examples: string [N]), to {"label": int64 [N]}
EMBEDDINGS    (image_bytes: string [N]), to {"embedding": float32 [N, D]}
JPEG, PNG     first bytes of the images that they decode; they refuse any other format
CLASSES_FILE  JSON list of the class names, in the order of the probabilities
INPUT_FILE    JSON object: image_size, the side of the model's input in pixels
WARMUP_FILE   TFRecords of PredictionLog, which a server replays while it loads

Nothing here needs TensorFlow.
"""

from __future__ import annotations

import json

from components import storage
from components.errors import read_back

IMAGES = "serving_default"
EXAMPLES = "serving_examples"
LABELS = "transform_labels"
EMBEDDINGS = "embeddings"
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
CLASSES_FILE = "assets.extra/classes.json"
INPUT_FILE = "assets.extra/input.json"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

_LARGEST_SIDE = 1 << 16  # pixels


def read_classes(model: str) -> list[str]:
    """Read the class names of a model at a path or URI. Raises OSError or DamagedFileError."""
    location = storage.join(model, CLASSES_FILE)
    return parse_classes(storage.read_bytes(location), location)


def parse_classes(content: str | bytes, location: str) -> list[str]:
    """Parse a CLASSES_FILE; `location` is for the message.

    Raises DamagedFileError where it is not a list of different names.
    """
    with read_back(location):
        names = json.loads(content)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("it is not a list of class names")
        if len(set(names)) != len(names):
            raise ValueError("it has a class name twice")
    return list(names)


def read_image_size(model: str) -> int:
    """Read the image size of a model at a path or URI. Raises OSError or DamagedFileError."""
    location = storage.join(model, INPUT_FILE)
    with read_back(location):
        size = json.loads(storage.read_bytes(location))["image_size"]
        if type(size) is not int or not 0 < size <= _LARGEST_SIDE:
            raise ValueError(f"image_size = {size!r} is not a number of pixels")
    return int(size)
