"""In a pod: push versions 1 and 2, which work, and 3, which no server can load, to /models."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from pathlib import Path

from components.model_registry import Registry


def main() -> None:
    """Push into an empty folder."""
    tiny_export = importlib.import_module("tiny_export")  # mounted beside this file
    registry = Registry("/models/perennial")
    shutil.rmtree("/models/perennial", ignore_errors=True)
    for number in (1, 2, 3):
        model = Path(tempfile.mkdtemp())
        if number == 3:
            (model / "saved_model.pb").write_bytes(b"junk")
        else:
            tiny_export.export_colour_model(model, sharpness=float(number))
        version = registry.push(model, {"run": f"run-{number}"}, 10)
        print(f"pushed {version}", flush=True)


if __name__ == "__main__":
    main()
