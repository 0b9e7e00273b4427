"""Pretrained weights: where they come from, and that they are the ones that were meant."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from components import progress
from components.wording import shortened

if TYPE_CHECKING:
    import keras


PROGRAM = (
    "a SavedModel is a program that can read and write what you can; use one only if you know who "
    "made it"
)


class WeightsError(Exception):
    """The weights cannot be had, or are not those that the model or the configuration expects."""


class WeightSpec(BaseModel):
    """Weights and what belongs to them. The settings of `train.hyperparameters.weights`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    source: str = Field(
        "",
        description="An .npz file or its URL, a SavedModel's folder, or a TF-Hub or Kaggle handle; "
        "empty: none, train from scratch.",
    )
    sha256: str = Field(
        "",
        pattern="^([0-9a-f]{64})?$",
        description="Digest of the file, or of all files of the SavedModel; a source needs one.",
    )
    licence: str = Field("", description="Licence of the weights, kept with the run.")
    input_range: tuple[float, float] | None = Field(
        None,
        strict=False,
        description="What 0 and 255 become for the first layer; unset: -1 and 1, for a SavedModel "
        "0 and 1.",
    )
    trainable: bool = Field(True, description="Train the backbone too; false: only the new head.")

    @property
    def is_saved_model(self) -> bool:
        """Whether `source` is a SavedModel's folder or a handle."""
        return bool(self.source) and not self.source.endswith(".npz")

    @property
    def range(self) -> tuple[float, float]:
        """The values that pixels of 0 and 255 become."""
        return self.input_range or ((0.0, 1.0) if self.is_saved_model else (-1.0, 1.0))

    def fetch(self) -> Path:
        """The local file or folder, downloaded where need be, after its digest was checked.

        Raises:
            WeightsError: it cannot be had, or its digest is not `sha256`.
        """
        path = _saved_model(self.source) if self.is_saved_model else _npz(self.source, self.sha256)
        if (found := digest(path)) != self.sha256:
            problem = "are not the ones configured" if self.sha256 else "are not confirmed"
            warning = f"; {PROGRAM}" if self.is_saved_model else ""
            raise WeightsError(
                f"the weights {self.source} {problem}: their sha256 is {found}; if you trust them, "
                f"set train.hyperparameters.weights.sha256 (classify: --sha256) to it{warning}"
            )
        if self.is_saved_model:
            progress.report("note", text=f"{self.source}: {PROGRAM}")
        progress.report(
            "note",
            text=f"weights: {self.source}, sha256 {found}, licence {self.licence or 'not stated'}",
        )
        return path


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the sorted list of a folder's files and their own SHA-256."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    lines = (f"{digest(path / name)}  {name}\n" for name in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, by name. Raises WeightsError for another, or for objects."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, EOFError, MemoryError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not a plain .npz file of arrays: {error}") from error


def assign(
    arrays: dict[str, np.ndarray], variables: dict[str, keras.Variable], source: object
) -> None:
    """Set each variable to the array of its name.

    Raises:
        WeightsError: names of only one side, or other shapes; nothing is assigned then. It lists
            them all, as the remainders of `source` and of the model.
    """
    problems = []
    if unused := sorted(arrays.keys() - variables.keys()):
        problems.append(f"the file has {len(unused)} arrays too many: {shortened(unused)}")
    if missing := sorted(variables.keys() - arrays.keys()):
        problems.append(f"the model has {len(missing)} weights too many: {shortened(missing)}")
    for name in sorted(arrays.keys() & variables.keys()):
        found, wanted = arrays[name].shape, tuple(variables[name].shape)
        if found != wanted:
            problems.append(f"{name} has shape {found} where the model has {wanted}")
    if problems:
        raise WeightsError(
            f"the weights {source} do not fit the model: {'; '.join(problems)}; "
            "set train.hyperparameters.variant to the variant of the file, or name another file"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _npz(source: str, sha256: str) -> Path:
    if "://" not in source:
        path = Path(source).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"there is no weights file {source}; set train.hyperparameters.weights.source to "
                "an .npz file, or to the URL of one"
            )
        return path
    import keras

    name = hashlib.sha256(source.encode()).hexdigest()
    try:
        file = keras.utils.get_file(
            f"{name}.npz", source, cache_subdir="perennial", file_hash=sha256 or None
        )
    except Exception as error:  # urllib's, http's and Keras's own, which is a bare Exception
        raise WeightsError(f"the weights {source} cannot be fetched: {error}") from error
    return Path(file)


def _saved_model(source: str) -> Path:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or source.startswith((".", "~")):
            raise WeightsError(
                f"there is no folder {source}; set train.hyperparameters.weights.source to the "
                "folder of a SavedModel, or to a TF-Hub or Kaggle handle"
            )
        try:
            import tensorflow_hub

            folder = Path(tensorflow_hub.resolve(source))
        except Exception as error:  # the import's, urllib's and the resolvers'
            raise WeightsError(f"the handle {source} cannot be resolved: {error}") from error
    if not (folder / "saved_model.pb").is_file():
        raise WeightsError(f"{folder} holds no saved_model.pb, so it is no SavedModel")
    return folder
