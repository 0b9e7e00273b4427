"""A copy, for a model server, of the versions in an object store that the server cannot read.

`python3 -m components.model_registry.mirror s3://BUCKET/models/NAME /models/NAME` runs beside the
server in its pod. A version is copied, compared with its manifest, and appears in one rename; half
a push has no manifest yet. One that is gone from the store is removed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from components import progress, storage
from components.errors import ConfigError
from components.model_registry import versions

_EVERY_S = 30.0


def mirror(source: str, target: Path) -> list[str]:
    """Copy the versions that are new in `source`, and remove those that are gone from it.

    Returns a line for each change. Raises OSError and ConfigError; what is there then is whole.
    """
    target.mkdir(parents=True, exist_ok=True)
    changes = []
    with storage.locked(target):
        versions.remove_leftovers(target)
        there = set(versions.find(source))
        for version in sorted(there):
            manifest = versions.read_manifest(source, version)
            if manifest is not None and manifest != versions.read_manifest(str(target), version):
                _copy(source, version, manifest, target)
                changes.append(f"version {version} is copied from {source}")
        for version in sorted(set(versions.find(str(target))) - there):
            versions.remove_folder(target / str(version))
            changes.append(f"version {version} is removed: it is gone from {source}")
    return changes


def _copy(source: str, version: int, manifest: versions.Manifest, target: Path) -> None:
    prefix, place = storage.join(source, str(version)), target / str(version)
    with storage.writing_folder(place) as whole:
        storage.copy_tree(prefix, str(whole))
        for name, digest in manifest.files.items():
            if versions.digest_of(str(whole / name)) != digest:
                raise ConfigError(f"{storage.join(prefix, name)} is not what was pushed")
        if place.exists():
            versions.remove_folder(place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Mirror again and again; print what goes wrong, and try again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="URI of the numbered versions")
    parser.add_argument("target", type=Path, help="folder of the model server")
    parser.add_argument("--every", type=float, default=_EVERY_S, help="seconds between two looks")
    parser.add_argument("--once", action="store_true", help="look once; exit code 1 where it fails")
    given = parser.parse_args(arguments)
    while True:
        try:
            for line in mirror(given.source.rstrip("/"), given.target):
                _tell("note", line)
        except (OSError, ConfigError) as error:
            _tell("error", str(error))
            if given.once:
                return 1
        if given.once:
            return 0
        time.sleep(given.every)


def _tell(event: str, text: str) -> None:
    print(progress.as_line(event, {"text": text}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
