"""Data sources: a module each, with a function `listing` from a location to a `Listing`."""

# Locations may be URIs, which pathlib would change.
# ruff: noqa: PTH112, PTH113

from __future__ import annotations

import os
from collections.abc import Callable

from components import storage
from components.errors import BadDataError
from components.image_example_gen import source_name
from components.image_example_gen.options import Options
from components.image_example_gen.source_name import SourceName
from components.image_example_gen.sources import cifar10, digits, folder, manifest, tfds, tfrecord
from components.image_example_gen.sources.base import Listing

_LISTINGS: dict[str, Callable[[str, Options], Listing]] = {
    source_name.DIGITS: digits.listing,
    source_name.FOLDER: folder.listing,
    source_name.MANIFEST: manifest.listing,
    source_name.TFRECORD: tfrecord.listing,
    source_name.TFDS: tfds.listing,
    source_name.CIFAR10: cifar10.listing,
}
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_TABLES = (".xlsx", ".xls", ".ods", ".numbers")


def list_source(name: SourceName, options: Options) -> Listing:
    """List a source, whose kind is named or recognised. Raises BadDataError."""
    return _LISTINGS[name.kind or _recognised(name.location)](name.location, options)


def _recognised(location: str) -> str:
    lowered = location.lower()
    if lowered.endswith(_ARCHIVES):
        raise BadDataError(f"{location}: is an archive; unpack it and give the folder")
    if storage.is_uri(location):
        return source_name.kind_of_file(location) or source_name.FOLDER
    if cifar10.recognises(location):
        return source_name.CIFAR10
    if os.path.isdir(location):
        return source_name.TFRECORD if tfrecord.recognises(location) else source_name.FOLDER
    kind = source_name.kind_of_file(location)
    if not kind and os.path.isfile(location):
        if lowered.endswith(_TABLES):
            raise BadDataError(
                f"{location}: tables of this kind are not supported; save it as CSV UTF-8"
            )
        raise BadDataError(
            f"{location}: a file of unknown kind; give a folder of class folders, a manifest "
            "(.csv, .tsv, .jsonl or .parquet) or TFRecords"
        )
    return kind or source_name.FOLDER
