"""Names and values of settings in earlier versions, which are still read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components import progress
from pipeline.config import messages
from pipeline.config.toml import Tree
from pipeline.errors import ConfigError

# The present key of a setting by its earlier one. An entry stays for as long as files and records
# with the earlier one may be around: for good, it costs nothing.
KEYS: Mapping[str, str] = {
    "transform.aspect": "transform.resize_mode",
    "transform.resize": "transform.interpolation",
    "validation.max_text_skew": "validation.max_categorical_skew",
    "validation.max_text_drift": "validation.max_categorical_drift",
    "validation.max_number_skew": "validation.max_numeric_skew",
    "validation.max_number_drift": "validation.max_numeric_drift",
}
# Present values by the earlier ones, by the present key.
VALUES: Mapping[str, Mapping[str, str]] = {"transform.resize_mode": {"squeeze": "stretch"}}
_NAMES = ".".join(("kubeflow", "parameters"))  # a setting whose values are keys; no module


def current(tree: Tree, origin: str, *, note: bool) -> Tree:
    """Return the settings of a layer by their present names.

    With `note`, each earlier name is noted with the present one. Raises ConfigError for a setting
    that is given by both names.
    """
    for old, new in KEYS.items():
        if (value := _get(tree, old)) is None:
            continue
        if _get(tree, new) is not None:
            raise ConfigError(
                f"{messages.where(origin)}: {old} is the earlier name of {new}, which is set too; "
                f"remove {old}"
            )
        tree = _with(_with(tree, old, None), new, value)
        if note:
            text = f"{messages.where(origin)}: {old} is called {new} now; change the name"
            progress.report("note", text=text)
    for key, values in VALUES.items():
        old = _get(tree, key)
        if isinstance(old, str) and old in values:
            tree = _with(tree, key, values[old])
            if note:
                text = f"{messages.where(origin)}: {key} = {old!r} is called {values[old]!r} now"
                progress.report("note", text=text)
    if isinstance(names := _get(tree, _NAMES), list | tuple):
        tree = _with(tree, _NAMES, [KEYS.get(each, each) for each in names])
    return tree


def recorded(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of a run's record, each with its value and origin, by present names."""
    found = {KEYS.get(key, key): setting for key, setting in settings.items()}
    for key, values in VALUES.items():
        setting = found.get(key)
        if (
            isinstance(setting, Mapping)
            and isinstance(value := setting.get("value"), str)
            and value in values
        ):
            found[key] = {**setting, "value": values[value]}
    return found


def _get(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _with(tree: Tree, key: str, value: object) -> dict[str, Any]:
    """Return a copy in which `key` has a value, or is not there where it is None."""
    name, _, rest = key.partition(".")
    if rest:
        return {**tree, name: _with(tree.get(name) or {}, rest, value)}
    return {
        **{k: v for k, v in tree.items() if k != name},
        **({} if value is None else {name: value}),
    }
