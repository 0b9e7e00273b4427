"""One model's versions, and which of them are served: the one entry to all of it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import getpass
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components import progress, records, storage
from components.errors import ConfigError, PromotionFailed, UserError
from components.kubernetes_api import ConflictError
from components.model_registry import config_map, configuration, serving, versions
from components.model_registry.configuration import Configuration
from components.model_registry.followers import Followers, Named, Pods
from components.model_registry.serving import CANARY, PREVIOUS, STABLE, Labels, Served, Serving
from components.model_registry.signing import Keys, verify_version
from components.model_server.config_file import NAME

PUT_BACK = "The old configuration is back in force"
_TRIES = 5
_BACK_SECONDS = 60.0  # for servers to load again what a failed change dropped


@dataclasses.dataclass(frozen=True)
class Version:
    """A pushed version.

    record: of its push, None without a manifest. labels: that it has. served: by a label, or as
    the newest one.
    """

    number: int
    record: Mapping[str, Any] | None
    labels: Sequence[str]
    served: bool


@dataclasses.dataclass(frozen=True)
class Registry:
    """The versions of a model, and the configuration of the servers of it; paths or URIs.

    base: folder of the versions, or None where they cannot be seen from here. config: the model
    configuration, perhaps in a ConfigMap; empty for models.config beside `base`. name: of the model
    in it; empty for that of the folder. public_key: of whoever must have signed a version.

    Methods raise UserError, mostly as ConfigError, before they have changed anything.
    """

    base: str | None
    config: str = ""
    name: str = ""
    public_key: Path | None = None

    def __post_init__(self) -> None:
        if self.base is not None:
            beside = storage.join(storage.parent(self.base), NAME)
            object.__setattr__(self, "config", self.config or beside)
            object.__setattr__(self, "name", self.name or storage.name(self.base))

    @classmethod
    def of_config(cls, config: str, name: str | None, public_key: Path | None) -> Registry:
        """Take the model of that name in a configuration, or its only one."""
        models = Served(configuration.read_text(config), config, name or "").models
        if not models:
            raise ConfigError(f"{config}: is not there, or names no model")
        name = name or (next(iter(models)) if len(models) == 1 else "")
        if name not in models:
            raise ConfigError(f"{config}: name the model; there are: {', '.join(models)}")
        base = models[name]
        # A path of the server's machine need not be one here.
        is_seen = storage.is_uri(base) or Path(base).is_dir()
        return cls(base if is_seen else None, config, name, public_key)

    def push(
        self, model: Path, record: Mapping[str, Any], keep: int, keys: Keys | None = None
    ) -> int:
        """Make a model the newest version, once; see `versions.push`."""

        def served() -> set[int]:
            self.recover()
            return self.pinned()

        return versions.push(model, self._folder, record, keep, served, keys)

    def numbers(self) -> list[int]:
        """Return the numbers of the versions, lowest first."""
        return versions.find(self._folder)

    def versions(self) -> list[Version]:
        """Return the versions, newest first."""
        now, numbers, found = self.serving(), self.numbers(), []
        for number in reversed(numbers):
            manifest = versions.read_manifest(self._folder, number)
            labels = [label for label, labelled in now.labels.items() if labelled == number]
            newest = now.loaded is None and number == numbers[-1]
            served = newest or number in (now.loaded or ())
            record = manifest.record if manifest else None
            found.append(Version(number, record, labels, served))
        return found

    def serving(self) -> Serving:
        """Return what is configured now."""
        return self._served().serving

    def pinned(self) -> set[int]:
        """Return the versions that are configured, or that a change under way may bring."""
        try:
            texts = configuration.texts(self.config, self._folder)
            served = [Served(text, self.config, self.name) for text in texts]
        except (OSError, UserError) as error:
            raise ConfigError(f"which versions are served is not known: {error}") from error
        return {number for each in served for number in each.named(self._folder)}

    def verify(self, version: int) -> None:
        """Raise ConfigError for a version that is not there, or not as pushed, or not signed."""
        if self.base is None:
            if self.public_key:
                raise ConfigError("signatures cannot be checked from here; name the --directory")
            return
        known = self.numbers()
        if version not in known:
            there_are = ", ".join(map(str, known)) or "none"
            raise ConfigError(f"{self.base} has no version {version}; there are: {there_are}")
        manifest = versions.read_manifest(self.base, version)
        if manifest is None:
            raise ConfigError(
                f"version {version} in {self.base} has no {versions.MANIFEST}: it was not pushed "
                "by perennial, or not completely"
            )
        damaged = versions.damaged_files(self.base, version, manifest)
        if damaged:
            raise ConfigError(
                f"version {version} in {self.base} is not what was pushed: {', '.join(damaged)}"
            )
        self.verify_signature(version)

    def verify_signature(self, version: int) -> None:
        """Raise SignatureError for a version that the holder of `public_key` has not signed."""
        if self.public_key:
            verify_version(self._folder, version, self.public_key)

    def recover(self) -> None:
        """Undo or finish a promotion that was cut off, with a note, unless somebody is at work.

        That of a ConfigMap is undone by the next promotion.
        """
        configuration.recover_if_idle(self.config)

    def follow_newest(self) -> None:
        """Let servers serve the newest version, where the configuration has no entry yet."""
        with self._only_one():
            served = self._served()
            served.check_folder(self.base)
            if self.name not in served.models:
                storage.write_text(self.config, served.rewritten(self.base, served.serving))

    def changes(self, check: Callable[[records.Entry], object]) -> list[records.Entry]:
        """Read the audit log, oldest first, without the lines that `check` refuses."""
        log = storage.join(storage.parent(self.config), configuration.AUDIT_FILE)
        return records.read_and_tell(log, check)

    def promote(
        self, version: int, to: str, servers: Sequence[str] = (), timeout: float | None = None
    ) -> Serving:
        """Give `version` the label `to`, "stable" or "canary".

        Args:
            version: a pushed version.
            to: a version becomes stable after it was canary, unless nothing is labelled yet or
                there are servers to wait for, with which it is tried just the same.
            servers: gRPC addresses, HOST:PORT, of servers that follow the configuration: the change
                counts when all of them have the versions AVAILABLE and answer a smoke request. For
                a ConfigMap they are its Service's ready pods, unless they are named.
            timeout: seconds for that, twice where it takes two steps; None for what is usual.

        Raises PromotionFailed where a server did not follow; the old configuration is in force.
        """

        def labels_for(old: Serving) -> dict[str, int]:
            self.verify(version)
            labels = self._implied_labels(old, version)
            return serving.promoted(labels, version, to, self._exists)

        return self._change(labels_for, f"promote {version} to {to}", servers, timeout)

    def rollback(self, servers: Sequence[str] = (), timeout: float | None = None) -> Serving:
        """Undo a promotion: withdraw the canary or, without one, bring the last stable back.

        Where the newest version is served, the one before it becomes stable. Arguments and errors
        as for `promote`.
        """

        def labels_for(old: Serving) -> dict[str, int]:
            labels = dict(old.labels)
            if CANARY in labels and STABLE in labels:
                del labels[CANARY]
                return labels
            self._check_labels(labels)
            version = labels.get(PREVIOUS) or self._version_before(labels.get(STABLE))
            self.verify(version)
            return {STABLE: version}

        return self._change(labels_for, "rollback", servers, timeout)

    def label(self, version: int, to: str, servers: Sequence[str] = ()) -> str:
        """Label a pushed version by a policy: "none", "canary", or "stable" by way of canary.

        The first one is stable in any case, and one that is not newer than the stable one gets no
        label. Returns a line that tells its label. Servers and errors as for `promote`.
        """
        if to == "none":
            return f"version {version} has no label"
        held = self.serving().labels
        stable = held.get(STABLE)
        if stable is None:
            self.promote(version, STABLE, servers)
            return f"version {version} is stable, the first one"
        if version <= stable:
            return f"version {version} is not newer than version {stable}, which is stable"
        if held.get(CANARY, version) != version and not self.followers(servers):
            # A label moves only to what is loaded, and no server shows when that is.
            self.rollback()
        self.promote(version, CANARY, servers)
        if to == CANARY:
            return f"version {version} is canary beside version {stable}, which is stable"
        self.promote(version, STABLE, servers)
        return f"version {version} is stable, instead of version {stable}"

    def hold(self, servers: Sequence[str] = ()) -> str | None:
        """Label what is served as the newest version stable, so that a push does not replace it.

        Returns a line that tells it, None where there is nothing to do.
        """
        found, now = self.numbers(), self.serving()
        if not found or now.labels or now.loaded:
            return None
        # Unchecked: it is served already, perhaps since before there were signatures.
        dataclasses.replace(self, public_key=None).promote(found[-1], STABLE, servers)
        return f"version {found[-1]} is labelled stable, so that a push does not replace it"

    def followers(self, servers: Sequence[str]) -> Followers:
        """Return who is waited for: the named servers, else a ConfigMap's pods, else nobody."""
        if servers or not config_map.is_config_map(self.config):
            return Named(servers)
        return Pods(configuration.place_of(self.config))

    def check_folder(self) -> None:
        """Raise ConfigError where the configuration serves another folder than `base`."""
        self._served().check_folder(self.base)

    @property
    def _folder(self) -> str:
        if self.base is None:
            raise ConfigError(
                "the versions cannot be seen from here; name their folder: --directory"
            )
        return self.base

    def _served(self) -> Served:
        return Served(configuration.read_text(self.config), self.config, self.name)

    def _exists(self, version: int) -> bool:
        return version > 0 and (self.base is None or version in self.numbers())

    def _check_labels(self, labels: Labels) -> None:
        """Refuse labels of versions that are not there, as in a file edited by hand."""
        for label, number in labels.items():
            if not self._exists(number):
                known = self.numbers() if self.base else ()
                there_are = ", ".join(map(str, known)) or "none that can be seen from here"
                raise ConfigError(
                    f"{self.config}: the label {label!r} names version {number} of {self.name}, "
                    f"which does not exist (there are: {there_are}); promote one of them to "
                    f"{label}, or put it right there"
                )

    def _version_before(self, stable: int | None) -> int:
        known = self.numbers() if self.base else []
        if stable is None:
            if not known:
                raise ConfigError(f"{self.base or self.config} has no versions to bring back")
            stable = known[-1]
        lower = [number for number in known if number < stable]
        if not lower:
            raise ConfigError(f"{self.name}: there is no version before {stable} to bring back")
        return lower[-1]

    def _implied_labels(self, old: Serving, version: int) -> dict[str, int]:
        """Return the labels; where the newest version is served without one, it is stable."""
        if old.loaded is not None or old.labels or self.base is None:
            return dict(old.labels)
        newest = max(self.numbers(), default=version)
        return {} if newest == version else {STABLE: newest}

    def _change(
        self,
        labels_for: Callable[[Serving], Labels],
        action: str,
        servers: Sequence[str],
        timeout: float | None,
    ) -> Serving:
        """Decide by what is configured now, and do it; once more where that changed in between."""
        followers = self.followers(servers)
        with self._only_one():
            for _ in range(_TRIES):
                with contextlib.suppress(ConflictError):
                    found = configuration.open_to_change(self.config, self.base)
                    served = Served(found.text, self.config, self.name)
                    if not config_map.is_config_map(self.config):
                        served.check_folder(self.base)
                    new = Serving.of(labels_for(served.serving))
                    self._check_labels(new.labels)
                    if new != served.serving:
                        self._switch(found, served, new, action, followers, timeout)
                    return new
        raise ConfigError(
            f"{self.config} was changed by somebody else each of the {_TRIES} times that it was "
            "read; nothing was changed, try again"
        )

    def _switch(
        self,
        found: Configuration,
        served: Served,
        new: Serving,
        action: str,
        followers: Followers,
        timeout: float | None,
    ) -> None:
        old = served.serving
        steps = serving.steps(old, new, bool(followers), self._exists)
        timeout = timeout or followers.timeout
        texts = [served.rewritten(self.base, step) for step in steps]
        followers.prepare(self.name)
        entry = {
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "who": f"{getpass.getuser()}@{socket.gethostname()}",
            "model": self.name,
            "action": action,
            "from": old.as_json(),
            "to": new.as_json(),
        }
        loaded, last = (new.loaded or frozenset()), ([old, *steps][-2].loaded or frozenset())
        back = Serving(new.labels, loaded | (old.loaded or frozenset()))
        back_text = served.rewritten(self.base, back)
        is_loading, is_dropping = bool(followers) and not loaded <= last, back.loaded != loaded
        back_s = min(timeout, _BACK_SECONDS) if is_dropping else 0.0
        found.begin(entry, len(steps) * timeout + back_s, [back_text, *texts], is_loading)
        text = ""
        try:
            for step, text in zip(steps, texts, strict=True):
                followers.hurry(found.write(text))
                followers.wait(self.name, step, timeout)
            found.end()
        except BaseException as error:
            if isinstance(error, ConflictError) and not found.written:
                raise
            if isinstance(error, PromotionFailed) and text == texts[-1] and is_dropping:
                # Servers may have dropped what a label goes back to, and would refuse to move it.
                with contextlib.suppress(OSError, UserError, KeyboardInterrupt):
                    followers.hurry(found.write(back_text))
                    followers.wait(self.name, back, back_s)
            raise self._failure(found, error) from error

    def _failure(self, found: Configuration, error: BaseException) -> BaseException:
        """Put the old configuration back; return the error to raise, with what is in force."""
        left = found.put_back(f"failed: {str(error) or type(error).__name__}")
        if left:
            try:
                now = f"In force: {self.serving()}; the next command puts it right"
            except UserError as unknown:
                now = f"It is not known what is in force: {unknown}"
            left = f"{left}. {now}"
        why = str(error)
        if isinstance(error, OSError):
            why = f"{error.filename or self.config} cannot be written: {error.strerror or error}"
        elif not isinstance(error, UserError):
            if left:
                progress.report("note", text=left)
            return error
        elif not isinstance(error, PromotionFailed) and not found.written:
            return error
        return PromotionFailed(f"{why}. {left or PUT_BACK}")

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        """Keep other promotions away, and pushes, which could remove a version that is promoted.

        Object stores and ConfigMaps have no lock: they refuse to replace what was not read.
        """
        with contextlib.ExitStack() as stack:
            for folder in (storage.parent(self.config), self.base or ""):
                # One that is mounted to be read is not pushed to from here either.
                if folder and not storage.is_uri(folder) and os.access(folder, os.W_OK):
                    try:
                        stack.enter_context(storage.locked(Path(folder)))
                    except OSError as error:
                        raise ConfigError(
                            f"{error.filename or folder} cannot be locked: {error.strerror}; "
                            "nothing was changed"
                        ) from error
            yield
