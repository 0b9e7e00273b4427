"""A change of a model configuration's file that is under way, kept so that a killed one is undone.

Beside the file is, from before the first write until the change is done or put back, a hidden one
with the old text and the new ones. Whoever finds it while nobody is at work on the configuration
undoes the change or, where all of it was done, records it as done.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from components import progress, records, storage
from components.model_registry.filesystem import locked

AUDIT_FILE = "models.audit.jsonl"
STARTED, DONE = "started", "done"

Entry = dict[str, Any]


class Pending(BaseModel):
    """A change that has begun.

    entry: of the audit log. before: the text of the configuration, None where there was none.
    steps: the texts that replace it, one after the other. followed: servers have to follow before
    it counts. until: UTC, when it is over at the latest.
    """

    entry: Entry
    before: str | None
    steps: list[str]
    followed: bool
    until: datetime.datetime

    @property
    def is_busy(self) -> bool:
        """Whether somebody may still be at work, where there is no lock to tell."""
        return self.until > datetime.datetime.now(datetime.UTC)


def location_of(config: str) -> str:
    """Where the change of the configuration at a path or URI is kept."""
    return storage.join(storage.parent(config), f".{storage.name(config)}.pending")


def write(config: str, change: Pending) -> None:
    """Keep a change, durably, before it begins. Raises OSError."""
    storage.write_text(location_of(config), change.model_dump_json())


def remove(config: str) -> None:
    """Forget the change: it is in force now, or put back. Raises OSError."""
    location = location_of(config)
    storage.remove(location)
    if not storage.is_uri(location):
        storage.sync(Path(location).parent)


def read(config: str) -> Pending | None:
    """The change that is under way or was cut off. Raises OSError.

    One that nobody can read is none, and is removed with a note.
    """
    location = location_of(config)
    text = storage.read_text(location, errors="replace")
    if text is None:
        return None
    try:
        found = Pending.model_validate_json(text)
        if found.until.tzinfo is not None:
            return found
    except ValidationError:
        pass
    progress.report("note", text=f"{location} holds no change of a configuration; it is removed")
    remove(config)
    return None


def record(config: str, entry: Entry, result: str) -> None:
    """Add how a change goes to the audit log. Raises OSError."""
    log = storage.join(storage.parent(config), AUDIT_FILE)
    records.append(log, {**entry, "result": " ".join(result.split())[:2000]})


def recover(config: str) -> str | None:
    """Undo or finish a change that was cut off; for who holds the lock of the file's folder.

    Returns a line about it, None where there is none. Raises OSError.
    """
    change = read(config)
    if change is None or (storage.is_uri(config) and change.is_busy):
        return None
    now = storage.read_text(config)
    if now == change.before:
        result, told = "failed: cut off", "was cut off before it changed anything"
    elif now == change.steps[-1] and not change.followed:
        result, told = DONE, "was cut off when all was done, and is in force"
    elif now in change.steps:
        put_back(config, change)
        result, told = "failed: cut off, and undone", "was cut off, and is undone"
    else:
        result = "failed: cut off, and the configuration was changed by somebody else since"
        told = f"was cut off; {config} was changed otherwise since, and stays as it is"
    with contextlib.suppress(OSError):  # it is done, whether that can be recorded or not
        record(config, change.entry, result)
    remove(config)
    entry = change.entry
    return f"{entry.get('action')}, by {entry.get('who')} at {entry.get('at')}, {told}"


def put_back(config: str, change: Pending) -> None:
    """Bring the old text back, or remove a file that was new. Raises OSError."""
    if storage.read_text(config) == change.before:
        return
    if change.before is None:
        storage.remove(config)
    else:
        storage.write_text(config, change.before)


def recover_if_idle(config: str) -> None:
    """As `recover`, with a note, where nobody is at work on the configuration. Raises nothing."""
    folder = storage.parent(config)
    try:
        if storage.read_text(location_of(config), errors="replace") is None:
            return
        with contextlib.ExitStack() as stack:
            if not storage.is_uri(config):
                stack.enter_context(locked(Path(folder), wait=False))
            told = recover(config)
    except BlockingIOError:
        return
    except (OSError, ValueError) as error:
        told = f"{location_of(config)}: a change was cut off and cannot be undone: {error}"
    if told:
        progress.report("note", text=told)


def texts(config: str) -> Sequence[str]:
    """All texts of the configuration that a change that is under way may bring. Raises OSError."""
    change = read(config)
    return [] if change is None else [*([change.before] if change.before else []), *change.steps]
