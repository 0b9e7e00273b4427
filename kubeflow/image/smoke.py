"""Check that an environment can run every node: python3 -m kubeflow.image.smoke [cpu | gpu].

Compiles the default DAG and imports the modules of its executors, with their native libraries. With
the name of a layer, the environment must have exactly the packages of the lock files, as a late
import of a missing package would fail in a run only.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib import metadata

from kubeflow.image import requirements


def main() -> None:
    """Print the imported modules. Raises ImportError for a missing one."""
    for layer in sys.argv[1:]:
        locked = requirements.of_layer("base") | requirements.of_layer(layer)
        if found := differences(requirements.versions(locked), installed()):
            raise SystemExit("the packages are not those of the lock: " + "; ".join(found))
    from kubeflow.image import nodes  # after the check, which names what is missing

    modules = {"trainer_module.run_fn", "kubeflow.patient_metadata", "kfp.client", *nodes.modules()}
    for module in sorted(modules):
        importlib.import_module(module)
        print(module)


def installed() -> dict[str, str]:
    """Return the version of each installed package except this project, by normalized name."""
    found: dict[str, str] = {}
    for each in metadata.distributions():
        # The first on the path counts: setuptools adds copies of other packages at its end.
        found.setdefault(requirements.canonical(each.name), each.version)
    found.pop("perennial", None)
    return found


def differences(locked: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """List packages that are missing, of another version or not in the lock, with both versions."""
    return [
        f"{name} is {found.get(name, 'missing')}, locked is {locked.get(name, 'none')}"
        for name in sorted({*locked, *found})
        if locked.get(name) != found.get(name)
    ]


if __name__ == "__main__":
    main()
