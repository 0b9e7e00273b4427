"""The model configuration that servers follow, and one change of it at a time.

A change is kept, with the old text and the new ones, from before the first write until it is done
or put back: in a hidden file beside the configuration or, of a ConfigMap, in an annotation. A
command that finds one while nobody is at work undoes it or, where all of it was done, records it.

A file is written by the holder of its folder's lock. ConfigMaps and object stores have no lock, and
refuse a write where somebody else has written since (resourceVersion, generation or ETag); for both
of them the change has the time until which somebody may be at work.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ValidationError

from components import progress, records, storage
from components.errors import ConfigError, UserError
from components.kubernetes_api import ConflictError, Json, request
from components.model_registry import config_map
from components.model_registry.config_map import ConfigMapKey
from components.model_server import config_file
from components.model_server.config_file import NAME
from components.records import Entry

AUDIT_FILE = "models.audit.jsonl"
AUDIT_ANNOTATION = "perennial/audit"
CHANGE_ANNOTATION = "perennial/change"
STARTED, DONE = "started", "done"
_KEPT_ENTRIES = 20  # an object's annotations may have 256 KiB
_PUT_BACK_TRIES = 6
_PUT_BACK_PAUSE_S = 5.0


class Change(BaseModel):
    """A change that has begun.

    entry: of the audit log. before: the old text, None where there was no file. steps: the texts
    that it may bring, the wanted one last. followed: whether servers have to load a version for the
    last one; it counts only when they have. Else it is kept where it was cut off: a server that has
    dropped a version would refuse to move a label back to it. until: when it is over at the latest.
    """

    entry: Entry
    before: str | None
    steps: list[str]
    followed: bool
    until: AwareDatetime

    def __str__(self) -> str:
        entry = self.entry
        return f"{entry.get('action')}, by {entry.get('who')} at {entry.get('at')}"

    @property
    def is_busy(self) -> bool:
        """Whether somebody may still be at work, where there is no lock."""
        return self.until > datetime.datetime.now(datetime.UTC)

    def ended(self, now: str | None) -> tuple[str | None, str, str]:
        """Return the text to restore, the result, and words for it, if it was cut off at `now`."""
        if now == self.before:
            return now, "failed: cut off", "was cut off before it changed anything"
        if now == self.steps[-1] and not self.followed:
            return now, DONE, "was cut off when all was done, and is in force"
        if now in self.steps:
            return self.before, "failed: cut off, and undone", "was cut off, and is undone"
        words = "was cut off; the configuration was changed otherwise since, and stays as it is"
        return now, "failed: cut off, and the configuration was changed otherwise since", words


class Configuration(abc.ABC):
    """The text of a configuration, and a change of it.

    text: as it was read, None where there is no file yet. change: one that is under way, or was cut
    off. written: whether the text was replaced.
    """

    text: str | None
    change: Change | None
    written = False
    _has_lock = False

    def recover(self) -> None:
        """Undo or finish a change that was cut off, with a note, unless somebody may be at work.

        The lock of a file's folder must be held. Raises OSError or UserError.
        """
        if (change := self.change) and (self._has_lock or not change.is_busy):
            text, result, words = change.ended(self.text)
            self._save(text, None, _entry(change.entry, result))
            self.text, self.change = text, None
            progress.report("note", text=f"{change} {words}")

    def begin(self, entry: Entry, seconds: float, steps: Sequence[str], followed: bool) -> None:
        """Prepare a change of at most that many seconds, which begins with the first write."""
        # While it may still put the old text back, nobody may take it for one that was cut off.
        seconds += 0 if self._has_lock else _PUT_BACK_TRIES * _PUT_BACK_PAUSE_S
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        self.change = Change(
            entry=entry, before=self.text, steps=list(steps), followed=followed, until=until
        )

    def write(self, text: str) -> str:
        """Replace the text; return the resourceVersion of a ConfigMap.

        Raises OSError or UserError; ConflictError where a ConfigMap was changed by somebody else.
        """
        assert self.change
        first = None if self.written else _entry(self.change.entry, STARTED)
        name = self._save(text, self.change, first)
        self.written = True
        return name

    def end(self) -> None:
        """Make it count, and record that it is done. Where this raises, it does not count."""
        assert self.change
        self._save(self.change.steps[-1], None, _entry(self.change.entry, DONE))

    @abc.abstractmethod
    def put_back(self, result: str) -> str:
        """Bring back what was read, and record why. Return why that failed, "" where it did not."""

    @abc.abstractmethod
    def _save(self, text: str | None, change: Change | None, entry: Entry | None) -> str:
        """Replace the text and the change that is under way, and record an entry."""


class _File(Configuration):
    """A file, whose folder's lock is held."""

    _has_lock = True

    def __init__(self, location: str) -> None:
        self._location = location
        self._log = storage.join(storage.parent(location), AUDIT_FILE)
        self._change_at = change_location(location)
        self.text = read_text(location)
        text = storage.read_text(self._change_at, errors="replace")
        self.change = _parsed_change(text, self._change_at)
        if text is not None and self.change is None:
            self._remove(self._change_at)

    def put_back(self, result: str) -> str:
        assert self.change
        entry = _entry(self.change.entry, result)
        try:
            self._save(self.text, self.change, None)
        except ConflictError as error:
            return f"{error}, and stays as it is"
        except OSError as error:
            return f"the old configuration could NOT be put back: {reason(error)}"
        with contextlib.suppress(OSError):  # as it is in force, the next command finds it undone
            self._save(self.text, None, None)
        self._record(entry)
        return ""

    def _save(self, text: str | None, change: Change | None, entry: Entry | None) -> str:
        if change and entry:  # first, so that it is found however it ends
            self._write(self._change_at, change.model_dump_json())
            records.append(self._log, entry)
        if text is None:
            self._remove(self._location)
        elif text != storage.read_text(self._location, errors="replace"):
            self._write(self._location, text)
        if change is None:
            self._remove(self._change_at)
            if entry:
                self._record(entry)
        return ""

    def _write(self, location: str, text: str) -> None:
        storage.write_text(location, text)

    def _remove(self, location: str) -> None:
        storage.remove(location)
        storage.sync(Path(location).parent)  # it stays away after a power failure

    def _record(self, entry: Entry) -> None:
        try:
            records.append(self._log, entry)
        except OSError as error:  # it is as it is, whether that can be recorded or not
            text = f"{entry.get('action')}: {entry['result']}, but not recorded: {reason(error)}"
            progress.report("note", text=text)


class _Object(_File):
    """An object of a store. What somebody else has written since it was read is left as it is."""

    _has_lock = False

    def __init__(self, location: str) -> None:
        # First, so that what is written in between counts as somebody else's.
        places = (location, change_location(location))
        self._states = {place: storage.state(place) for place in places}
        super().__init__(location)

    def recover(self) -> None:
        if self.change and not self.change.is_busy:
            # Of all who find it, one undoes it.
            until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=5)
            change = self.change.model_copy(update={"until": until})
            self._write(self._change_at, change.model_dump_json())
        super().recover()

    def _write(self, location: str, text: str) -> None:
        try:
            self._states[location] = storage.replace(location, text, self._states[location])
            # The text was read before the change was there, which keeps others away.
            is_as_read = storage.state(self._location) == self._states[self._location]
        except FileExistsError:
            is_as_read = False
        if not is_as_read:
            if not self.written:
                self._remove(self._change_at)
            raise ConflictError(f"{location} was changed by somebody else meanwhile")

    def _remove(self, location: str) -> None:
        if storage.state(location) == self._states[location]:
            storage.remove(location)
            self._states[location] = ""
        elif location == self._location:
            raise ConflictError(f"{location} was changed by somebody else meanwhile")


class _ConfigMap(Configuration):
    """A key of a ConfigMap: text, change and log are one object, replaced in one step."""

    def __init__(self, location: str, base: str | None) -> None:
        self._location = location
        self._place = place_of(location)
        self._log = storage.join(storage.parent(base), AUDIT_FILE) if base else None
        self._held = config_map.read(self._place)
        self.text = self._place.text_of(self._held)
        self.change = _parsed_change(_annotations(self._held).get(CHANGE_ANNOTATION), location)

    def begin(self, entry: Entry, seconds: float, steps: Sequence[str], followed: bool) -> None:
        applied = _annotations(self._held).get("kubectl.kubernetes.io/last-applied-configuration")
        if NAME in str(applied):
            progress.report(
                "note",
                text=f"{self._place} was made by `kubectl apply` of a file, and the "
                "next apply brings that file's versions back; see kubeflow/serving/README.md",
            )
        super().begin({**entry, "config": self._location}, seconds, steps, followed)

    def put_back(self, result: str) -> str:
        """Bring the old text back, where no text but one of the change is there."""
        assert self.change
        entry = _entry(self.change.entry, result)
        why = ""
        for turn in range(_PUT_BACK_TRIES):
            if turn:
                time.sleep(_PUT_BACK_PAUSE_S)
            try:
                self._held = config_map.read(self._place)
                found = (self._held.get("data") or {}).get(self._place.key)
                why = ""
                if found not in (self.text, *self.change.steps):
                    why = (
                        f"{self._place} was changed by somebody else meanwhile, and stays as it is"
                    )
                elif found != self.text or CHANGE_ANNOTATION in _annotations(self._held):
                    self._save(self.text, None, entry)
                    return ""
                break
            except UserError as error:
                why = (
                    f"The old configuration could NOT be put back, run perennial rollback: {error}"
                )
        self._record(entry)
        return why

    def _save(self, text: str | None, change: Change | None, entry: Entry | None) -> str:
        content = copy.deepcopy(self._held)
        content["data"][self._place.key] = text
        annotations = content["metadata"].setdefault("annotations", {})
        if entry:
            kept = [*_audit(self._held), entry][-_KEPT_ENTRIES:]
            annotations[AUDIT_ANNOTATION] = "\n".join(map(json.dumps, kept))
        annotations.pop(CHANGE_ANNOTATION, None)
        if change:
            annotations[CHANGE_ANNOTATION] = change.model_dump_json()
        try:
            self._held = config_map.replace(self._place, content)
        except ConflictError:
            # A request whose answer got lost is repeated, and then conflicts with itself.
            now = config_map.read(self._place)
            if now.get("data") != content["data"] or _annotations(now) != annotations:
                raise
            self._held = now
        if entry:
            self._record(entry)
        return str(self._held["metadata"]["resourceVersion"])

    def _record(self, entry: Entry) -> None:
        """To the audit file too, where it can be written to from here, and as an Event."""
        if self._log:
            try:
                records.append(self._log, entry)
            except OSError as error:
                text = f"{reason(error)}; the change is recorded in {self._place} only"
                progress.report("note", text=text)
                self._log = None
        if entry["result"] != STARTED:
            self._create_event(entry)

    def _create_event(self, entry: Entry) -> None:
        """Create an Event, which is shown with the ConfigMap. The right to do so is optional."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        place, metadata, is_done = self._place, self._held["metadata"], entry["result"] == DONE
        event = {
            "metadata": {"generateName": f"{place.name}.", "namespace": place.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "namespace": place.namespace,
                "name": place.name,
                "uid": metadata.get("uid"),
                "resourceVersion": metadata.get("resourceVersion"),
            },
            "reason": "Promoted" if is_done else "PromotionFailed",
            "message": f"{entry.get('action')}: {entry['result']} ({entry.get('who')})"[:1024],
            "type": "Normal" if is_done else "Warning",
            "source": {"component": "perennial"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        with contextlib.suppress(UserError):
            request("create events", "CoreV1Api", "create_namespaced_event", place.namespace, event)


def change_location(location: str) -> str:
    """Return where the change of a configuration at a path or URI is kept."""
    return storage.join(storage.parent(location), f".{storage.name(location)}.pending")


def place_of(location: str) -> ConfigMapKey:
    """Parse the location of a ConfigMap. Raises ConfigError."""
    try:
        return ConfigMapKey.parse(location)
    except ValueError as error:
        raise ConfigError(f"{location}: {error}") from error


def read_text(location: str) -> str | None:
    """Read the text at a path or URI, or in a ConfigMap; None where there is no file.

    Raises ConfigError, or KubernetesUnreachable of a ConfigMap.
    """
    if config_map.is_config_map(location):
        place = place_of(location)
        return place.text_of(config_map.read(place))
    return config_file.read_text(location)


def open_to_change(location: str, base: str | None) -> Configuration:
    """Read a configuration, after a change that was cut off is undone or finished.

    Raises ConfigError, also while somebody is changing it, or KubernetesUnreachable.
    """
    try:
        found = _open(location, base)
        found.recover()
    except OSError as error:
        raise ConfigError(f"{location} cannot be changed: {reason(error)}") from error
    if busy := found.change:
        raise ConfigError(
            f"{location} is being changed by {busy.entry.get('who')} ({busy.entry.get('action')}), "
            f"for at most until {busy.until:%Y-%m-%d %H:%M:%S} UTC; wait for the end of it"
        )
    return found


def _open(location: str, base: str | None) -> Configuration:
    if config_map.is_config_map(location):
        return _ConfigMap(location, base)
    return _Object(location) if storage.is_uri(location) else _File(location)


def recover_if_idle(location: str) -> None:
    """Undo or finish a change that was cut off, where nobody is at work. Raises nothing.

    That of a ConfigMap is left to the next change.
    """
    if config_map.is_config_map(location):
        return
    try:
        if storage.read_text(change_location(location), errors="replace") is None:
            return
        with contextlib.ExitStack() as stack:
            if not storage.is_uri(location):
                folder = Path(storage.parent(location))
                stack.enter_context(storage.locked(folder, wait=False))
            _open(location, None).recover()
    except (BlockingIOError, ConflictError):
        return
    except (OSError, UserError) as error:
        text = f"{change_location(location)}: a change was cut off and cannot be undone: {error}"
        progress.report("note", text=text)


def texts(location: str, base: str) -> list[str]:
    """Return the text, and those that a change under way may bring. Raises OSError, UserError."""
    found = _open(location, base)
    others = [found.change.before, *found.change.steps] if found.change else []
    return [text for text in (found.text, *others) if text]


def reason(error: OSError) -> str:
    """Describe an error, with the file where it has one."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _parsed_change(text: str | None, location: str) -> Change | None:
    if text is None:
        return None
    try:
        return Change.model_validate_json(text)
    except ValidationError:
        text = f"{location} is not a record of a change; it is removed"
        progress.report("note", text=text)
        return None


def _entry(entry: Entry, result: str) -> Entry:
    return {**entry, "result": " ".join(result.split())[:2000]}


def _annotations(content: Json) -> dict[str, str]:
    return content["metadata"].get("annotations") or {}


def _audit(content: Json) -> list[Entry]:
    text = _annotations(content).get(AUDIT_ANNOTATION, "")
    # What is none is somebody else's.
    return records.parse(text.split("\n"), AUDIT_ANNOTATION).entries
