"""Parsing of the name of a data source, without access to files."""

from __future__ import annotations

import re
from typing import NamedTuple

from components import redaction, storage

DIGITS = "digits"
FOLDER = "folder"
MANIFEST = "manifest"
TFRECORD = "tfrecord"
TFDS = "tfds"
CIFAR10 = "cifar10"
UNSET = "unset"  # refers to an environment variable that is not set
PREFIXES = (FOLDER, MANIFEST, TFRECORD, TFDS, CIFAR10)

MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
RECORDS = re.compile(
    r"(\.(tfrecords?|tfrec|record)(\.gz)?(-\d+-of-\d+)?|-\d+-of-\d+)$", re.IGNORECASE
)

_SPEC = re.compile(r"\{(SPAN|VERSION|YYYY|MM|DD)(:[^}]*)?\}")


class SourceName(NamedTuple):
    """A parsed source: its kind, "" to decide by the content, and a path, URI or TFDS name."""

    kind: str
    location: str

    @property
    def is_local(self) -> bool:
        """Whether `location` is a path on this machine."""
        return self.kind not in (DIGITS, TFDS, UNSET) and not storage.is_uri(self.location)

    @property
    def has_spans(self) -> bool:
        """Whether `location` contains {SPAN}, {VERSION} or a date."""
        return _SPEC.search(self.location) is not None

    @property
    def text(self) -> str:
        """The text that `parse` reads as this."""
        return f"{self.kind}:{self.location}" if self.kind in PREFIXES else self.location


def parse(text: str) -> SourceName:
    """Parse `digits`, `tfds:NAME` or `[folder|manifest|tfrecord|cifar10:]PATH-OR-URI`.

    `env:NAME` is replaced by the value of the environment variable, and the hidden secrets of a URL
    are restored.
    """
    try:
        text = redaction.reveal(text)
    except ValueError:
        return SourceName(UNSET, text)
    if text == DIGITS:
        return SourceName(DIGITS, text)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in PREFIXES:
        return SourceName(prefix, rest)
    return SourceName("", text)


def kind_of_file(location: str) -> str:
    """Return the kind of source by the name of a file, "" if unknown."""
    if location.lower().endswith(MANIFESTS):
        return MANIFEST
    return TFRECORD if RECORDS.search(location) else ""


def fixed_part(location: str) -> str:
    """Return the longest leading path of `location` without a span, version or date."""
    match = _SPEC.search(location)
    return location[: match.start()].rpartition("/")[0] or "/" if match else location
