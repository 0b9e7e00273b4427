"""Images of an Examples artifact, by the SHA-256 of the original files."""

from __future__ import annotations

import tensorflow as tf

from components import decoding, features, storage
from pipeline.report import pictures


def read(folder: str, feature: str, wanted: set[str]) -> dict[str, bytes]:
    """Read a feature of the wanted images of a split, images as thumbnails.

    Stops when all are found. folder: path or URI of the split.
    """
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in (features.SHA256, feature)}
    found: dict[str, bytes] = {}
    for name in storage.names(folder):
        with storage.local_file(storage.join(folder, name)) as file:
            for batch in (
                tf.data.TFRecordDataset(file)
                .batch(64)
                .map(lambda records: tf.io.parse_example(records, spec))
                .as_numpy_iterator()
            ):
                for digest, value in zip(batch[features.SHA256], batch[feature], strict=True):
                    if (sha256 := digest.decode()) in wanted and sha256 not in found:
                        found[sha256] = thumbnail(value) if feature == features.IMAGE else value
                if len(found) == len(wanted):
                    return found
    return found


def thumbnail(encoded: bytes) -> bytes:
    """Shrink an encoded image; it is decoded as for training and serving."""
    return pictures.encode(decoding.decode_now(encoded).pixels.numpy())
