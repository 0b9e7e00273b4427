"""Checks of the files and folders that settings name."""

from __future__ import annotations

import os
from pathlib import Path

from components import storage
from components.image_example_gen import source_name
from pipeline.config.tree import HYPERPARAMETERS
from pipeline.errors import ConfigError, DataError
from pipeline.settings import Config
from pipeline.settings.data import DataConfig
from trainer_module import recipes

_WEIGHTS = (".npz", ".h5", ".keras")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def check_paths(config: Config) -> None:
    """Check what the configuration points at, before anything is started or created.

    Raises DataError where data.source cannot be read, ConfigError for any other path.
    """
    check_data(config.data)
    if found := patterned(str(config.workspace)):
        raise ConfigError(f"workspace: {str(config.workspace)!r} {found}; choose another name")
    if config.data.folder is not None:
        _check_outside("workspace", config.workspace, config.data.folder)
        if not storage.is_uri(config.push_directory):
            _check_outside("push.directory", Path(config.push_directory), config.data.folder)
    if config.data.schema_file is not None:
        _check_readable("data.schema_file", config.data.schema_file)
    for name in ("private_key", "public_key"):
        key = getattr(config.push.signing, name)
        if key is not None:
            _check_readable(f"push.signing.{name}", key)
    key, source = weights_of(config)
    if source.endswith(_WEIGHTS) and not storage.is_uri(source):
        _check_readable(key, Path(source).expanduser())
    if config.push_directory.lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"push.directory: {config.push_directory}: nothing can be written by HTTP; name a "
            "folder, or gs:// or s3://"
        )
    if config.push.directory is not None and not storage.is_uri(config.push.directory):
        _check_writable("push.directory", Path(config.push.directory))


def patterned(location: str) -> str:
    """Tell why Beam would take a location for a pattern of names; "" if it would not."""
    found = sorted({char for char in location if char in "*?["})
    return f"holds {' and '.join(found)}, which Beam takes for a pattern of names" if found else ""


def weights_of(config: Config) -> tuple[str, str]:
    """Return the setting of the recipe's pretrained weights, and its value; "" for none."""
    name, source = recipes.get(config.train.recipe).weights(config.train.hyperparameters)
    return f"{HYPERPARAMETERS}{name}", source


def check_data(data: DataConfig) -> None:
    """Check that a local source is there. Raises DataError, or ConfigError for a variable."""
    if source_name.parse(data.source).kind == source_name.UNSET:
        raise ConfigError(
            f"data.source = {data.source!r}: this environment variable is not set; set it, or name "
            "the data"
        )
    if data.folder is not None:
        _check_readable_data(data.folder, source_name.parse(data.source).kind)


def _check_readable_data(folder: Path, kind: str) -> None:
    where = f"data.source = {str(folder)!r}:"
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        raise DataError(f"{where} there is no such file or folder") from None
    except NotADirectoryError:
        if not kind and not source_name.kind_of_file(str(folder)):
            what = (
                "is an archive; unpack it and"
                if folder.suffix.lower() in _ARCHIVES
                else "is a file;"
            )
            raise DataError(
                f"{where} {what} give a folder of class folders, a manifest or TFRecords"
            ) from None
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}") from None


def _check_readable(key: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{key}: {str(path)!r} cannot be read: {error.strerror}") from None


def _check_outside(key: str, path: Path, data: Path) -> None:
    # Otherwise the next run takes the output for a class of images.
    if path.is_relative_to(data):
        raise ConfigError(f"{key}: {str(path)!r} is in data.source {str(data)!r}; move it out")


def _check_writable(key: str, folder: Path) -> None:
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise ConfigError(f"{key}: {str(existing)!r} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        raise ConfigError(f"{key}: no permission to write in {str(existing)!r}")
