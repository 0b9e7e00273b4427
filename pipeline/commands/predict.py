"""`perennial predict`: what a model says of images, wherever the model is."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple
from urllib.parse import urlsplit

import typer

from pipeline.commands.files import read_labels
from pipeline.commands.options import RUNS, JsonLinesOption, RunsOption
from pipeline.console import printable
from pipeline.errors import ConfigError, DataError
from pipeline.noise import quiet

if TYPE_CHECKING:
    import numpy as np

_BATCH = 16  # images a request
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


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run (or latest, the last that finished), a pushed version's number or folder, "
            "HOST:PORT (gRPC), or http://HOST:PORT (REST).",
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files, or folders of them.")
    ],
    top: Annotated[int, typer.Option(min=1, metavar="K", help="Classes shown for each image.")] = 3,
    as_json: JsonLinesOption = False,
    workspace: RunsOption = RUNS,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="The model, where a server is asked.")
    ] = "perennial",
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Names of the classes, one a line, which a server does not tell (default: those "
            "of the pushed version of the workspace that has the number of the one that answers).",
        ),
    ] = None,
) -> None:
    """Say what a model sees on images. Exit code 3 where one of the files is no usable image.

    Files that a model cannot read, such as TIFF, are converted first, as for training.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet(Path(os.devnull)):  # what it says while it is loaded is not for us
        files = list(_files(images))
        ask = _model(model, workspace, name, read_labels(labels) if labels else [])
    unusable = 0
    for start in range(0, len(files), _BATCH):
        for file, result in _predicted(files[start : start + _BATCH], ask, top):
            unusable += isinstance(result, str)
            _tell(file, result, as_json)
    if unusable:
        raise DataError(f"{unusable} of {len(files)} files cannot be used")


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


_Classes = list[tuple[str, float]]


def _predicted(
    files: Sequence[Path], ask: Predict, top: int
) -> Iterator[tuple[Path, _Classes | str]]:
    """For each file the likeliest classes, or what is wrong with it."""
    import numpy as np

    from components.image_example_gen.files import Unusable
    from components.image_example_gen.images import read_image
    from components.image_example_gen.options import Options

    prepared: dict[int, bytes] = {}
    problems: dict[int, str] = {}
    for index, file in enumerate(files):
        try:
            prepared[index] = read_image(file.read_bytes(), Options.max_pixels).encoded
        except OSError as error:
            problems[index] = error.strerror or str(error)
        except Unusable as error:
            problems[index] = str(error)
    answers: dict[int, _Classes] = {}
    if prepared:
        answered = ask(list(prepared.values()))
        known = _fits(answered)
        for index, row, label in zip(
            prepared, answered.probabilities, answered.labels, strict=True
        ):
            order = np.argsort(-row, kind="stable")[:top]
            names = {i: answered.classes[i] if known else f"class {i}" for i in order}
            # Of classes with the same probability, a server need not name the first.
            answers[index] = [
                (names[i] if known or place else label, float(row[i]))
                for place, i in enumerate(order)
            ]
    for index, file in enumerate(files):
        yield file, answers[index] if index in answers else problems[index]


def _tell(file: Path, result: _Classes | str, as_json: bool) -> None:
    if as_json:
        rows = (
            {"error": result}
            if isinstance(result, str)
            else {"classes": [{"label": label, "probability": p} for label, p in result]}
        )
        print(json.dumps({"file": str(file), **rows}))
    elif isinstance(result, str):
        print(printable(f"{file}: {result}"), file=sys.stderr)
    else:
        shares = ", ".join(f"{label} {share:.1%}" for label, share in result)
        print(printable(f"{file}: {shares}"))


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
    from pipeline.serving.model import CLASSES_FILE, read_classes

    return read_classes(folder / CLASSES_FILE)


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
    from pipeline.serving.client import Client, strings
    from pipeline.serving.errors import ServingError

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
            hint = {
                "NOT_FOUND": "; wait until it is AVAILABLE, or give its name with --name",
                "UNAVAILABLE": "; is a server running there?",
            }.get(error.code, "")
            raise ConfigError(f"{address}, model {name}: {error.code}: {error}{hint}") from None
        return Answers(probabilities, labels, given or _classes(base / str(version)))

    return ask
