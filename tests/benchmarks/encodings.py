"""In what form Transform should keep images: what each costs to write, keep and read back.

    python -m tests.benchmarks.encodings DIR

DIR holds class folders of JPEGs. Each is decoded and resized once; then every form is written to a
TFRecord and read back as tensors, in one process. Only what comes back as it was ("lossless") gives
training the pixels that serving sees.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer_module.transform import decode_pixels, encode_pixels, load_image

SIZE = 160
BYTES = tf.io.FixedLenFeature([], tf.string)


class Form(NamedTuple):
    """One way to keep an image: to a feature of a tf.Example, and back."""

    write: Callable[[tf.Tensor], tf.train.Feature]
    spec: tf.io.FixedLenFeature
    read: Callable[[tf.Tensor], tf.Tensor]


def _bytes(encode: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.train.Feature]:
    return lambda image: tf.train.Feature(
        bytes_list=tf.train.BytesList(value=[encode(image).numpy()])
    )


def _flat(dtype: type) -> Callable[[tf.Tensor], np.ndarray]:
    return lambda image: image.numpy().astype(dtype).ravel()


_INT, _FLOAT = _flat(np.int64), _flat(np.float32)
SHAPE = [SIZE, SIZE, 3]
FORMS = {
    "raw bytes": Form(_bytes(encode_pixels), BYTES, lambda value: decode_pixels(value, SIZE)[0]),
    "JPEG q95 4:4:4": Form(
        _bytes(lambda image: tf.io.encode_jpeg(image, quality=95, chroma_downsampling=False)),
        BYTES,
        tf.io.decode_jpeg,
    ),
    "PNG": Form(_bytes(tf.io.encode_png), BYTES, tf.io.decode_png),
    "int64": Form(
        lambda image: tf.train.Feature(int64_list=tf.train.Int64List(value=_INT(image))),
        tf.io.FixedLenFeature(SHAPE, tf.int64),
        lambda value: tf.cast(value, tf.uint8),
    ),
    "float32": Form(
        lambda image: tf.train.Feature(float_list=tf.train.FloatList(value=_FLOAT(image))),
        tf.io.FixedLenFeature(SHAPE, tf.float32),
        lambda value: tf.cast(value, tf.uint8),
    ),
}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def _write(images: list[tf.Tensor], form: Form, path: str, compression: str) -> None:
    with tf.io.TFRecordWriter(path, compression) as writer:
        for image in images:
            example = tf.train.Example(
                features=tf.train.Features(feature={"image": form.write(image)})
            )
            writer.write(example.SerializeToString())


def _read(form: Form, path: str, compression: str) -> list[np.ndarray]:
    def parse(record: tf.Tensor) -> tf.Tensor:
        return form.read(tf.io.parse_single_example(record, {"image": form.spec})["image"])

    return list(tf.data.TFRecordDataset(path, compression).map(parse).as_numpy_iterator())


def report(root: Path) -> None:
    """Measure and print; ratios are to the first form, without compression."""
    files = sorted(root.glob("*/*.jpg"))
    prepare = tf.function(
        lambda encoded: load_image(encoded, SIZE, "area"),
        input_signature=[tf.TensorSpec([], tf.string)],
    )
    prepare(tf.constant(files[0].read_bytes()))
    cost, images = _timed(lambda: [prepare(tf.constant(file.read_bytes())) for file in files])
    print(
        f"{len(files)} images at {SIZE} px; decode and resize: {1000 * cost / len(files):.2f} CPU"
    )
    print("ms an image. Below, CPU ms an image (and times the first line's):")
    print(f"{'':22} {'write':>14} {'read':>14} {'kB an image':>16}  lossless")
    base: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, form in FORMS.items():
            for compression in ("", "GZIP"):
                path = str(Path(folder, f"{name}{compression}"))
                _write(images[:2], form, path, compression)
                _read(form, path, compression)
                write, _ = _timed(partial(_write, images, form, path, compression))
                read, back = _timed(partial(_read, form, path, compression))
                lossless = all(map(np.array_equal, images, back))
                row = [1000 * write, 1000 * read, Path(path).stat().st_size / 1000]
                row = [value / len(files) for value in row]
                base = base or row
                cells = [
                    f"{value:7.2f} ({value / first:4.1f})"
                    for value, first in zip(row, base, strict=True)
                ]
                label = f"{name} {compression.lower()}"
                print(f"{label:22} {cells[0]} {cells[1]} {cells[2]:>16}  {lossless}", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    report(parser.parse_args().root)


if __name__ == "__main__":
    main()
