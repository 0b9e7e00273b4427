"""Report of a retraining that cannot start because its settings are invalid.

Workspace, name and webhook are read from the command line or, failing that, from the file, however
invalid the rest is.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import config
from pipeline.errors import ConfigError
from pipeline.retraining import journal, notify
from pipeline.retraining.observe import DecisionInputs, stopped
from pipeline.settings import Config
from pipeline.settings.retraining import NotifyConfig
from pipeline.workspace import Workspace


def report(
    error: Exception,
    file: Path | None,
    flags: Mapping[str, object],
    settings: Sequence[str],
    log_format: str,
) -> None:
    """Add `error` to the journal of an existing workspace, and notify the webhook.

    Prints the reason if the journal cannot be written. Raises nothing.

    Args:
      error: what stopped the retraining.
      file: of --config, if one was given.
      flags: what named options set, by dotted key.
      settings: of --set.
      log_format: "rich", "plain" or "json".
    """
    given = dict(flags)
    for each in settings:
        with contextlib.suppress(ConfigError):
            given |= [config.parse_set(each)]
    if reason := _not_journalled(error, file, given):
        notify.print_line(log_format, "note", f"not in a journal: {reason}")
    name = _glance(file, given, "name")
    name = name if isinstance(name, str) else Config.model_fields["name"].get_default()
    if failure := notify.send(_webhook(file, given), "failed", name, journal.detail_of(error)):
        notify.print_line(log_format, "note", failure)


def _not_journalled(error: Exception, file: Path | None, given: Mapping[str, Any]) -> str | None:
    """Add the error to the journal; return the reason of a failure, or None."""
    try:
        root = config.glance(file, given, "workspace")
    except ConfigError:
        return f"{file} cannot be read and so no workspace is known; name one with --workspace"
    try:
        workspace = Workspace(Path(root).expanduser())
        if not workspace.root.is_dir():
            return f"there is no workspace {workspace.root} yet"
        stopped(
            DecisionInputs(None, str(workspace.root / journal.FILE)),
            datetime.datetime.now(datetime.UTC),
            error,
        )
    except (OSError, TypeError, ValueError) as failed:
        return f"workspace {root!s}: {getattr(failed, 'strerror', None) or failed}"
    return None


def _webhook(file: Path | None, given: Mapping[str, Any]) -> NotifyConfig:
    values = {name: _glance(file, given, f"notify.{name}") for name in NotifyConfig.model_fields}
    try:
        return NotifyConfig.model_validate(values)
    except ValidationError:
        return NotifyConfig()


def _glance(file: Path | None, given: Mapping[str, Any], key: str) -> Any:
    try:
        return config.glance(file, given, key)
    except ConfigError:
        return config.glance(None, given, key)
