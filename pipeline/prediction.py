"""Classify images with a model of a run, a folder or a server, or with published weights."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.image_example_gen.sources.folder import EXTENSIONS
from pipeline.errors import ConfigError, DataError
from pipeline.noise import redirect_output
from pipeline.report import history
from pipeline.workspace import Workspace

Classes = list[tuple[str, float]]
_SAVED = "saved_model.pb"
_ADDRESS = re.compile(r"[^/\s]+:\d+")


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """A BiT as it was published, with its own head.

    source: .npz file or URL, folder of a SavedModel, TF-Hub or Kaggle handle. sha256: their digest;
    without it they are not used, and the error names it. variant: architecture of an .npz file.
    image_size: height and width of the input in pixels.
    """

    source: str
    sha256: str = ""
    variant: str = "R50x1"
    image_size: int = 480


def predict(
    model: str | PublishedWeights,
    images: Sequence[Path],
    *,
    top: int = 3,
    workspace: Path = Path("workspace"),
    name: str = "perennial",
    labels: Sequence[str] = (),
) -> Iterator[tuple[Path, Classes | str]]:
    """Yield each image with its likeliest classes, or with the reason why it cannot be used.

    Args:
      model: a run, the number or folder of a pushed version, HOST:PORT, http://HOST:PORT, or
        weights.
      images: files, and folders of them.
      top: classes of each image, with their probabilities in [0, 1], the likeliest first.
      workspace: that of runs and pushed versions.
      name: of the model on a server and in `workspace`.
      labels: names of all classes, of weights or of a server's version that is not in `workspace`.

    Raises:
      ConfigError: the model cannot be found, loaded or reached.
      DataError: a folder without images.
    """
    files = list(_files(images))
    is_server = isinstance(model, str) and ("://" in model or _ADDRESS.fullmatch(model))
    folder = None
    if isinstance(model, str) and not is_server:
        folder = _folder(model, workspace, name)
    # TensorFlow takes seconds to import, and prints meanwhile.
    with redirect_output(Path(os.devnull)):
        from pipeline import predictors

        if isinstance(model, PublishedWeights):
            predictor = predictors.of_weights(
                model.source,
                model.sha256,
                labels,
                variant=model.variant,
                image_size=model.image_size,
            )
        elif folder is not None:
            predictor = predictors.of_saved_model(folder, labels)
        else:
            predictor = predictors.of_server(model, name, labels, workspace / "serving" / name)
    yield from predictors.classify(files, predictor, top)


def _files(images: Sequence[Path]) -> Iterator[Path]:
    for path in images:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        if not found:
            raise DataError(f"{path}: no file in this folder is named like an image")
        yield from found


def _folder(model: str, workspace: Path, name: str) -> Path:
    """Return the SavedModel of a run, or of the number or folder of a version."""
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
    place = Workspace.open(workspace)
    run = history.find_finished(place) if model == history.LATEST else history.find(place, model)
    facts = history.read_facts(place, run)
    artifact = facts.artifact("model")
    # The record has the place that the workspace had then: its artifacts are <node>/<output>/<id>.
    parts = Path(artifact.uri).parts[-3:] if artifact else ()
    folder = place.artifacts.joinpath(*parts, "Format-Serving")
    if not (folder / _SAVED).is_file():
        raise ConfigError(f"run {facts.run.run_id} ({facts.run.state}) has no model")
    return folder


def _newest(base: Path) -> Path | None:
    """Return the highest of the numbered versions in `base`."""
    versions = [path for path in base.glob("[0-9]*/") if (path / _SAVED).is_file()]
    return max(versions, key=lambda path: int(path.name), default=None)
