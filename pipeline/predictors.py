"""Models that classify images: a SavedModel, a model server, or weights as they were published."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf
from pydantic import ValidationError

from components import servable
from components.image_example_gen import formats
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import read_image
from components.image_example_gen.options import Options
from components.model_server.client import Client, strings
from components.model_server.errors import ServingError
from pipeline.errors import ConfigError
from trainer_module import pretrained
from trainer_module.models.bit_resnet import VARIANTS
from trainer_module.weights import WeightsError, WeightSpec

# Of a request: at most so many images, bytes and pixels, of which servers take twice as many. REST
# makes a third more of the bytes.
_BATCH = 16
_BATCH_BYTES = 8 * 2**20
_BATCH_PIXELS = 50_000_000

Classes = list[tuple[str, float]]
# A file, and its image as a model reads it, or the reason why it cannot be used.
_Prepared = tuple[Path, bytes | str]


class Answers(NamedTuple):
    """Of N images the probabilities, float [N, classes], and the likeliest class of each.

    classes: the names of all classes, empty where they are not known.
    """

    probabilities: np.ndarray
    labels: list[str]
    classes: Sequence[str]


Predictor = Callable[[Sequence[bytes]], Answers]


class _Refused(Exception):  # noqa: N818 - it becomes a line about each image
    """A server does not take these images."""


def classify(
    files: Iterable[Path], predictor: Predictor, top: int
) -> Iterator[tuple[Path, Classes | str]]:
    """Yield each file with its `top` likeliest classes, or with the reason why it has none."""
    for batch in _batches(files):
        yield from _classified(batch, predictor, top)


def _batches(files: Iterable[Path]) -> Iterator[list[_Prepared]]:
    """Yield the files in their order, as many together as fit into a request."""
    batch: list[_Prepared] = []
    size = pixels = 0
    for file in files:
        content = _prepare(file)
        header = formats.header(content) if isinstance(content, bytes) else None
        size += len(content)
        pixels += header.width * header.height if header else 0
        if batch and (len(batch) == _BATCH or size > _BATCH_BYTES or pixels > _BATCH_PIXELS):
            yield batch
            batch, size = [], len(content)
            pixels = header.width * header.height if header else 0
        batch.append((file, content))
    if batch:
        yield batch


def _prepare(file: Path) -> bytes | str:
    try:
        return read_image(file.read_bytes(), Options.max_pixels).encoded
    except OSError as error:
        return error.strerror or str(error)
    except Unusable as error:
        return str(error)


def _classified(
    batch: Sequence[_Prepared], predictor: Predictor, top: int
) -> Iterator[tuple[Path, Classes | str]]:
    images = [content for _, content in batch if isinstance(content, bytes)]
    answers: Iterator[Classes] = iter(())
    try:
        if images:
            answers = iter(_likeliest(predictor(images), top))
    except _Refused as refused:
        if len(batch) > 1:
            # One image fails the whole request.
            for one in batch:
                yield from _classified([one], predictor, top)
            return
        batch = [(file, str(refused)) for file, _ in batch]
    for file, content in batch:
        yield file, content if isinstance(content, str) else next(answers)


def _likeliest(answered: Answers, top: int) -> list[Classes]:
    """List the likeliest classes of each image, with their names where these are known."""
    found: list[Classes] = []
    known = _fits(answered)
    for row, label in zip(answered.probabilities, answered.labels, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        names = {i: answered.classes[i] if known else f"class {i}" for i in order}
        # Of classes with the same probability, a server need not name the first.
        found.append(
            [
                (names[i] if known or place else label, float(row[i]))
                for place, i in enumerate(order)
            ]
        )
    return found


def _fits(answered: Answers) -> bool:
    """Tell whether the names can be those of the classes: each image's likeliest is called so."""
    best = answered.probabilities.argmax(axis=1)
    return len(answered.classes) == answered.probabilities.shape[1] and all(
        answered.classes[index] == label for index, label in zip(best, answered.labels, strict=True)
    )


def of_saved_model(folder: Path, names: Sequence[str]) -> Predictor:
    """Load a SavedModel. Raises ConfigError for one without the signature for images.

    names: of all classes; without them, those that the model has beside it.
    """
    try:
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures["serving_default"]
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise ConfigError(f"{folder}: cannot be loaded as a classifier: {error}") from None
    classes = names or _classes(folder)

    def predict(encoded: Sequence[bytes]) -> Answers:
        assert loaded  # or its variables would be gone
        outputs = signature(tf.constant(list(encoded)))
        labels = [label.decode() for label in outputs["label"].numpy()]
        return Answers(outputs["probabilities"].numpy(), labels, classes)

    return predict


def of_weights(
    source: str, sha256: str, names: Sequence[str], *, variant: str, image_size: int
) -> Predictor:
    """Load a published BiT with its own head. Raises ConfigError, without a digest with theirs.

    names: of the head's classes, in its order. variant: architecture of an .npz file.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"--variant {variant!r}: must be one of {', '.join(VARIANTS)}")
    try:
        spec = WeightSpec(source=source, sha256=sha256)
        probabilities = pretrained.classifier(spec, len(names), variant, image_size)
    except ValidationError:
        raise ConfigError(f"--sha256 {sha256!r}: must be 64 hexadecimal digits") from None
    except WeightsError as error:
        raise ConfigError(str(error)) from None

    def predict(encoded: Sequence[bytes]) -> Answers:
        found = probabilities(encoded)
        return Answers(found, [names[index] for index in found.argmax(axis=1)], names)

    return predict


def of_server(address: str, name: str, given: Sequence[str], versions: Path) -> Predictor:
    """Make a predictor of the model `name` on a server at HOST:PORT or http://HOST:PORT.

    given: the names of all classes; without them, those of the version in `versions` that has the
    number of the one that answers. Raises ConfigError for an address that is none.
    """
    url = urlsplit(address if "://" in address else f"grpc://{address}")
    if url.scheme not in ("http", "grpc") or not url.hostname or not url.port:
        raise ConfigError(f"{address}: must be HOST:PORT or http://HOST:PORT")
    client = Client(url.hostname, url.port, url.port)

    def newest() -> int | None:
        """Return the version that answers where none is named: the highest that is available."""
        found = [v for v, state in client.rest_status(name).items() if state == "AVAILABLE"]
        return max(found, default=None)

    def rest(encoded: Sequence[bytes]) -> tuple[int | None, np.ndarray, list[str]]:
        """Name the version in a REST request, because the answer does not have it."""
        version = newest()
        rows = client.predict_images(name, encoded, version=version)
        labels = [row["label"] for row in rows]
        return version, np.array([row["probabilities"] for row in rows]), labels

    def grpc(encoded: Sequence[bytes]) -> tuple[int | None, np.ndarray, list[str]]:
        version, outputs = client.predict(name, {"image_bytes": strings(encoded)})
        labels = [label.decode() for label in outputs["label"]]
        return version, outputs["probabilities"], labels

    def predict(encoded: Sequence[bytes]) -> Answers:
        try:
            version, probabilities, labels = (rest if url.scheme == "http" else grpc)(encoded)
        except ServingError as error:
            if error.code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"):
                raise _Refused(f"{address}, model {name}: {error.code}: {error}") from None
            hint = {
                "NOT_FOUND": "; wait until it is AVAILABLE, or give its name with --name",
                "UNAVAILABLE": "; is a server running there?",
            }.get(error.code, "")
            raise ConfigError(f"{address}, model {name}: {error.code}: {error}{hint}") from None
        names = given or _classes(versions / str(version))
        return Answers(probabilities, labels, names)

    return predict


def _classes(folder: Path) -> list[str]:
    """Return the class names of a SavedModel, none where it has no file of them."""
    with contextlib.suppress(FileNotFoundError):
        return servable.read_classes(str(folder))
    return []
