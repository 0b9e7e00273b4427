"""What is served after a push: labels are set, the stable version is not replaced unasked."""

from __future__ import annotations

import dataclasses

from components.atomic_pusher import served, versions
from pipeline.serving import promotion
from pipeline.serving.promotion import CANARY, STABLE, Target
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
    """Label a pushed version by the policy, and say what it is.

    Raises:
        ConfigError, PromotionFailed: it cannot be done; see `promotion.promote`.
    """
    model, servers = target(config), config.retrain.servers
    held = promotion.current(model).labels
    stable = held.get(STABLE)
    if config.retrain.promote == "none":
        return f"version {version} has no label, as retrain.promote says"
    if stable is None:
        promotion.promote(model, version, STABLE, servers)
        return f"version {version} is stable, the first one"
    if version <= stable:
        return f"version {version} is no newer than version {stable}, which is stable"
    if held.get(CANARY, version) != version and not servers:
        # A label moves only to what is loaded, and nobody could say when that is.
        promotion.rollback(model)
    promotion.promote(model, version, CANARY, servers)
    if config.retrain.promote == CANARY:
        return f"version {version} is canary beside version {stable}, which is stable"
    promotion.promote(model, version, STABLE, servers)
    return f"version {version} is stable, instead of version {stable}"
