"""Copies a blessed model beside its destination, makes it durable, and renames it into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.pusher import executor as pusher
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

MANIFEST = "perennial-manifest.json"
STAGING_PREFIX = ".staging-"


class Executor(pusher.Executor):
    """TFX's executor with a push that a model server watching the directory never sees half done.

    TFX copies into the final version directory, whose name is the time in seconds, and where that
    name exists it skips the copy and still reports success.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Push if blessed, and record destination and version on the `pushed_model` artifact."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.PUSHED_MODEL_KEY]
        )
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(
            exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination
        )
        base = Path(destination.filesystem.base_directory)
        version = push(Path(self.GetModelPath(input_dict)), base)
        self._MarkPushed(
            pushed, pushed_destination=str(base / str(version)), pushed_version=str(version)
        )


def push(model: Path, base: Path) -> int:
    """Make `model` the highest version below `base`, once.

    Returns the version: the existing one where the highest already holds the same files. A killed
    push leaves at most a hidden staging directory, which the next push removes.
    """
    base.mkdir(parents=True, exist_ok=True)
    for leftover in base.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(leftover)
    manifest = {
        str(file.relative_to(model)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(model.rglob("*"))
        if file.is_file()
    }
    highest = max(versions(base), default=0)
    if highest and _read_manifest(base / str(highest)) == manifest:
        return highest
    staging = base / f"{STAGING_PREFIX}{uuid.uuid4().hex}"
    try:
        shutil.copytree(model, staging)
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=2))
        _sync(staging)
        staging.rename(base / str(highest + 1))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _sync_one(base)
    return highest + 1


def versions(base: Path) -> list[int]:
    """The version numbers below `base`, unsorted: every all-digit entry, as TF Serving reads it."""
    if not base.is_dir():
        return []
    return [int(entry.name) for entry in base.iterdir() if entry.name.isdecimal()]


def _read_manifest(version: Path) -> dict[str, str] | None:
    try:
        manifest: dict[str, str] = json.loads((version / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return manifest


def _sync(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
