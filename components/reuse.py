"""Reuse of single files of earlier executions of a node.

The name of such a file holds a digest of everything that its content depends on, so that a file of
that name in an earlier artifact of the same output is the file that would be made. It appears when
it is whole. Artifacts of an output are siblings, folders named after their executions.
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

SHARD = "data_tfrecord-"  # what the names of ImageExampleGen's files begin with
INPUTS_FILE = "inputs.jsonl"  # in an Examples artifact: every input and its fate
SHARDS_FILE = "shards.json"  # in an Examples artifact: images by file, whose names hold digests
DONE = "images_done"
REUSED = "images_reused"
CPU = "workers_cpu_s"  # seconds that Beam's workers spent outside of the node's own process


def key(*parts: object) -> str:
    """Digest of JSON-able values, for a file's name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def key_of_all(values: Iterable[object]) -> str:
    """Compute `key` of the list of the values, which are not in memory together."""
    digest = hashlib.sha256(b"[[")
    for index, value in enumerate(values):
        digest.update(f"{', ' if index else ''}{json.dumps(value)}".encode())
    digest.update(b"]]")
    return digest.hexdigest()[:24]


def earlier(uri: str, folders: str) -> dict[str, str]:
    """Find files in the earlier artifacts beside `uri`: location by path in the artifact.

    Args:
      uri: of the artifact that is being written, or of its copy.
      folders: the folder in it that they are directly in, or a glob pattern of such folders.
    """
    found: dict[str, str] = {}
    for artifact in _siblings(uri):
        for folder in _matching(artifact, folders):
            for name in storage.names(storage.join(artifact, folder)):
                found[f"{folder}/{name}"] = storage.join(artifact, folder, name)
    return found


def _matching(artifact: str, folders: str) -> list[str]:
    is_pattern = "*" in folders
    return fnmatch.filter(storage.names(artifact), folders) if is_pattern else [folders]


def siblings(uri: str, *names: str) -> list[str]:
    """Find files of these names in the earlier artifacts beside `uri`, the latest first."""
    found = [storage.join(artifact, name) for artifact in _siblings(uri) for name in names]
    return [path for path in reversed(found) if storage.exists(path)]


def _siblings(uri: str) -> list[str]:
    """Find the earlier artifacts of the same output, the latest last."""
    uri = staging.origin(uri.rstrip("/"))
    folder, own = posixpath.split(uri)
    executions = {each for each in storage.names(folder) if each.isdecimal() and each != own}
    return [storage.join(folder, each) for each in sorted(executions, key=int)]


def span_of(path: str) -> int | None:
    """Tell the span of a shard, or of a file made of it, from its name; None if unknown."""
    found = re.search(rf"{SHARD}(\d+)-[^/]*$", path)
    return int(found[1]) if found else None


def write_shards(examples_uri: str, images: Mapping[str, int]) -> None:
    """Note how many images each file of an Examples artifact has, by path in it."""
    path = posixpath.join(examples_uri, SHARDS_FILE)
    storage.write_text(path, json.dumps(dict(images), indent=2), durable=False)


def read_shards(examples_uri: str) -> dict[str, int]:
    """Read the counts of `write_shards`; {} where files are not named after their content."""
    path = posixpath.join(examples_uri, SHARDS_FILE)
    content = storage.read_text(path)
    if content is None:
        return {}
    with read_back(path):
        return {str(name): int(images) for name, images in json.loads(content).items()}


def files_of(examples_uri: str, splits: Iterable[str]) -> dict[str, list[str]]:
    """List the files of each split of an Examples artifact, by path in it.

    Those that its writer has noted, where it has: a listing may hold what nobody counted.
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
    """Take over what was made before of the files of an Examples artifact, and account for it.

    Args:
      examples_uri: of the examples.
      artifact: the output, which is being written.
      made: for each file of the examples, by path in them, the path in the output of what becomes
        of it; its name must hold a digest of all that is done to it.

    Returns the part of `made` that is still to be made.
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
    """Note on an output how many images were worked on, and how many were taken over."""
    artifact.set_int_custom_property(DONE, done)
    artifact.set_int_custom_property(REUSED, reused)
    if reused:
        total = done + reused
        report("note", text=f"{reused:,} of {counted(total, 'image')} reused from earlier runs")


def pay(artifact: types.Artifact, cpu_s: float) -> None:
    """Note on an output what CPU time its making took in other processes."""
    if cpu_s:
        artifact.set_float_custom_property(CPU, cpu_s)
