"""Takes over, file by file, what an earlier execution of a node wrote.

The name of such a file holds a digest of everything that its content depends on, so that a file of
that name in an earlier artifact of the same output is the file that would be made. It appears when
it is whole. Artifacts of an output are siblings, folders named after their executions.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import tensorflow as tf

from components.errors import read_back
from components.progress import report

if TYPE_CHECKING:
    from tfx import types

SHARD = "data_tfrecord-"  # what the names of ImageExampleGen's files begin with
SHARDS_FILE = "shards.json"  # in an Examples artifact: images by file, whose names hold digests
DONE = "images_done"
REUSED = "images_reused"
CPU = "workers_cpu_s"  # seconds that Beam's workers spent outside of the node's own process


def key(*parts: object) -> str:
    """Digest of JSON-able values, for a file's name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def key_of_all(values: Iterable[object]) -> str:
    """`key` of the list of the values, which are not in memory together."""
    digest = hashlib.sha256(b"[[")
    for index, value in enumerate(values):
        digest.update(f"{', ' if index else ''}{json.dumps(value)}".encode())
    digest.update(b"]]")
    return digest.hexdigest()[:24]


def earlier(uri: str, pattern: str) -> dict[str, str]:
    """Files in the earlier artifacts beside `uri`: location by path in the artifact.

    Args:
      uri: of the artifact that is being written.
      pattern: which files, as a glob pattern relative to an artifact.
    """
    siblings, own = posixpath.split(uri.rstrip("/"))
    found: dict[str, str] = {}
    for path in tf.io.gfile.glob(posixpath.join(siblings, "[0-9]*", pattern)):
        execution, _, name = path[len(siblings) :].lstrip("/").partition("/")
        if execution != own and execution.isdecimal():
            found[name] = path
    return found


def siblings(uri: str, *names: str) -> list[str]:
    """A file of the earlier artifacts beside `uri`, of those that have it, the latest first."""
    folder = posixpath.dirname(uri.rstrip("/"))
    found = {}
    for path in tf.io.gfile.glob([posixpath.join(folder, "[0-9]*", name) for name in names]):
        execution = path[len(folder) :].lstrip("/").partition("/")[0]
        if execution.isdecimal() and execution != posixpath.basename(uri.rstrip("/")):
            found[int(execution)] = path
    return [path for _, path in sorted(found.items(), reverse=True)]


def span_of(path: str) -> int | None:
    """The span that all images of a shard come from, or of a file made of it; None if unknown."""
    found = re.search(rf"{SHARD}(\d+)-[^/]*$", path)
    return int(found[1]) if found else None


def take_over(source: str, target: str) -> None:
    """Have the file `source` as `target` too: the same bytes on disk where that can be."""
    tf.io.gfile.makedirs(posixpath.dirname(target))
    if "://" not in target:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another disk, or a file system without links
    partial = f"{target}.partial"
    tf.io.gfile.copy(source, partial, overwrite=True)
    tf.io.gfile.rename(partial, target, overwrite=True)


def write_shards(examples_uri: str, images: Mapping[str, int]) -> None:
    """Note how many images each file of an Examples artifact has, by path in it."""
    with tf.io.gfile.GFile(posixpath.join(examples_uri, SHARDS_FILE), "w") as file:
        file.write(json.dumps(dict(images), indent=2))


def read_shards(examples_uri: str) -> dict[str, int]:
    """What `write_shards` noted; nothing for files whose names say nothing about their content."""
    path = posixpath.join(examples_uri, SHARDS_FILE)
    if not tf.io.gfile.exists(path):
        return {}
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    with read_back(path):
        return {str(name): int(images) for name, images in json.loads(content).items()}


def files_of(examples_uri: str, splits: Iterable[str]) -> dict[str, list[str]]:
    """The files of each split of an Examples artifact, by path in it.

    Those that its writer has noted, where it has: a listing may hold what nobody counted.
    """
    if images := read_shards(examples_uri):
        return {
            split: sorted(name for name in images if name.startswith(f"Split-{split}/"))
            for split in splits
        }
    return {
        split: [
            file[len(examples_uri) :].lstrip("/")
            for file in sorted(
                tf.io.gfile.glob(posixpath.join(examples_uri, f"Split-{split}", "*"))
            )
        ]
        for split in splits
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
        known |= earlier(artifact.uri, f"{folder}/*")
    todo = {name: target for name, target in made.items() if target not in known}
    for target in set(made.values()) - set(todo.values()):
        take_over(known[target], posixpath.join(artifact.uri, target))
    done = sum(images.get(name, 0) for name in todo)
    account(artifact, done, sum(images.values()) - done)
    return todo


def account(artifact: types.Artifact, done: int, reused: int) -> None:
    """Note on an output how many images were worked on, and how many were taken over."""
    artifact.set_int_custom_property(DONE, done)
    artifact.set_int_custom_property(REUSED, reused)
    if reused:
        total = done + reused
        report("note", text=f"{reused:,} of {total:,} images are taken over from earlier runs")


def pay(artifact: types.Artifact, cpu_s: float) -> None:
    """Note on an output what CPU time its making took in other processes."""
    if cpu_s:
        artifact.set_float_custom_property(CPU, cpu_s)
