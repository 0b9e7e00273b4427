"""Object stores for TFX's own file operations, whose TensorFlow has no file system for S3.

Launcher and drivers look for folders and make them; executors never meet a URI.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from typing import Any

from tfx.dsl.io import filesystem, filesystem_registry

from components.storage import content, locations
from components.storage.content import MANIFEST

_PRIORITY = 0  # before that of TensorFlow, which has 10 and claims s3:// too

PathType = bytes | str


class ObjectStores(filesystem.Filesystem):
    """TFX's file system interface for the schemes that TensorFlow does not have.

    A store has no folders: to make one is nothing, and one is there where an object is below it, or
    the list of an artifact's files beside it.
    """

    SUPPORTED_SCHEMES = ("s3://", "az://", "memory://")

    @staticmethod
    def open(name: PathType, mode: str = "r") -> Any:
        return locations.path(os.fsdecode(name)).open(mode)

    @staticmethod
    def copy(src: PathType, dst: PathType, overwrite: bool = False) -> None:
        del overwrite
        content.copy(os.fsdecode(src), os.fsdecode(dst))

    @staticmethod
    def exists(path: PathType) -> bool:
        name = os.fsdecode(path).rstrip("/")
        return content.exists(name) or content.exists(f"{name}{MANIFEST}")

    @staticmethod
    def glob(pattern: PathType) -> list[PathType]:
        folder, _, name = os.fsdecode(pattern).rpartition("/")
        found = fnmatch.filter(content.names(folder), name)
        return [locations.join(folder, each) for each in found]

    @staticmethod
    def isdir(path: PathType) -> bool:
        return bool(content.names(os.fsdecode(path)))

    @staticmethod
    def listdir(path: PathType) -> list[PathType]:
        return list(content.names(os.fsdecode(path)))

    @staticmethod
    def makedirs(path: PathType) -> None: ...

    @staticmethod
    def mkdir(path: PathType) -> None: ...

    @staticmethod
    def remove(path: PathType) -> None:
        content.remove(os.fsdecode(path))

    @staticmethod
    def rename(src: PathType, dst: PathType, overwrite: bool = False) -> None:
        del overwrite
        content.move(os.fsdecode(src), os.fsdecode(dst))

    @staticmethod
    def rmtree(path: PathType) -> None:
        content.remove_tree(os.fsdecode(path))

    @staticmethod
    def stat(path: PathType) -> Any:
        return locations.path(os.fsdecode(path)).stat()

    @staticmethod
    def walk(
        top: PathType, topdown: bool = True, onerror: Callable[..., None] | None = None
    ) -> Iterator[tuple[PathType, list[PathType], list[PathType]]]:
        del topdown, onerror
        waiting = [os.fsdecode(top)]
        while waiting:
            folder = waiting.pop()
            inside = content.names(folder)
            deeper = [each for each in inside if content.names(locations.join(folder, each))]
            yield folder, list[PathType](deeper), [each for each in inside if each not in deeper]
            waiting += [locations.join(folder, each) for each in deeper]


def register() -> None:
    """Have TFX use it, from now on in this process."""
    filesystem_registry.DEFAULT_FILESYSTEM_REGISTRY.register(ObjectStores, _PRIORITY)
