"""Load, exchange and free versions, as the disk and the configuration have them.

A new version is loaded and warmed up beside the old one, which is freed after its last request: a
request holds a reference to it. A version that cannot be loaded is tried again and then given up,
and the old one keeps serving.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from components.model_server.errors import ServingError, invalid
from components.model_server.model import LoadedModel

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

log = logging.getLogger("perennial.serving")

START, LOADING, AVAILABLE, END = "START", "LOADING", "AVAILABLE", "END"


@dataclasses.dataclass
class Version:
    """A version that was seen on disk.

    state: START, LOADING, AVAILABLE or END, as in TensorFlow Serving's status. error: of the last
    attempt to load it.
    """

    number: int
    path: Path
    state: str = START
    error: ServingError | None = None
    loaded: LoadedModel | None = None
    attempts: int = 0
    next_attempt: float = 0.0
    given_up: bool = False


@dataclasses.dataclass
class _Model:
    config: ModelConfig
    wanted: bool = True  # False once the configuration no longer names it
    settled: bool = False  # each configured version on disk is loaded or given up
    versions: dict[int, Version] = dataclasses.field(default_factory=dict)


class Manager:
    """Loader of models in a background thread, from `start` to `stop`.

    config: the configuration in force. Requests `find` a version and never wait for a load.
    """

    def __init__(
        self,
        config: ModelServerConfig,
        poll_seconds: float,
        load_retries: int,
        retry_seconds: float,
        public_key: Path | None = None,
    ) -> None:
        """Take the configuration. Raises ServingError where it cannot be used."""
        check_config(config)
        self.config = config
        self._poll_seconds = poll_seconds
        self._load_retries = load_retries
        self._retry_seconds = retry_seconds
        self._public_key = public_key
        self._changed = threading.Condition()
        self._models = {c.name: _Model(c) for c in config.model_config_list.config}
        self._stopping = False
        self._poll_now = True
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="model-loader", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following the disk, and free all that no request holds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            for model in self._models.values():
                self._retire(model, set())

    def find(
        self, name: str, number: int | None = None, label: str = ""
    ) -> tuple[int, LoadedModel]:
        """Return a version in memory: `number`, or the one that has `label`, or the newest.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
        """
        with self._changed:
            model = self._models.get(name)
            if model is None:
                raise ServingError("NOT_FOUND", f"Servable not found for request: Latest({name})")
            if label:
                number = _labelled(model.config, label)
            ready = {v.number: v.loaded for v in model.versions.values() if v.loaded}
            wanted = max(ready, default=None) if number is None else number
            if wanted is None or wanted not in ready:
                which = f"Latest({name})" if number is None else f"Specific({name}, {number})"
                raise ServingError("NOT_FOUND", f"Servable not found for request: {which}")
            return wanted, ready[wanted]

    def status(self, name: str, number: int | None = None, label: str = "") -> list[Version]:
        """Return copies of a model's versions, newest first, or of the one that is named.

        Raises:
            ServingError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
        """
        with self._changed:
            model = self._models.get(name)
            versions = model.versions if model else {}
            if model and label:
                number = _labelled(model.config, label)
            if number is not None and number not in versions:
                raise ServingError("NOT_FOUND", f"Could not find version {number} of model {name}")
            if not versions:
                raise ServingError("NOT_FOUND", f"Could not find any versions of model {name}")
            numbers = sorted(versions, reverse=True) if number is None else [number]
            return [dataclasses.replace(versions[number]) for number in numbers]

    def names(self) -> list[str]:
        """Return the names of the configured models."""
        with self._changed:
            return sorted(name for name, model in self._models.items() if model.wanted)

    def reload(self, config: ModelServerConfig, timeout: float) -> None:
        """Replace the configuration, then wait until models that are new in it can be used.

        A label that is in use moves to AVAILABLE versions only; a new one may be ahead of its own.

        Raises:
            ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION, and nothing has changed; UNKNOWN
                where a new model did not become AVAILABLE within `timeout` seconds.
        """
        check_config(config)
        wanted = {c.name: c for c in config.model_config_list.config}
        with self._changed:
            known = {name for name, model in self._models.items() if model.wanted}
            for name in known & wanted.keys():
                self._check_labels(self._models[name], wanted[name])
            for name in known - wanted.keys():
                self._models[name].wanted = False
            for name, model_config in wanted.items():
                model = self._models.setdefault(name, _Model(model_config))
                model.config, model.wanted, model.settled = model_config, True, False
            self.config = config
            self._poll_now = True
            self._changed.notify_all()
        for name in sorted(wanted.keys() - known):
            try:
                self.wait_for(name, timeout)
            except ServingError as error:
                raise ServingError(
                    "UNKNOWN", f"model {name} did not become available: {error.message}"
                ) from error

    def wait_for(self, name: str, timeout: float) -> None:
        """Wait until all that is configured for a model is AVAILABLE.

        Raises:
            ServingError: DEADLINE_EXCEEDED after `timeout` seconds, or the error of a version that
                was given up.
        """
        model = self._models[name]
        with self._changed:
            self._changed.wait_for(lambda: model.settled or self._stopping, timeout)
            versions = [dataclasses.replace(version) for version in model.versions.values()]
            settled = model.settled
        for version in versions:
            if version.error and (version.given_up or not settled):
                raise version.error
        if not settled:
            raise ServingError(
                "DEADLINE_EXCEEDED",
                f"no configured version of {name} under {model.config.base_path} became "
                f"AVAILABLE within {timeout:g} s",
            )

    def _check_labels(self, model: _Model, config: ModelConfig) -> None:
        for label, number in config.version_labels.items():
            current = model.config.version_labels.get(label, number)
            version = model.versions.get(number)
            if current != number and (version is None or version.state != AVAILABLE):
                raise ServingError(
                    "FAILED_PRECONDITION",
                    f"Request to assign label to version {number} of model {config.name}, which "
                    f"is not currently available for inference; {label!r} stays at {current}",
                )

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._poll_now or self._stopping, self._poll_seconds)
                if self._stopping:
                    return
                self._poll_now = False
                models = list(self._models.values())
            try:
                for model in models:
                    self._follow(model)
            except Exception:  # nothing would be loaded any more
                log.exception("following the models failed; trying again")

    def _follow(self, model: _Model) -> None:
        """Bring one model to what is configured and on disk."""
        with self._changed:
            config, wanted = model.config, model.wanted
        found = self._scan(config) if wanted else {}
        if found is None:
            return  # the folder cannot be read for now: keep what is served
        with self._changed:
            for number, path in found.items():
                version = model.versions.get(number)
                if version is None or (version.state == END and not version.given_up):
                    model.versions[number] = Version(number, path)
            for version in model.versions.values():
                if version.number not in found:
                    version.given_up = False  # it is tried anew should it come back
                    if version.state in (START, LOADING):
                        version.state = END
            now = time.monotonic()
            due = [
                model.versions[number]
                for number in sorted(found, reverse=True)
                if model.versions[number].state in (START, LOADING)
                and model.versions[number].next_attempt <= now
            ]
        for version in due:
            if self._stopping:
                return
            self._load(model, version)
        with self._changed:
            # A configuration that came in meanwhile may keep what this one drops.
            if model.config is config and model.wanted is wanted:
                versions = [model.versions[number] for number in found]
                ready = [version.state == AVAILABLE for version in versions]
                if not found or any(ready):
                    self._retire(model, found.keys())
                model.settled = bool(found) and all(
                    is_ready or version.given_up
                    for is_ready, version in zip(ready, versions, strict=True)
                )
            self._changed.notify_all()

    def _scan(self, config: ModelConfig) -> dict[int, Path] | None:
        """Find the versions that the policy asks for; None if the folder cannot be read."""
        base = Path(config.base_path)
        try:
            children = [child for child in base.iterdir() if is_number(child.name)]
        except OSError as error:
            self._warn_once(f"{base} cannot be read: {error.strerror}")
            return None
        on_disk = {int(child.name): child for child in sorted(children)}
        if not on_disk:
            self._warn_once(f"no version of {config.name} is in {base} yet")
        numbers = _chosen(config, sorted(on_disk))
        for number in numbers - on_disk.keys():
            self._warn_once(f"version {number} of {config.name} is configured but not in {base}")
        return {number: on_disk[number] for number in numbers & on_disk.keys()}

    def _load(self, model: _Model, version: Version) -> None:
        with self._changed:
            version.state = LOADING
            version.attempts += 1
            self._changed.notify_all()
        name = f"{model.config.name} version {version.number}"
        start = time.monotonic()
        try:
            if self._public_key:
                _check_signature(version.path, self._public_key)
            loaded = LoadedModel(version.path)
        except Exception as error:
            known = error if isinstance(error, ServingError) else None
            with self._changed:
                version.error = known or ServingError(
                    "INTERNAL", f"{type(error).__name__}: {error}"
                )
                version.given_up = version.attempts > self._load_retries
                version.next_attempt = time.monotonic() + self._retry_seconds
                if version.given_up:
                    version.state = END
            what = "is given up" if version.given_up else "will be tried again"
            log.error("%s cannot be loaded and %s: %s", name, what, version.error)
            return
        with self._changed:
            version.loaded, version.error, version.state = loaded, None, AVAILABLE
            self._changed.notify_all()
        seconds = time.monotonic() - start
        log.info("%s is AVAILABLE (%.2f s, %d warm-up)", name, seconds, loaded.warmup_records)

    def _retire(self, model: _Model, kept: Collection[int]) -> None:
        for version in model.versions.values():
            if version.number not in kept and version.state == AVAILABLE:
                version.loaded, version.state = None, END
                log.info("version %d in %s is unloaded", version.number, version.path.parent)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message)


def check_config(config: ModelServerConfig) -> None:
    """Raise ServingError where a configuration cannot be served."""
    names: set[str] = set()
    for model in config.model_config_list.config:
        if not model.name or model.name in names:
            raise invalid(f"each model needs a name of its own, found {model.name!r} again")
        names.add(model.name)
        if not Path(model.base_path).is_absolute():
            raise invalid(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()="
                f"{model.base_path}"
            )
        if model.model_platform not in ("", "tensorflow"):
            raise invalid(f"model {model.name}: model_platform must be tensorflow")
    if not names:
        raise invalid("the configuration has no model_config_list with a model in it")


def _check_signature(path: Path, public_key: Path) -> None:
    from components.model_registry import Registry, SignatureError

    try:
        Registry(str(path.parent), public_key=public_key).verify_signature(int(path.name))
    except SignatureError as error:
        raise ServingError("PERMISSION_DENIED", str(error)) from error


def _chosen(config: ModelConfig, numbers: list[int]) -> set[int]:
    policy = config.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return set(numbers)
        case "specific":
            return set(policy.specific.versions)
        case _:
            return set(numbers[-max(policy.latest.num_versions, 1) :])


def _labelled(config: ModelConfig, label: str) -> int:
    if label not in config.version_labels:
        raise invalid(f"Unrecognized servable version label: {label}")
    return config.version_labels[label]


def is_number(name: str) -> bool:
    """Whether a name is the number of a version."""
    # Longer ones are none that an int64 holds, and slow to read.
    return name.isascii() and name.isdigit() and len(name) < 20 and int(name) < 1 << 63
