"""The console command, which sees to it that the project's packages are its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

PACKAGES = ("components", "kubeflow", "pipeline", "trainer_module")
_USAGE = 2  # as pipeline.errors.ConfigError, which may not be ours to import


def main() -> None:
    """Run `perennial`, or end with exit code 2 where another package would be taken for ours."""
    if problem := shadowed():
        print(f"perennial: error: {problem}", file=sys.stderr)
        sys.exit(_USAGE)
    from pipeline import cli

    cli.main()


def shadowed() -> str:
    """What is imported in place of a package of the project, and what to do; "" for nothing."""
    here = Path(__file__).resolve().parent
    for name in PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError) as error:
            return f"{name} cannot be imported: {error}"
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        found = next((Path(place).resolve() for place in places if place), None)
        if found is None or found not in (here / name / "__init__.py", here / name):
            path = os.environ.get("PYTHONPATH", "")
            return (
                f"{found or 'nothing'} is found in place of perennial's own package {name} in "
                f"{here}; take its folder out of PYTHONPATH={path!r}, or give it another name"
            )
    return ""
