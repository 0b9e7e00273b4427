"""The pipeline from Python, for notebooks, tests and other schedulers.

    from pipeline import api

    run = api.run({"data.source": "photos", "train.recipe": "mobilenet"})
    print(run.report().evaluation.candidate.metrics["accuracy"].value)
    print(run.predict(["cat.jpg"]))

A failure is a `UserError` of pipeline.errors, with the message and exit code of the command line.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TextIO

from components import environment
from pipeline import prediction
from pipeline.config import Loaded, check_paths
from pipeline.config import load as _load
from pipeline.report import history
from pipeline.report.facts import Facts
from pipeline.run import new_run_id, run_locked
from pipeline.workspace import Workspace

WORKSPACE = Path("workspace")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The classes of one image.

    classes: name and probability in [0, 1] of the likeliest classes, the likeliest first; empty
    where the image cannot be used. problem: why it cannot; "" where it can.
    """

    file: Path
    classes: tuple[tuple[str, float], ...]
    problem: str = ""

    @property
    def label(self) -> str:
        """The likeliest class; "" where the image cannot be used."""
        return self.classes[0][0] if self.classes else ""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a workspace, as `run` and `find` return it."""

    workspace: Path
    id: str

    @property
    def folder(self) -> Path:
        """Folder of the report, the settings and the record."""
        return Workspace(self.workspace).run_dir(self.id)

    @property
    def page(self) -> Path:
        """The report as an HTML page."""
        return self.folder / "report.html"

    def report(self) -> Facts:
        """Read the report: state, data, training, evaluation, verdict and settings.

        Raises ConfigError where it cannot be read.
        """
        place = Workspace.open(self.workspace)
        return history.read_facts(place, history.find(place, self.id))

    def predict(self, images: Iterable[str | Path], top: int = 3) -> list[Prediction]:
        """Classify image files, and folders of them, with the model of the run.

        Raises ConfigError for a run without a model, DataError for a folder without images.
        """
        return predict(self.id, images, top=top, workspace=self.workspace)


def settings(
    values: Mapping[str, object] | None = None, *, file: str | Path | None = None
) -> Loaded:
    """Load settings, by dotted key, on top of those of a TOML file, presets and defaults.

    Returns the configuration and the origin of each setting. Raises ConfigError.
    """
    given = {key: str(v) if isinstance(v, Path) else v for key, v in (values or {}).items()}
    return _load(None if file is None else Path(file), given)


def run(
    values: Mapping[str, object] | None = None,
    *,
    file: str | Path | None = None,
    show: Literal["plain", "json", "nothing"] = "plain",
) -> Run:
    """Train, evaluate and push a model, as `perennial run` does, and return the run.

    Args:
      values: settings by dotted key, such as {"train.epochs": 20}.
      file: TOML file of settings; `values` win.
      show: form of the progress on standard output, or nothing.

    Raises:
      NotBlessed: the model was not blessed; `find()` returns the run.
      UserError: any other failure.
    """
    environment.prepare()
    loaded = settings(values, file=file)

    check_paths(loaded.config)
    place = Workspace(loaded.config.workspace)
    with place.lock():
        run_id = new_run_id(place)
        # A notebook's own is not a file of the system's, and has to be written directly.
        stream: TextIO | None = None if sys.stdout is sys.__stdout__ else sys.stdout
        if show == "nothing":
            show, stream = "plain", io.StringIO()
        run_locked(loaded.config, loaded.origins, show, place, run_id, stream=stream)
    return Run(place.root, run_id)


def find(name: str = "latest", workspace: str | Path = WORKSPACE) -> Run:
    """Find a run by its id, the beginning or the end of it, or the latest. Raises ConfigError."""
    place = Workspace.open(Path(workspace))
    return Run(place.root, history.find(place, name).run_id)


def runs(workspace: str | Path = WORKSPACE) -> list[Run]:
    """List the runs, newest first."""
    place = Workspace.open(Path(workspace))
    return [Run(place.root, each.run_id) for each in history.runs(place)]


def predict(
    model: str,
    images: Iterable[str | Path],
    *,
    top: int = 3,
    workspace: str | Path = WORKSPACE,
    name: str = "perennial",
) -> list[Prediction]:
    """Classify images with any model, as `perennial predict` does.

    Args:
      model: a run, the number or folder of a pushed version, HOST:PORT or http://HOST:PORT.
      images: files, and folders of them.
      top: classes of each image.
      workspace: that of runs and pushed versions.
      name: of the model on a server and in `workspace`.

    Raises ConfigError for a model that cannot be reached, DataError for a folder without images.
    """
    environment.prepare()
    found = prediction.predict(
        model, list(map(Path, images)), top=top, workspace=Path(workspace), name=name
    )
    return [
        Prediction(path, (), problem=result)
        if isinstance(result, str)
        else Prediction(path, tuple(result))
        for path, result in found
    ]
