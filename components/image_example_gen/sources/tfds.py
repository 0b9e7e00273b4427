"""Image-classification sets of TensorFlow Datasets by name: `tfds:NAME[/CONFIG][:VERSION]`.

A prepared copy in $TFDS_DATA_DIR or ~/tensorflow_datasets is read without the package. Otherwise
the package downloads and prepares the data set.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

from components.errors import BadDataError
from components.image_example_gen.options import Options
from components.image_example_gen.sources import tfrecord
from components.image_example_gen.sources.base import Listing

_NAME = re.compile(r"(?P<name>\w+(/[\w.-]+)?)(:(?P<version>\d+\.\d+\.\d+))?")


def listing(location: str, options: Options) -> Listing:
    """List the data set. Raises BadDataError if it is not available."""
    match = _NAME.fullmatch(location)
    if match is None:
        raise BadDataError(f"tfds:{location}: must be tfds:NAME, such as tfds:tf_flowers")
    data_dir = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = _prepared(data_dir / match["name"], match["version"])
    return tfrecord.listing(str(folder or _prepare(location, data_dir)), options)


def _prepared(folder: Path, version: str | None) -> Path | None:
    """Find the folder of the newest version."""
    found = [path.parent for path in folder.glob(f"{version or '*.*.*'}/dataset_info.json")]
    numbered = [path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return max(numbered, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def _prepare(name: str, data_dir: Path) -> Path:
    try:
        tfds = importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise BadDataError(
            f"tfds:{name}: not in {data_dir}, and preparing it needs a package: "
            "pip install tensorflow-datasets"
        ) from error
    try:
        builder = tfds.builder(name, data_dir=str(data_dir))
        builder.download_and_prepare()
    except Exception as error:  # of TFDS, and of its downloads
        # For an unknown name, the other lines list a thousand known ones.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadDataError(f"tfds:{name}: cannot be prepared: {reason}") from error
    return Path(builder.data_path)
