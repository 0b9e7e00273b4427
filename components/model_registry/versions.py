"""What a folder of pushed versions holds, on a file system or in an object store.

<base>/<version>/saved_model.pb, variables/, ...   the model
<base>/<version>/perennial-manifest.json           written last: see `Manifest`
<base>/<version>/model.sig                         of all this, where it is signed
<base>/.*                                          ours for the moment, or the file system's
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from components import storage
from components.errors import PushRefusedError

MANIFEST = "perennial-manifest.json"
SERVABLE = "saved_model.pb"
_HIGHEST = 2**63 - 1  # TensorFlow Serving's version numbers are int64
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What was pushed as a version.

    files: SHA-256 in hex by path within the version. record: JSON-able facts about the push; the
    Pusher writes `version`, `run`, `pushed` (UTC time), `metrics` by name and `validated` (by which
    server).
    """

    files: Mapping[str, str]
    record: Mapping[str, Any]

    def to_json(self) -> str:
        """The content of the manifest file."""
        return json.dumps({"record": dict(self.record), "files": dict(self.files)}, indent=2) + "\n"


def read_manifest(base: str, version: int) -> Manifest | None:
    """The manifest of a version; None where there is none that can be read."""
    try:
        content = json.loads(storage.read_text(storage.join(base, str(version), MANIFEST)) or "")
        return Manifest(dict(content["files"]), dict(content["record"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def find(base: str) -> list[int]:
    """The version numbers below `base`, lowest first.

    Raises:
        PushRefusedError: it holds anything that is no version of a model, and so it is, or is also,
            used for something else.
    """
    numbers = []
    for name in _names(base):
        if name.startswith(".") or name == "lost+found":
            continue
        if not (name.isascii() and name.isdecimal() and name == str(int(name))):
            raise PushRefusedError(_foreign(base, name, "is no version number"))
        if not 0 < int(name) <= _HIGHEST:
            raise PushRefusedError(_foreign(base, name, "is no version number that can be served"))
        if not storage.is_uri(base) and not (Path(base) / name / SERVABLE).is_file():
            if _is_removed(Path(base) / name):
                continue
            raise PushRefusedError(_foreign(base, name, f"has no {SERVABLE} in it"))
        numbers.append(int(name))
    return sorted(numbers)


def _is_removed(version: Path) -> bool:
    """Whether a version that was listed is gone, or empty as by a removal that was cut off."""
    try:
        return not any(version.iterdir())
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


def _foreign(base: str, name: str, reason: str) -> str:
    return (
        f"{base} is not only a folder of model versions: {name!r} {reason}; move it away, or "
        "choose another push.directory"
    )


def _names(base: str) -> list[str]:
    if not storage.is_uri(base):
        try:
            return [entry.name for entry in Path(base).iterdir()]
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise PushRefusedError(f"{base} is a file; choose another push.directory") from None
    if not storage.gfile().exists(base):
        return []
    return [name.rstrip("/") for name in storage.gfile().listdir(base)]


def local_digests(folder: Path) -> dict[str, str]:
    """SHA-256 in hex of every file below a local folder, by path within it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): _digest(file.open, "rb") for file in files}


def damaged_files(base: str, version: int, manifest: Manifest) -> list[str]:
    """The files of a version that are missing, or are not what was pushed."""
    return [
        name
        for name, digest in manifest.files.items()
        if digest_of(storage.join(base, str(version), name)) != digest
    ]


def digest_of(location: str) -> str:
    """SHA-256 in hex of a file or object; empty where there is none."""
    try:
        if not storage.is_uri(location):
            return _digest(Path(location).open, "rb")
        if not storage.gfile().exists(location):
            return ""
        return _digest(storage.gfile().GFile, location, "rb")
    except FileNotFoundError:
        return ""


def _digest(open_file: Callable[..., Any], *arguments: str) -> str:
    digest = hashlib.sha256()
    with open_file(*arguments) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def superseded(numbers: Iterable[int], keep: int, served: Iterable[int]) -> list[int]:
    """Versions to remove so that the `keep` newest remain, and whatever is served."""
    return sorted(set(sorted(set(numbers))[:-keep]) - set(served))
