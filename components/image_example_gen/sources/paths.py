"""Files by the paths of a manifest, and reasons for missing ones."""

# Locations may be URIs, and pathlib would make other ones of them.
# ruff: noqa: PTH110, PTH116, PTH208

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import PurePosixPath

from components import storage
from components.image_example_gen import files

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_BY_WEB = ("http://", "https://", "ftp://")


class Paths:
    """A finder of files relative to `root`, a folder or URI."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._names: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> tuple[str, int, tuple[str, str] | None]:
        """Return the path or URI to read, its size in bytes, and kind and detail of a problem.

        The bytes are 0 where they are not known.
        """
        if path.lower().startswith("file://"):
            path = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
        if path.lower().startswith(_BY_WEB):
            scheme = path.partition("://")[0]
            detail = f"{scheme}:// is not read; download the images and give their paths"
            return path, 0, ("unreachable", detail)
        full = files.join(self._root, path)
        if storage.is_uri(full):
            return path, 0, None
        try:
            return path, os.stat(full).st_size, None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            detail = str(reason)
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                detail += self._advice(path)
            return path, 0, ("unreadable", detail)

    def _advice(self, path: str) -> str:
        if _WINDOWS.match(path):
            return "; it is a path of Windows: give one of this machine, or relative to the file"
        looked = "" if path.startswith("/") else f"; looked for in {self._root or '.'}"
        if "\\" in path:
            other = path.replace("\\", "/")
            there = os.path.exists(os.path.join(self._root, other))
            return f"{looked}; it has backslashes, {'and' if there else 'but'} {other} is " + (
                "there: write /" if there else "not there either"
            )
        if not PurePosixPath(path).suffix:
            name = PurePosixPath(path).name
            if found := self._stems(path).get(name):
                return f"{looked}; {found} is there: give names with their extension"
            return f"{looked}; it has no extension"
        return looked

    def _stems(self, path: str) -> dict[str, str]:
        """Map the names in the folder of a path without their extension to these names."""
        folder = os.path.join(self._root, str(PurePosixPath(path).parent))
        if folder not in self._names:
            try:
                names = sorted(os.listdir(folder), reverse=True)
            except OSError:
                names = []
            self._names[folder] = {PurePosixPath(name).stem: name for name in names}
        return self._names[folder]
