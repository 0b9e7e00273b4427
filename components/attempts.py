"""Files of attempts at a piece of work, which may overlap, be cut off, or go on after they lost.

Runners of Beam try a bundle again when a worker is lost, and some run two attempts at once. So an
attempt writes to a folder of its own, and one process, which nobody else does the work of, gives
the files of the attempts that won their names. What others write, and when, does not matter.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components import storage

FOLDER = "attempts"  # in an artifact, until all of its files have their names


class Attempt:
    """One attempt at a piece of work, and the files that it writes."""

    def __init__(
        self,
        output: str,
        advance: Callable[[int], None] | None = None,
        name: str | None = None,
    ) -> None:
        """Name a new attempt, or the one called `name`.

        Args:
          output: folder of the artifact.
          advance: is called with how much of the work was done since the last call.
          name: as `name` of the attempt to go on with.
        """
        self.name = name or uuid.uuid4().hex
        self.advance = advance
        self._output = output
        self._folder = posixpath.join(output, FOLDER, self.name)
        self._paths: dict[str, str] = {}

    def path(self, target: str) -> str:
        """Return where to write the file that becomes `target` if this attempt wins."""
        if target not in self._paths:
            if not storage.is_uri(self._folder):
                Path(self._folder).mkdir(parents=True, exist_ok=True)
            self._paths[target] = f"{len(self._paths):05d}"
        return posixpath.join(self._folder, self._paths[target])

    def finish(self, outcome: Any) -> None:
        """Write down which files there are, and a JSON-able outcome."""
        text = json.dumps([self._paths, outcome])
        storage.write_text(posixpath.join(self._folder, "outcome.json"), text, durable=False)

    def win(self) -> Any:
        """Give the files their names. Returns the outcome. Raises OSError where one is missing."""
        try:
            text = storage.read_bytes(posixpath.join(self._folder, "outcome.json"))
            paths, outcome = json.loads(text)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self._folder}: a worker of Beam wrote this, and it is not there; the data and "
                "the pipeline's root must be on storage that all workers share"
            ) from error
        for target, name in paths.items():
            storage.move(posixpath.join(self._folder, name), posixpath.join(self._output, target))
        return outcome

    def drop(self) -> None:
        """Remove what was written, as far as that can be."""
        _remove(self._folder)


def clean_up(output: str) -> None:
    """Remove what attempts have left in an artifact, as far as that can be."""
    _remove(posixpath.join(output, FOLDER))


def _remove(folder: str) -> None:
    # An attempt that has lost may still write there, and be ended by the loss of its folder.
    with contextlib.suppress(OSError):
        storage.remove_tree(folder)
