"""Push to an object store: a new prefix is complete and verified before anything points at it.

There is no rename and no lock. A version counts once its manifest is there, which is written last;
what a killed push left is never counted and goes with the next push. Servers must be told versions
by a model configuration (`perennial promote`), because one that follows the newest number would see
objects as they arrive; and one pipeline only may push below a prefix.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from components import progress, storage
from components.errors import PushRefusedError
from components.model_registry import signing, versions


def push(
    model: Path,
    base: str,
    record: Mapping[str, Any],
    keep: int,
    served: Callable[[], Collection[int]],
    keys: signing.Keys | None = None,
) -> int:
    """As `filesystem.push`, for a URI that TensorFlow's file systems know.

    Raises:
        PushRefusedError: there are other things below `base`, or what was written is not what is
            read back; then the new prefix is removed again.
        tf.errors.OpError: from the store; likewise.
    """
    numbers = versions.find(base)
    pinned = served()
    files = versions.local_digests(model)
    complete = {n: m for n in numbers if (m := versions.read_manifest(base, n)) is not None}
    version = max(complete, default=0)
    same = version and complete[version].files == files
    if not same or (keys and not keys.have_signed(base, version)):
        version = max(numbers, default=0) + 1
        manifest = versions.Manifest(files, {"version": version, **record})
        _publish(model, storage.join(base, str(version)), manifest, keys)
        complete[version] = manifest
    halves = [number for number in numbers if number not in complete]
    for number in [*halves, *versions.superseded(complete, keep, pinned)]:
        if number not in pinned:
            _remove(storage.join(base, str(number)))
    return version


def _remove(prefix: str) -> None:
    """Remove what is superseded, or half; where that fails, a later push does it."""
    import tensorflow as tf

    try:
        storage.gfile().rmtree(prefix)
    except tf.errors.OpError as error:
        progress.report("note", text=f"{prefix} is superseded and cannot be removed: {error}")


def _publish(
    model: Path, prefix: str, manifest: versions.Manifest, keys: signing.Keys | None
) -> None:
    gfile = storage.gfile()
    signature = _signature(model, manifest, keys) if keys else ""
    try:
        for name in sorted(manifest.files, key=lambda name: (name == "saved_model.pb", name)):
            target = storage.join(prefix, name)
            gfile.makedirs(storage.parent(target))
            with (model / name).open("rb") as source, gfile.GFile(target, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        for name, digest in manifest.files.items():
            if versions.digest_of(storage.join(prefix, name)) != digest:
                raise PushRefusedError(
                    f"{storage.join(prefix, name)} does not read back as it was written; run again"
                )
        if signature:
            storage.write_text(storage.join(prefix, signing.SIGNATURE), signature)
        storage.write_text(storage.join(prefix, versions.MANIFEST), manifest.to_json())
    except BaseException:
        if gfile.exists(prefix):
            gfile.rmtree(prefix)
        raise


def _signature(model: Path, manifest: versions.Manifest, keys: signing.Keys) -> str:
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "version"
        shutil.copytree(model, whole)
        (whole / versions.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        keys.sign(whole)
        return (whole / signing.SIGNATURE).read_text(encoding="utf-8")
