"""The configuration of a retraining: the given settings over the baseline's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from pipeline.config import Loaded
from pipeline.recipe_choice import AUTO
from pipeline.retraining import baseline
from pipeline.workspace import Workspace


class Load(Protocol):
    """A function that loads the given settings, with `KEY=VALUE` above and layers below them."""

    def __call__(
        self, above: Sequence[str] = (), below: Mapping[str, Mapping[str, object]] | None = None
    ) -> Loaded: ...


class Prepared(NamedTuple):
    """A configuration, and a line for each setting that differs from baseline and given ones."""

    loaded: Loaded
    notes: list[str]


def prepare(load: Load) -> Prepared:
    """Build the configuration of a retraining. Raises ConfigError."""
    given = load()
    found = baseline.find(Workspace.open(given.config.workspace), given.config.name)
    if found is None:
        return Prepared(given, [])
    above = []
    if given.origins["train.recipe"].startswith(AUTO):
        # By data that has grown another recipe would be chosen, which could not go on from it.
        above = [f"train.recipe={found.recipe}"]
    used = load(above, {found.origin: found.layer(given)})
    return Prepared(
        used,
        [
            f"starts from the settings of the baseline's run {found.run}",
            *baseline.differences(found, given, used),
        ],
    )
