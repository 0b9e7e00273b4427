"""What has to be so before a version is given a label; each failure is a ConfigError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components import storage
from components.errors import ConfigError
from components.model_registry import config_map, served, versions

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

    from components.model_registry.promotion import Target


def check_folder(config: ModelServerConfig, target: Target) -> None:
    """Refuse a configuration that serves another folder than the one of the target.

    A folder that is not on this machine may be the same one where the servers run, unless the
    configuration lies beside the target's. Raises ConfigError.
    """
    model = entry_of(config, target.name)
    base, configured = target.base, model.base_path if model else ""
    if base is None or not configured or config_map.is_config_map(target.config):
        return
    if storage.is_uri(base) or storage.is_uri(configured):
        is_same = configured.rstrip("/") == base.rstrip("/")
        is_known = True
    else:
        is_same = Path(configured).resolve() == Path(base).resolve()
        is_known = Path(configured).is_dir() or target.config == served.default_config(base)
    if is_known and not is_same:
        raise ConfigError(
            f"{target.config}: the model {target.name} has base_path {configured!r}, and its "
            f"versions here are in {base!r}: servers would not serve these; was the folder moved "
            "or copied? Put the right base_path there"
        )


def check_labels(target: Target, labels: Mapping[str, int]) -> None:
    """Refuse labels of versions that are not there, which somebody wrote into the file."""
    known = None if target.base is None else find_versions(target)
    for label, number in labels.items():
        if number < 1 or (known is not None and number not in known):
            there_are = ", ".join(map(str, known or ())) or "none that can be seen from here"
            raise ConfigError(
                f"{target.config}: the label {label!r} names version {number} of {target.name}, "
                f"which does not exist (there are: {there_are}); promote one of them to {label}, "
                "or put it right there"
            )


def exists(target: Target, version: int) -> bool:
    return version > 0 and (target.base is None or version in find_versions(target))


def check_version(target: Target, version: int) -> None:
    if target.base is None:
        if target.public_key:
            raise ConfigError("signatures cannot be checked from here; name the --directory")
        return
    known = find_versions(target)
    if version not in known:
        there_are = ", ".join(map(str, known)) or "none"
        raise ConfigError(f"{target.base} has no version {version}; there are: {there_are}")
    manifest = versions.read_manifest(target.base, version)
    if manifest is None:
        raise ConfigError(
            f"version {version} in {target.base} has no {versions.MANIFEST}: it was not pushed by "
            "perennial, or not completely"
        )
    damaged = versions.damaged_files(target.base, version, manifest)
    if damaged:
        raise ConfigError(
            f"version {version} in {target.base} is not what was pushed: {', '.join(damaged)}"
        )
    if target.public_key:
        check_signature(target.base, version, target.public_key)


def check_signature(base: str, version: int, public_key: Path) -> None:
    """Refuse a version that the holder of the private key did not sign.

    Raises:
        ConfigError: it must not be served.
    """
    from components.model_registry.signing import SignatureError, verify_version

    try:
        verify_version(base, version, public_key)
    except SignatureError as error:
        raise ConfigError(f"{error}; what is served stays as it is") from error


def version_before(target: Target, stable: int | None) -> int:
    known = [] if target.base is None else find_versions(target)
    if stable is None:
        if not known:
            raise ConfigError(f"{target.base or target.config} has no versions to bring back")
        stable = max(known)
    lower = [number for number in known if number < stable]
    if not lower:
        raise ConfigError(f"{target.name}: there is no version before {stable} to bring back")
    return lower[-1]


def find_versions(target: Target) -> list[int]:
    """The numbers in the folder of a target that has one, lowest first. Raises ConfigError."""
    from components.errors import PushRefusedError

    assert target.base is not None
    try:
        return versions.find(target.base)
    except PushRefusedError as error:
        raise ConfigError(str(error)) from error


def entry_of(config: ModelServerConfig, name: str) -> ModelConfig | None:
    return next((model for model in config.model_config_list.config if model.name == name), None)
