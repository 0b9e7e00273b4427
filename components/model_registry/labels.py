"""What is served after a push: labels are set, the stable version is not replaced unasked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from components import progress
from components.model_registry import promotion, served, versions
from components.model_registry.promotion import CANARY, STABLE, Target
from pipeline.settings import Config


def target(config: Config) -> Target:
    """The model that the configuration pushes to."""
    base = config.push_directory
    location = config.push.served_config or served.default_config(base)
    return Target(config.name, base, location, config.push.signing.public_key)


def hold(config: Config) -> str | None:
    """Label what is served now as stable, so that a push does not change it.

    Returns what was done, None for nothing.
    """
    # Unchecked: it is served already, perhaps since before there were signatures.
    model = dataclasses.replace(target(config), public_key=None)
    found = versions.find(config.push_directory)
    serving = promotion.current(model)
    if config.retrain.promote == "none" or not found or serving.labels or serving.loaded:
        return None
    promotion.promote(model, found[-1], STABLE, config.retrain.servers)
    return f"version {found[-1]} is labelled stable, so that a push does not replace it"


def label(config: Config, version: int) -> str:
    """Label a pushed version by the policy of `retrain`, and say what it is.

    Raises:
        ConfigError, PromotionFailed: it cannot be done; see `promotion.promote`.
    """
    if config.retrain.promote == "none":
        return f"version {version} has no label, as retrain.promote says"
    return apply(target(config), version, config.retrain.promote, config.retrain.servers)


def apply(model: Target, version: int, to: str, servers: Sequence[str] = ()) -> str:
    """Label a version canary, or stable by way of canary, and say what it is.

    The first one is stable in any case, and one that is no newer than the stable one stays without
    a label. Raises what `promotion.promote` raises.
    """
    held = promotion.current(model).labels
    stable = held.get(STABLE)
    if stable is None:
        promotion.promote(model, version, STABLE, servers)
        return f"version {version} is stable, the first one"
    if version <= stable:
        return f"version {version} is no newer than version {stable}, which is stable"
    if held.get(CANARY, version) != version and not promotion.followers_of(model, servers):
        # A label moves only to what is loaded, and nobody could say when that is.
        promotion.rollback(model)
    promotion.promote(model, version, CANARY, servers)
    if to == CANARY:
        return f"version {version} is canary beside version {stable}, which is stable"
    promotion.promote(model, version, STABLE, servers)
    return f"version {version} is stable, instead of version {stable}"


def after_push(base: str, config: str, version: int, model: str, to: str, public_key: str) -> None:
    """Label what the Pusher pushed, as push.promote says. Called by the Pusher, by its name.

    Args:
        base: folder of the versions.
        config: of the servers, in a ConfigMap.
        version: that was pushed.
        model: its name in the configuration.
        to: canary or stable.
        public_key: file of the key that signed it; empty for none.

    Raises what `promotion.promote` raises.
    """
    key = Path(public_key) if public_key else None
    progress.report("note", text=apply(Target(model, base, config, key), version, to))
