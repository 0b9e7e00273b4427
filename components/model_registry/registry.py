"""The one way to push a version, to a file system or an object store. Needs no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components import storage
from components.model_registry import config_map, filesystem, object_store, pending, served, signing


def push(
    model: Path,
    base: str,
    record: dict[str, Any],
    keep: int,
    config: str,
    keys: signing.Keys | None = None,
) -> int:
    """Push by the way that fits `base`, a path or a URI; never remove what `config` names.

    See `filesystem.push` and `object_store.push`.
    """

    def pinned() -> set[int]:
        if not config_map.is_config_map(config):
            pending.recover_if_idle(config)
        return served.pinned(config, base)

    if storage.is_uri(base):
        return object_store.push(model, base, record, keep, pinned, keys)
    return filesystem.push(model, Path(base), record, keep, pinned, keys)
