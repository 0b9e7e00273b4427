"""The folder-of-class-folders source: ROOT/<class name>/<image file>."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from components.errors import BadDataError

# What `tf.io.decode_image` reads and Pillow verifies.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp"})


@dataclasses.dataclass(frozen=True, order=True)
class SourceFile:
    """One labelled image. `name` is its path relative to the data root, with forward slashes."""

    name: str
    label: str


def list_images(root: Path) -> list[SourceFile]:
    """All images of `root`, sorted by name, without hidden ones and files beside class folders.

    Raises BadDataError where there is no usable image, fewer than two classes, or a folder that
    cannot be read.
    """
    if not root.is_dir():
        raise BadDataError(f"{root}: no such folder; --data takes a folder of class folders")
    files = sorted(_walk(root))
    classes = {file.label for file in files}
    if not files:
        raise BadDataError(
            f"{root}: no images found; expected <class name>/<image> with one of "
            f"{', '.join(sorted(EXTENSIONS))}"
        )
    if len(classes) < 2:
        raise BadDataError(
            f"{root}: only one class, {next(iter(classes))!r}; a classifier needs at least two "
            "class folders with images"
        )
    return files


def _walk(root: Path) -> Iterator[SourceFile]:
    for folder in _entries(root):
        if folder.is_dir():
            for file in _entries(folder):
                if file.suffix.lower() in EXTENSIONS and file.is_file():
                    yield SourceFile(name=f"{folder.name}/{file.name}", label=folder.name)


def _entries(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise BadDataError(
            f"{folder}: cannot be read ({error.strerror}); check its permissions"
        ) from error


def class_names(files: list[SourceFile]) -> list[str]:
    """Sorted class names: a file's label id is the position of its class here."""
    return sorted({file.label for file in files})


def read(root: Path, file: SourceFile) -> bytes:
    """The file's bytes. Raises BadDataError where it cannot be read."""
    try:
        return (root / file.name).read_bytes()
    except OSError as error:
        raise BadDataError(
            f"{root / file.name}: cannot be read ({error.strerror}); fix or remove the file"
        ) from error


def content_fingerprint(root: Path, files: list[SourceFile]) -> str:
    """Digest of every file's name and bytes: modification times do not count, one byte does."""
    digest = hashlib.sha256()
    for file in files:
        entry = [file.name, file.label, hashlib.sha256(read(root, file)).hexdigest()]
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()
