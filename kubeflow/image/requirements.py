"""Print the locked requirements of a layer of the image, with hashes.

python3 kubeflow/image/requirements.py build | base | cpu | gpu

The layers differ in TensorFlow only: its package for GPUs is larger and needs NVIDIA's libraries.
Tests, linters and build tools are in no layer.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

_IMAGE = Path(__file__).resolve().parent
_ROOT = _IMAGE.parent.parent
# TensorFlow comes with the layer for CPU or GPU. It needs libclang only to build extensions.
_NOT_IN_BASE = ("tensorflow", "libclang")
_NAME = r"^[A-Za-z0-9._-]+"
EXTRAS = ("signing",)  # part of every installation


def of_layer(layer: str) -> dict[str, str]:
    """Return the entries of the lock files in `layer`, by package."""
    locked = entries((_ROOT / "requirements.lock").read_text(encoding="utf-8"))
    match layer:
        case "build":  # builds the few source distributions
            return {name: locked[name] for name in ("setuptools",)}
        case "base":
            return {name: locked[name] for name in needed(locked) if name not in _NOT_IN_BASE}
        case "cpu":
            return entries((_IMAGE / "cpu.lock").read_text(encoding="utf-8"))
        case "gpu":
            of_gpu = entries((_IMAGE / "gpu.lock").read_text(encoding="utf-8"))
            nvidia = {name: of_gpu[name] for name in of_gpu if name.startswith("nvidia-")}
            return {"tensorflow": locked["tensorflow"], **nvidia}
    raise SystemExit(f"{layer!r} is not a layer; there are build, base, cpu and gpu")


def entries(lock: str) -> dict[str, str]:
    """Split a lock file into entries, by package."""
    found = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", lock, re.MULTILINE | re.DOTALL)
    return {entry.split("==")[0]: entry for entry in found}


def versions(entries_of: Mapping[str, str]) -> dict[str, str]:
    """Return the pinned version of each entry of a lock file."""
    return {name: re.split(r"==|[ ;]", entry)[1] for name, entry in entries_of.items()}


def canonical(name: str) -> str:
    """Normalize the name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(locked: dict[str, str], extras: Sequence[str] = EXTRAS) -> list[str]:
    """List the direct and indirect dependencies of the project, by uv's `# via` comments.

    extras: optional dependencies to include. Raises KeyError for an unknown one.
    """
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [each for extra in extras for each in project["optional-dependencies"][extra]]
    names = [re.match(_NAME, each) for each in [*project["dependencies"], *optional]]
    wanted = {canonical(name[0]) for name in names if name}
    parents = {
        name: set(re.findall(r"^ +#(?: via)? +([a-z0-9-]+)$", entry, re.MULTILINE))
        for name, entry in locked.items()
    }
    while more := {n for n in locked if n not in wanted and parents[n] & wanted}:
        wanted |= more
    return [name for name in locked if name in wanted]


if __name__ == "__main__":
    print("".join(of_layer(sys.argv[1]).values()), end="")
