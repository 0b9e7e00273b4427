"""The settings of the baseline's run, with which a retraining starts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from components.lineage import Lineage
from pipeline.config import COMMAND_LINE, Loaded, items, keys, renamed
from pipeline.recipe_choice import AUTO
from pipeline.report.facts import RECORD
from pipeline.workspace import Workspace
from trainer_module import recipes

ORIGIN = "baseline"
# Settings that make the model, wherever set: defaults and presets may have changed since.
_MODEL = ("train.", "transform.")
# Settings of the schedule or the place, or that would keep new images out.
_NOT_TAKEN = (
    *("name", "workspace", "data.first_span", "data.last_span", "retrain.", "notify."),
    *("monitor.", "kubeflow."),
)
_GATE = "evaluate."
_WARM_START = "train.warm_start"
# Runs before 0.2.0 have recorded "champion".
_GIVEN = (COMMAND_LINE, "file:", f"{ORIGIN} ", "champion ")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The run that made the baseline, with the settings that define it.

    values: JSON values by dotted key.
    """

    run: str
    values: Mapping[str, Any]

    @property
    def origin(self) -> str:
        """The name of its configuration layer."""
        return f"{ORIGIN} {self.run}"

    @property
    def recipe(self) -> str:
        return str(self.values["train.recipe"])

    def layer(self, given: Loaded) -> dict[str, Any]:
        """Return the settings that a retraining adopts, as a layer below those `given`.

        With another recipe, neither its settings nor its weights fit. A limit of the gate is
        adopted only if it is tighter: a loosened one applied to that run alone.
        """
        before = dict(items(given.config, given.origins))
        found = {
            key: value
            for key, value in self.values.items()
            if not key.startswith(_GATE) or _is_tighter(key, value, before.get(key))
        }
        if self.shares_recipe(given):
            return found
        model_free = {k: v for k, v in found.items() if not k.startswith(_MODEL)}
        return {**model_free, _WARM_START: False}

    def shares_recipe(self, given: Loaded) -> bool:
        """Return whether no other recipe is given."""
        origin = given.origins["train.recipe"]
        asked = origin.startswith(_GIVEN) and given.config.train.recipe != self.recipe
        return not asked


def find(workspace: Workspace, name: str) -> Baseline | None:
    """Find the run of the baseline of the model called `name`; None if there is none."""
    if not workspace.metadata.exists():
        return None
    baseline = Lineage.at(workspace.connection()).history(name).baseline
    if baseline is None or not baseline.run:
        return None
    try:
        record = json.loads((workspace.run_dir(baseline.run) / RECORD).read_bytes())
        settings = renamed.recorded(record["settings"])
        values = {key: settings[key]["value"] for key in _taken(settings)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if "train.recipe" not in values:
        return None
    return Baseline(baseline.run, {k: v for k, v in values.items() if v is not None})


def _taken(settings: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    recipe = settings["train.recipe"]["value"]
    known = keys(recipe) if recipe in recipes.names() else ()
    for key, setting in settings.items():
        is_given = str(setting["origin"]).startswith(_GIVEN)
        # Whether to begin from a model is for a retraining's own preset.
        is_model = key.startswith(_MODEL) and key != _WARM_START
        if key in known and not key.startswith(_NOT_TAKEN) and (is_given or is_model):
            yield key


def _is_tighter(key: str, value: object, given: object) -> bool:
    """Return whether a limit of the gate is tighter than the given one; False if not numbers."""
    if not isinstance(value, int | float):
        return False
    if not isinstance(given, int | float):
        return given is None
    name = key.removeprefix(_GATE)
    return (name.startswith("min_") and value > given) or (
        name.startswith("max_") and value < given
    )


def differences(baseline: Baseline, given: Loaded, used: Loaded) -> list[str]:
    """Describe in a line each setting that differs from both the baseline's and the given one."""
    before = dict(items(given.config, given.origins))
    lines = []
    if not baseline.shares_recipe(given):
        lines.append(
            f"train.recipe = {before['train.recipe']} is given and the baseline's is "
            f"{baseline.recipe}, so that neither its settings nor its weights are taken"
        )
    if given.origins["train.recipe"].startswith(AUTO) and before["train.recipe"] != baseline.recipe:
        lines.append(
            f"train.recipe is {baseline.recipe}, the baseline's; {AUTO} would choose "
            f"{before['train.recipe']} now"
        )
        before["train.recipe"] = baseline.recipe
    for key, value in items(used.config, used.origins):
        if key.startswith(_MODEL) and not baseline.shares_recipe(given):
            continue  # all of them
        theirs = baseline.values.get(key)
        if used.origins[key] == baseline.origin:
            if key in before and before[key] != value:
                lines.append(
                    f"{key} = {_shown(value)}, as the baseline had it; {_shown(before[key])} by "
                    f"{given.origins[key]} alone"
                )
        elif key in baseline.values and theirs != value:
            lines.append(
                f"{key} = {_shown(value)} by {used.origins[key]}; the baseline had {_shown(theirs)}"
            )
    return lines


def _shown(value: object) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)
