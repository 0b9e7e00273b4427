"""Which version may have which label, and by what steps a server is brought there.

The configuration is TensorFlow Serving's model_config_list, which servers follow. A model is in one
of two states there:

- newest: the policy `latest`. Every push is served as soon as it is loaded. `perennial serve`
  writes this where a model has no entry yet.
- promoted: the policy `specific`, with labels. A push changes nothing that is served. The labels
  are `stable`, `canary`, and `previous` for the stable version before, which stays loaded so that a
  rollback needs no loading.

A request without a label or version goes to the highest version loaded, which with a canary is
the canary: clients that must not see it ask for the label `stable`.

A server refuses to move a label that is in use to a version that it has not loaded. So where that
is needed the change is made in two steps, the first of which only loads, and a server has to be
named that says when it is done.
"""

from __future__ import annotations

from collections.abc import Callable

from components.errors import ConfigError
from components.model_registry.served import Labels, Serving

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"


def promoted(
    labels: Labels, version: int, to: str, exists: Callable[[int], bool]
) -> dict[str, int]:
    """The labels with `version` as "stable" or "canary". Raises ConfigError if that cannot be."""
    new = dict(labels)
    if to == CANARY:
        if labels.get(STABLE) == version:
            raise ConfigError(f"version {version} is {STABLE} already, so no {CANARY}")
        new[CANARY] = version
    elif labels.get(STABLE) != version:
        before = new.pop(STABLE, None)
        new.pop(PREVIOUS, None)
        # Not above it: who asks for no label would be answered by the highest version.
        if before is not None and before < version and exists(before):
            new[PREVIOUS] = before
        new[STABLE] = version
        if new.get(CANARY) == version:
            del new[CANARY]
    return new


def steps(
    old: Serving, new: Serving, followed: bool, exists: Callable[[int], bool]
) -> list[Serving]:
    """What is configured one after the other; `followed` tells whether servers are waited for.

    Raises ConfigError where nobody could tell when the next step may come.
    """
    loaded = old.loaded or frozenset()
    # Labels that are not in use yet, or of no version, may be ahead of what is loaded.
    ahead = [
        (label, number)
        for label, number in new.labels.items()
        if number not in loaded
        and old.labels.get(label, number) != number
        and exists(old.labels[label])
    ]
    if not ahead:
        return [new]
    if not followed:
        label, number = ahead[0]
        first = "promote it to canary first"
        if CANARY in old.labels:
            first = f"withdraw version {old.labels[CANARY]} first (perennial rollback)"
        raise ConfigError(
            f"version {number} is not loaded, so {label!r}, which is in use, cannot move to "
            f"it: {first}, or name a server (--server) that says when it is"
        )
    return [Serving(old.labels, frozenset({*loaded, *new.labels.values()})), new]
