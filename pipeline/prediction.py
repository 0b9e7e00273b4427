"""Classify images with a model of a run, a folder or a server."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from components import servable
from pipeline.errors import ConfigError, DataError
from pipeline.noise import redirect_output

if TYPE_CHECKING:
    import numpy as np

# Of a request: at most so many images, bytes and pixels, of which servers take twice as many. REST
# makes a third more of the bytes.
_BATCH = 16
_BATCH_BYTES = 8 * 2**20
_BATCH_PIXELS = 50_000_000
_SAVED = "saved_model.pb"
_ADDRESS = re.compile(r"[^/\s]+:\d+")


class Answers(NamedTuple):
    """Of N images the probabilities, float [N, classes], and the likeliest class of each.

    classes: the names of all classes, empty where they are not known.
    """

    probabilities: np.ndarray
    labels: list[str]
    classes: Sequence[str]


Predict = Callable[[Sequence[bytes]], Answers]


Classes = list[tuple[str, float]]


def predict(
    model: str,
    images: Sequence[Path],
    *,
    top: int = 3,
    workspace: Path = Path("workspace"),
    name: str = "perennial",
    labels: Sequence[str] = (),
) -> Iterator[tuple[Path, Classes | str]]:
    """Yield each image with its likeliest classes, or with the reason why it cannot be used.

    Args:
      model: a run, the number or folder of a pushed version, HOST:PORT or http://HOST:PORT.
      images: files, and folders of them.
      top: classes of each image, with their probabilities in [0, 1], the likeliest first.
      workspace: that of runs and pushed versions.
      name: of the model on a server and in `workspace`.
      labels: names of all classes, for a server whose version is not in `workspace`.

    Raises:
      ConfigError: the model cannot be found or asked.
      DataError: a folder without images.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with redirect_output(Path(os.devnull)):  # for what libraries print while they are loaded
        files = list(_files(images))
        ask = _model(model, workspace, name, list(labels))
    for batch in _batches(files):
        yield from _predicted(batch, ask, top)


def _files(images: Sequence[Path]) -> Iterator[Path]:
    from components.image_example_gen.sources.folder import EXTENSIONS

    for path in images:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        if not found:
            raise DataError(f"{path}: no file in this folder is named like an image")
        yield from found


# A file, and it as a model can read it, or what is wrong with it.
_Prepared = tuple[Path, "bytes | str"]


class _Refused(Exception):  # noqa: N818 - it becomes a line about each image
    """A server does not take these images."""


def _batches(files: Iterable[Path]) -> Iterator[list[_Prepared]]:
    """The files in their order, as many together as fit into a request."""
    from components.image_example_gen import formats

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
    from components.image_example_gen.files import Unusable
    from components.image_example_gen.images import read_image
    from components.image_example_gen.options import Options

    try:
        return read_image(file.read_bytes(), Options.max_pixels).encoded
    except OSError as error:
        return error.strerror or str(error)
    except Unusable as error:
        return str(error)


def _predicted(
    batch: Sequence[_Prepared], ask: Predict, top: int
) -> Iterator[tuple[Path, Classes | str]]:
    """For each file the likeliest classes, or what is wrong with it."""
    images = [content for _, content in batch if isinstance(content, bytes)]
    answers: Iterator[Classes] = iter(())
    try:
        answers = iter(_answers(images, ask, top))
    except _Refused as refused:
        if len(batch) > 1:
            # One image fails the whole request.
            for one in batch:
                yield from _predicted([one], ask, top)
            return
        batch = [(file, str(refused)) for file, _ in batch]
    for file, content in batch:
        yield file, content if isinstance(content, str) else next(answers)


def _answers(images: Sequence[bytes], ask: Predict, top: int) -> list[Classes]:
    import numpy as np

    answers: list[Classes] = []
    if not images:
        return answers
    answered = ask(images)
    known = _fits(answered)
    for row, label in zip(answered.probabilities, answered.labels, strict=True):
        order = np.argsort(-row, kind="stable")[:top]
        names = {i: answered.classes[i] if known else f"class {i}" for i in order}
        # Of classes with the same probability, a server need not name the first.
        answers.append(
            [
                (names[i] if known or place else label, float(row[i]))
                for place, i in enumerate(order)
            ]
        )
    return answers


def _fits(answered: Answers) -> bool:
    """Whether the names can be those of the classes: each image's likeliest is called so."""
    best = answered.probabilities.argmax(axis=1)
    return len(answered.classes) == answered.probabilities.shape[1] and all(
        answered.classes[index] == label for index, label in zip(best, answered.labels, strict=True)
    )


def _model(model: str, workspace: Path, name: str, labels: list[str]) -> Predict:
    """What answers; `labels` are the names of its classes where they are given."""
    if "://" in model or _ADDRESS.fullmatch(model):
        return _server(model, name, labels, workspace / "serving" / name)
    return _saved_model(_folder(model, workspace, name), labels)


def _folder(model: str, workspace: Path, name: str) -> Path:
    """The SavedModel that is meant. Raises ConfigError."""
    from pipeline.report import history
    from pipeline.workspace import Workspace

    pushed = workspace / "serving" / name / model
    if model.isdecimal() and pushed.is_dir():
        return pushed
    if Path(model).is_dir():
        folder = Path(model)
        if (folder / _SAVED).is_file():
            return folder
        if newest := _newest(folder):
            return newest
        raise ConfigError(f"{folder}: holds neither {_SAVED} nor numbered versions of a model")
    place = Workspace(workspace)
    run = history.find_finished(place) if model == history.LATEST else history.find(place, model)
    facts = history.read_facts(place, run)
    artifact = facts.artifact("model")
    folder = Path(artifact.uri) / "Format-Serving" if artifact else Path()
    if not (folder / _SAVED).is_file():
        raise ConfigError(f"run {facts.run.run_id} ({facts.run.state}) has no model")
    return folder


def _newest(base: Path) -> Path | None:
    """The highest of the numbered versions in `base`."""
    versions = [path for path in base.glob("[0-9]*/") if (path / _SAVED).is_file()]
    return max(versions, key=lambda path: int(path.name), default=None)


def _classes(folder: Path) -> list[str]:
    """The class names of a SavedModel, empty where it is not there or does not tell."""
    with contextlib.suppress(FileNotFoundError):
        return servable.read_classes(str(folder))
    return []


def _saved_model(folder: Path, given: list[str]) -> Predict:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures["serving_default"]
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise ConfigError(f"{folder}: is no model that can be asked: {error}") from None

    classes = given or _classes(folder)

    def ask(encoded: Sequence[bytes]) -> Answers:
        assert loaded  # or its variables would be gone
        outputs = signature(tf.constant(list(encoded)))
        labels = [label.decode() for label in outputs["label"].numpy()]
        return Answers(outputs["probabilities"].numpy(), labels, classes)

    return ask


def _server(address: str, name: str, given: list[str], base: Path) -> Predict:
    import numpy as np

    from components.image_example_gen import images  # noqa: F401 - is heavy, too
    from components.model_server.client import Client, strings
    from components.model_server.errors import ServingError

    url = urlsplit(address if "://" in address else f"grpc://{address}")
    if url.scheme not in ("http", "grpc") or not url.hostname or not url.port:
        raise ConfigError(f"{address}: must be HOST:PORT or http://HOST:PORT")
    client = Client(url.hostname, url.port, url.port)

    def newest() -> int | None:
        """The version that is asked where none is named: the highest that is available."""
        found = [v for v, state in client.rest_status(name).items() if state == "AVAILABLE"]
        return max(found, default=None)

    def rest(encoded: Sequence[bytes]) -> tuple[int | None, np.ndarray, list[str]]:
        """Over REST an answer does not tell its version, so that it is asked for by its number."""
        version = newest()
        rows = client.predict_images(name, encoded, version=version)
        labels = [row["label"] for row in rows]
        return version, np.array([row["probabilities"] for row in rows]), labels

    def grpc(encoded: Sequence[bytes]) -> tuple[int | None, np.ndarray, list[str]]:
        version, outputs = client.predict(name, {"image_bytes": strings(encoded)})
        labels = [label.decode() for label in outputs["label"]]
        return version, outputs["probabilities"], labels

    def ask(encoded: Sequence[bytes]) -> Answers:
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
        return Answers(probabilities, labels, given or _classes(base / str(version)))

    return ask
