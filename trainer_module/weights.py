"""Pretrained weights: where they come from, and that they are the ones that were meant."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from components import environment, progress, redaction, storage
from components.wording import shortened

if TYPE_CHECKING:
    import keras


PROGRAM = (
    "a SavedModel is a program that can read and write what you can; use one only if you know who "
    "made it"
)


_TIMEOUTS_S = (10.0, 60.0)  # of a connection, and of a pause in what it gives
_CHUNK = 1 << 20
CACHE = "perennial"  # below what Keras fetches into


class WeightsError(Exception):
    """The weights cannot be had, or are not those that the model or the configuration expects."""

    def __init__(self, message: str) -> None:
        super().__init__(redaction.redact(message))


class WeightSpec(BaseModel):
    """Pretrained weights: `train.hyperparameters.weights`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    source: Annotated[str, AfterValidator(redaction.hide)] = Field(
        "",
        description="An .npz file or its URL, the folder of a SavedModel, a TF-Hub or Kaggle "
        "handle, or `env:NAME` for the value of an environment variable. Empty: train from "
        "scratch.",
    )
    sha256: str = Field(
        "",
        pattern="^([0-9a-f]{64})?$",
        description="SHA-256 of the file, or of all files of the SavedModel. Required with a "
        "source.",
    )
    licence: str = Field("", description="Licence of the weights, which is recorded with the run.")
    input_range: tuple[float, float] | None = Field(
        None,
        strict=False,
        description="Values that the network expects for 0 and 255. Unset: -1 and 1, or 0 and 1 "
        "for a SavedModel.",
    )
    trainable: bool = Field(True, description="Train the backbone too. false: only the new head.")

    @property
    def is_saved_model(self) -> bool:
        """Whether `source` is a SavedModel's folder or a handle, as far as is known here."""
        try:
            source = redaction.reveal(self.source)
        except ValueError:
            return False
        path = urlsplit(source).path if storage.is_uri(source) else source
        return bool(source) and not path.endswith(".npz")

    @property
    def range(self) -> tuple[float, float]:
        """The values that pixels of 0 and 255 become."""
        return self.input_range or ((0.0, 1.0) if self.is_saved_model else (-1.0, 1.0))

    def fetch(self) -> Path:
        """Return the local file or folder, downloaded where need be, once its digest is checked.

        Raises:
            WeightsError: it cannot be had, or its digest is not `sha256`.
        """
        try:
            source = redaction.reveal(self.source)
        except ValueError as error:
            raise WeightsError(f"train.hyperparameters.weights.source = {error}") from error
        path = _saved_model(source) if self.is_saved_model else _npz(source, self.sha256)
        if (found := digest(path)) != self.sha256:
            problem = "are not the ones configured" if self.sha256 else "are not confirmed"
            warning = f"; {PROGRAM}" if self.is_saved_model else ""
            raise WeightsError(
                f"the weights {self.source} {problem}: their sha256 is {found}; if you trust them, "
                "set train.hyperparameters.weights.sha256 (perennial predict: --sha256) to it"
                f"{warning}"
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
    if storage.is_uri(source):
        return _fetched(source, sha256)
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"there is no weights file {source}; set train.hyperparameters.weights.source to "
            "an .npz file, or to the URL of one"
        )
    return path


def _fetched(url: str, sha256: str) -> Path:
    """Fetch the file at a URL, or take it from the cache.

    Not by Keras, which prints the URL with its secrets, and waits forever.
    """
    shown = redaction.hide(url)  # a new signature makes no other file
    path = environment.keras_home() / CACHE / f"{hashlib.sha256(shown.encode()).hexdigest()}.npz"
    if path.is_file() and sha256 in ("", digest(path)):
        return path
    if redaction.is_hidden(url):
        raise WeightsError(
            f"the weights {url} cannot be fetched: the secret parts of the URL are not kept with a "
            "run; give the whole URL again, or env:NAME with it in an environment variable"
        )
    progress.report("note", text=f"fetching the weights {shown}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent) as partial:
            _download(url, partial)
            # Linked under its name once it is whole, also beside others that fetch the same.
            complete = path.with_suffix(f".{os.getpid()}")
            os.link(partial.name, complete)
            complete.replace(path)
    except Exception as error:  # urllib3's, those of requests and of TensorFlow's file systems
        raise WeightsError(f"the weights {shown} cannot be fetched: {_reason(error)}") from error
    return path


def _download(url: str, file: IO[bytes]) -> None:
    if url.lower().startswith(("http://", "https://")):
        import requests

        with requests.get(url, stream=True, timeout=_TIMEOUTS_S) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
    else:
        with storage.opened(url) as remote:
            shutil.copyfileobj(remote, file, _CHUNK)
    file.flush()


def _reason(error: Exception) -> str:
    """Describe the error without the URL, parts of which may be in its text."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"the server answers with {status}"
    # Of a connection that fails it is urllib3's, with the reason in it.
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return f"{type(cause or error).__name__}: {redaction.redact(str(cause or error))}"


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
            raise WeightsError(
                f"the handle {source} cannot be resolved: {error}; where there is no network, name "
                "a folder or an .npz file that is here"
            ) from error
    if not (folder / "saved_model.pb").is_file():
        raise WeightsError(f"{folder} holds no saved_model.pb, so it is not a SavedModel")
    return folder
