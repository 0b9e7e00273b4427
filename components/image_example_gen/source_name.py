"""The parts of a data source's text, read without touching any file."""

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
UNSET = "unset"  # a reference to an environment variable that is not set
PREFIXES = (FOLDER, MANIFEST, TFRECORD, TFDS, CIFAR10)

MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
RECORDS = re.compile(
    r"(\.(tfrecords?|tfrec|record)(\.gz)?(-\d+-of-\d+)?|-\d+-of-\d+)$", re.IGNORECASE
)

_SPEC = re.compile(r"\{(SPAN|VERSION|YYYY|MM|DD)(:[^}]*)?\}")


class SourceName(NamedTuple):
    """A parsed source. `kind` "" leaves it to the content.

    `location` is a path, a URI or the name of a TFDS data set.
    """

    kind: str
    location: str

    @property
    def is_local(self) -> bool:
        """Whether `location` is a path on this machine."""
        return self.kind not in (DIGITS, TFDS, UNSET) and not storage.is_uri(self.location)

    @property
    def has_spans(self) -> bool:
        """Whether `location` holds {SPAN}, {VERSION} or a date."""
        return _SPEC.search(self.location) is not None

    @property
    def text(self) -> str:
        """The text that parses to this."""
        return f"{self.kind}:{self.location}" if self.kind in PREFIXES else self.location


def parse(text: str) -> SourceName:
    """Read `digits`, `tfds:NAME`, `[folder|manifest|tfrecord|cifar10:]PATH-OR-URI`.

    `env:NAME` stands for what the environment variable holds, and a URL comes back with the secrets
    that the configuration hides.
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
    """Tell the kind of source from a file's name; "" where that is not possible."""
    if location.lower().endswith(MANIFESTS):
        return MANIFEST
    return TFRECORD if RECORDS.search(location) else ""


def fixed_part(location: str) -> str:
    """Return the longest leading path of `location` without a span, version or date in it."""
    match = _SPEC.search(location)
    return location[: match.start()].rpartition("/")[0] or "/" if match else location
