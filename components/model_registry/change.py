"""One change of a model configuration: written, recorded, and put back where it fails.

A file is written by whoever holds its folder's lock. A ConfigMap has no lock: each write is refused
where somebody else has written since (its resourceVersion), and the record in its annotation says
who is at work until when.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import datetime
import json
import time
from collections.abc import Sequence
from typing import Any

from components import progress, records, storage
from components.errors import ConfigError, KubernetesUnreachable, UserError
from components.model_registry import config_map, pending, served
from components.model_registry.config_map import ClusterError, ConflictError, Json, Place
from components.model_registry.pending import AUDIT_FILE, DONE, STARTED, Pending

AUDIT_ANNOTATION = "perennial/audit"
BEFORE_ANNOTATION = "perennial/before"  # the text before the change that is under way
_KEPT_ENTRIES = 20  # an object's annotations may have 256 KiB
_PUT_BACK_TRIES = 6
_PUT_BACK_PAUSE_S = 5.0

PUT_BACK = "The old configuration is back in force"

Entry = dict[str, Any]


class ChangedMeanwhileError(ClusterError):
    """Somebody else changed the configuration between its reading and the first write."""


class Change(abc.ABC):
    """A configuration as it was read, and what is made of it.

    text: as it was read, None where there is no file yet. written: whether it was replaced.
    """

    text: str | None
    written = False

    @abc.abstractmethod
    def begin(self, entry: Entry, seconds: float, steps: Sequence[str], followed: bool) -> None:
        """Record what is about to be done.

        Args:
            entry: of the audit log.
            seconds: that it may take.
            steps: the texts that are to be written.
            followed: there are servers to wait for.
        """

    @abc.abstractmethod
    def write(self, text: str) -> str:
        """Replace the configuration; returns a name of this state of it.

        Raises:
            ClusterError: of a ConfigMap that cannot be written.
        """

    @abc.abstractmethod
    def put_back(self, result: str) -> str:
        """Bring back what was read, and record why. Returns why not, where it was not possible."""

    @abc.abstractmethod
    def end(self) -> None:
        """Record that it is done."""


class FileChange(Change):
    """Of a file or an object, whose folder's lock is held."""

    def __init__(self, location: str) -> None:
        """Read it, after a change that was cut off is undone or finished. Raises ConfigError."""
        self._location = location
        self._pending: Pending | None = None
        try:
            if told := pending.recover(location):
                progress.report("note", text=told)
            if busy := pending.read(location):  # only of an object store, which has no locks
                raise ConfigError(
                    f"{location} is being changed by {busy.entry.get('who')} "
                    f"({busy.entry.get('action')}), for at most until "
                    f"{busy.until:%Y-%m-%d %H:%M:%S} UTC; wait for the end of it"
                )
            self.text = served.read_text(location)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"{location} cannot be changed: {_reason(error)}") from error

    def begin(self, entry: Entry, seconds: float, steps: Sequence[str], followed: bool) -> None:
        """Record first, so that a change that is killed is found, and does not go unrecorded."""
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        self._pending = Pending(
            entry=entry, before=self.text, steps=list(steps), followed=followed, until=until
        )
        pending.write(self._location, self._pending)
        pending.record(self._location, entry, STARTED)

    def write(self, text: str) -> str:
        """Replace the file in one step."""
        self.written = True
        storage.write_text(self._location, text)
        return ""

    def put_back(self, result: str) -> str:
        """Bring the old file back, or remove one that was new."""
        if self._pending is None:
            return ""
        try:
            pending.put_back(self._location, self._pending)
        except OSError as error:
            return f"the old configuration could NOT be put back: {_reason(error)}"
        with contextlib.suppress(OSError):  # as it is in force, the next command finds it undone
            pending.remove(self._location)
        self._record(result)
        return ""

    def end(self) -> None:
        """Make it count, and record that it is done. Raises OSError, and then it does not count."""
        pending.remove(self._location)
        self._record(DONE)

    def _record(self, result: str) -> None:
        assert self._pending
        try:
            pending.record(self._location, self._pending.entry, result)
        except OSError as error:
            text = f"{self._pending.entry['action']}: {result}, but not recorded: {_reason(error)}"
            progress.report("note", text=text)


class ConfigMapChange(Change):
    """Of a key of a ConfigMap."""

    def __init__(self, location: str, base: str | None) -> None:
        """Read it. `base` is the folder of versions, beside which is the audit file.

        Raises:
            ConfigError: it cannot be read, or somebody else is changing it.
        """
        self._location, self._base = location, base
        try:
            self._place = Place.parse(location)
            self._read = config_map.read(self._place)
            self.text = config_map.text_of(self._place, self._read)
        except (ValueError, ClusterError) as error:
            raise user_error(error, location) from error
        self._wanted: str | None = None
        self._entry: Entry = {}
        self._refuse_while_busy()
        self._undo_what_was_cut_off()
        self._held = self._read

    def begin(self, entry: Entry, seconds: float, steps: Sequence[str], followed: bool) -> None:
        """Record with the first write, which is one step with it."""
        if "models.config" in _applied(self._read):
            progress.report(
                "note",
                text=f"{self._place} was made by `kubectl apply` of a file, and the "
                "next apply brings that file's versions back; see kubeflow/serving/README.md",
            )
        # While it may still put the old text back, nobody may take it for one that was cut off.
        latest = seconds + _PUT_BACK_TRIES * _PUT_BACK_PAUSE_S
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=latest)
        limit = until.isoformat(timespec="milliseconds")
        self._entry = {**entry, "config": self._location, "until": limit}

    def write(self, text: str) -> str:
        """Replace the key, where nobody else has changed the ConfigMap since it was read.

        Raises:
            ChangedMeanwhileError: somebody did, before the first write.
        """
        first = self._wanted is None
        try:
            self._held = self._replace(self._held, text, self._entry if first else None)
        except ConflictError as error:
            if first:
                raise ChangedMeanwhileError(str(error)) from error
            raise
        finally:
            self._wanted = text
        self.written = True
        if first:
            self._append(_with_result(self._entry, STARTED))
        return str(self._held["metadata"]["resourceVersion"])

    def put_back(self, result: str) -> str:
        """Bring the old text back, where the new one is still there."""
        ended = _with_result(self._entry, result)
        for turn in range(_PUT_BACK_TRIES):
            if turn:
                time.sleep(_PUT_BACK_PAUSE_S)
            try:
                why = self._put_back(ended)
                break
            except ConflictError as error:
                why = str(error)
            except ClusterError as error:
                why = (
                    f"The old configuration could NOT be put back, run perennial rollback: {error}"
                )
        self._append(ended)
        self._tell("PromotionFailed", "Warning", f"{self._entry['action']}: {result}")
        return why

    def _put_back(self, ended: Entry) -> str:
        now = config_map.read(self._place)
        found = (now.get("data") or {}).get(self._place.key)
        if found not in (self._wanted, self.text):
            return f"{self._place} was changed by somebody else meanwhile, and stays as it is now"
        if found != self.text or _entries(now) != _entries(self._read):
            self._held = self._replace(now, str(self.text), ended)
        return ""

    def end(self) -> None:
        """Record that it is done. What is served does not depend on it any more."""
        ended = _with_result(self._entry, DONE)
        try:
            self._replace(self._held, config_map.text_of(self._place, self._held), ended)
        except ClusterError as error:
            progress.report(
                "note",
                text=f"the promotion is done, but not recorded: {error}",
            )
        self._append(ended)
        labels = ", ".join(f"{label}={n}" for label, n in self._entry["to"]["labels"].items())
        self._tell("Promoted", "Normal", f"{self._entry['action']}: {labels}")

    def _replace(self, held: Json, text: str, entry: Entry | None) -> Json:
        content = copy.deepcopy(held)
        content["data"][self._place.key] = text
        if entry:
            kept = [*_entries(held), entry if "result" in entry else _with_result(entry, STARTED)]
            annotations = content["metadata"].setdefault("annotations", {})
            annotations[AUDIT_ANNOTATION] = "\n".join(map(json.dumps, kept[-_KEPT_ENTRIES:]))
            if kept[-1]["result"] == STARTED:
                annotations[BEFORE_ANNOTATION] = config_map.text_of(self._place, held)
            else:
                annotations.pop(BEFORE_ANNOTATION, None)
        try:
            return config_map.replace(self._place, content)
        except ConflictError:
            # An answer that got lost is asked for again, and then conflicts with itself.
            now = config_map.read(self._place)
            if now.get("data") == content["data"] and _entries(now) == _entries(content):
                return now
            raise

    def _refuse_while_busy(self) -> None:
        last = (_entries(self._read) or [{}])[-1]
        now = datetime.datetime.now(datetime.UTC)
        try:
            busy = last.get("result") == STARTED and (
                datetime.datetime.fromisoformat(last["until"]) > now
            )
        except (KeyError, ValueError, TypeError):
            return
        if busy:
            raise ConfigError(
                f"{self._place} is being changed by {last.get('who')} since {last.get('at')} "
                f"({last.get('action')}), for at most until {last['until']}; wait for the end of it"
            )

    def _undo_what_was_cut_off(self) -> None:
        """Bring back the text of before a change whose process was killed."""
        annotations = self._read["metadata"].get("annotations") or {}
        before = annotations.get(BEFORE_ANNOTATION)
        last = (_entries(self._read) or [{}])[-1]
        if before is None or last.get("result") != STARTED:
            return
        try:
            self._read = self._replace(
                self._read, before, _with_result(last, "failed: cut off, and undone")
            )
        except ClusterError as error:
            raise user_error(error, self._location) from error
        self.text = before
        progress.report(
            "note",
            text=f"{last.get('action')}, by {last.get('who')} at {last.get('at')}, was cut off, "
            "and is undone",
        )

    def _append(self, entry: Entry) -> None:
        """To the audit file too, where the folder of versions can be written to from here."""
        if self._base is None:
            return
        location = storage.join(storage.parent(self._base), AUDIT_FILE)
        try:
            records.append(location, entry)
        except OSError as error:
            why = error.strerror or type(error).__name__
            progress.report(
                "note",
                text=f"{location} cannot be written ({why}); the "
                f"change is recorded in {self._place} only",
            )
            self._base = None

    def _tell(self, reason: str, kind: str, message: str) -> None:
        """As an Event of the ConfigMap, which is shown with it. The right to do so is optional."""
        import kubernetes

        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        place, metadata = self._place, self._held["metadata"]
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
            "reason": reason,
            "message": f"{message} ({self._entry['who']})"[:1024],
            "type": kind,
            "source": {"component": "perennial"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        api = kubernetes.client.CoreV1Api(config_map.connection())
        try:
            config_map.request("create events", api.create_namespaced_event, place.namespace, event)
        except ClusterError:
            return


def user_error(error: Exception, location: str) -> UserError:
    """A failure to read or write a ConfigMap, as a person is told of it."""
    if isinstance(error, config_map.UnreachableError):
        return KubernetesUnreachable(str(error))
    if isinstance(error, ClusterError):
        return ConfigError(str(error))
    return ConfigError(f"{location}: {error}")


def _reason(error: OSError) -> str:
    """What kept a file from being read or written, and which."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _with_result(entry: Entry, result: str) -> Entry:
    kept = entry if result == STARTED else {k: v for k, v in entry.items() if k != "until"}
    return {**kept, "result": " ".join(result.split())[:2000]}


def _entries(content: Json) -> list[Entry]:
    text = (content["metadata"].get("annotations") or {}).get(AUDIT_ANNOTATION, "")
    # What is none is somebody else's.
    return records.parse(text.split("\n"), AUDIT_ANNOTATION).entries


def _applied(content: Json) -> str:
    annotations = content["metadata"].get("annotations") or {}
    return str(annotations.get("kubectl.kubernetes.io/last-applied-configuration", ""))
