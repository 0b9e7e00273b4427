"""Reuse of files that earlier executions of a node wrote.

The name of such a file contains a digest of everything that its content depends on. A file of the
same name in an earlier artifact of the same output therefore has the same content, and need not be
made again. Files get their names only when they are complete. The artifacts of an output are
sibling folders, named by execution id.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from components import storage
from components.errors import read_back
from components.progress import report
from components.storage import staging
from components.wording import counted

if TYPE_CHECKING:
    from tfx import types

SHARD = "data_tfrecord-"  # prefix of the names of ImageExampleGen's files
INPUTS_FILE = "inputs.jsonl"  # in an Examples artifact: every input and its outcome
SHARDS_FILE = "shards.json"  # in an Examples artifact: number of images by file
DONE = "images_done"
REUSED = "images_reused"


def key(*parts: object) -> str:
    """Return a digest of JSON-able values, for a file name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def key_of_all(values: Iterable[object]) -> str:
    """Return `key` of the list of the values, without holding them all in memory."""
    digest = hashlib.sha256(b"[[")
    for index, value in enumerate(values):
        digest.update(f"{', ' if index else ''}{json.dumps(value)}".encode())
    digest.update(b"]]")
    return digest.hexdigest()[:24]


def earlier(uri: str, folders: str) -> dict[str, str]:
    """List files of earlier artifacts of an output: location by path in the artifact.

    Args:
      uri: of the artifact that is being written, or of its local copy.
      folders: folder in the artifact, or a glob pattern of folders; not searched recursively.
    """
    found: dict[str, str] = {}
    for artifact in _siblings(uri):
        is_pattern = "*" in folders
        for folder in fnmatch.filter(storage.names(artifact), folders) if is_pattern else [folders]:
            for name in storage.names(storage.join(artifact, folder)):
                found[f"{folder}/{name}"] = storage.join(artifact, folder, name)
    return found


def siblings(uri: str, *names: str) -> list[str]:
    """Find the files called one of `names` in earlier artifacts beside `uri`, the latest first."""
    found = [storage.join(artifact, name) for artifact in _siblings(uri) for name in names]
    return [path for path in reversed(found) if storage.exists(path)]


def _siblings(uri: str) -> list[str]:
    """List the other artifacts of the output that `uri` is one of, the latest last."""
    uri = staging.origin(uri.rstrip("/"))
    folder, own = posixpath.split(uri)
    executions = {each for each in storage.names(folder) if each.isdecimal() and each != own}
    return [storage.join(folder, each) for each in sorted(executions, key=int)]


def span_of(path: str) -> int | None:
    """Return the span of a shard, or of a file made from one; None if unknown."""
    found = re.search(rf"{SHARD}(\d+)-[^/]*$", path)
    return int(found[1]) if found else None


def write_shards(examples_uri: str, images: Mapping[str, int]) -> None:
    """Write the number of images in each file of an Examples artifact, by path in it."""
    path = posixpath.join(examples_uri, SHARDS_FILE)
    storage.write_text(path, json.dumps(dict(images), indent=2), durable=False)


def read_shards(examples_uri: str) -> dict[str, int]:
    """Read the numbers that `write_shards` wrote; {} if the names of the files have no digests."""
    path = posixpath.join(examples_uri, SHARDS_FILE)
    content = storage.read_text(path)
    if content is None:
        return {}
    with read_back(path):
        return {str(name): int(images) for name, images in json.loads(content).items()}


def files_of(examples_uri: str, splits: Iterable[str]) -> dict[str, list[str]]:
    """Return the files of each split of an Examples artifact, as paths in it.

    These are the files in `SHARDS_FILE` if it exists: a folder may contain others.
    """
    if images := read_shards(examples_uri):
        return {
            split: sorted(name for name in images if name.startswith(f"Split-{split}/"))
            for split in splits
        }
    folders = {split: f"Split-{split}" for split in splits}
    return {
        split: [f"{folder}/{name}" for name in storage.names(f"{examples_uri}/{folder}")]
        for split, folder in folders.items()
    }


def take_over_known(
    examples_uri: str, artifact: types.Artifact, made: Mapping[str, str]
) -> dict[str, str]:
    """Reuse files that were made before from the same files of an Examples artifact.

    Args:
      examples_uri: of the examples.
      artifact: the output, which is being written.
      made: path in the output by path in the examples; the names in the output must contain a
        digest of everything that their content depends on.

    Returns the part of `made` that is still to be made. Sets the properties of `account`.
    """
    images = read_shards(examples_uri)
    folders = {posixpath.dirname(target) for target in made.values()}
    known: dict[str, str] = {}
    for folder in folders if images else ():
        known |= earlier(artifact.uri, folder)
    todo = {name: target for name, target in made.items() if target not in known}
    for target in set(made.values()) - set(todo.values()):
        staging.take_over(known[target], posixpath.join(artifact.uri, target))
    done = sum(images.get(name, 0) for name in todo)
    account(artifact, done, sum(images.values()) - done)
    return todo


def account(artifact: types.Artifact, done: int, reused: int) -> None:
    """Record on an output how many images were processed, and how many were reused."""
    artifact.set_int_custom_property(DONE, done)
    artifact.set_int_custom_property(REUSED, reused)
    if reused:
        total = done + reused
        report("note", text=f"{reused:,} of {counted(total, 'image')} reused from earlier runs")
