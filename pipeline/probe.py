"""A look at a data set before anything is run: how large its images are."""

from __future__ import annotations

import statistics
from pathlib import Path

from components.errors import BadDataError
from components.image_example_gen.folder import list_images

SAMPLE = 100
BUILT_IN = {"digits": (8.0, 8.0)}


def usual_size(source: str) -> tuple[float, float] | None:
    """Median height and width in pixels of `SAMPLE` images spread over the data set.

    `source` is the name of a built-in data set or a folder; None where there is no readable image.
    Only the files' headers are read.
    """
    if source in BUILT_IN:
        return BUILT_IN[source]
    # Not needed by the commands that must answer at once.
    from PIL import Image, UnidentifiedImageError

    root = Path(source)
    try:
        files = list_images(root)
    except BadDataError:
        return None
    sizes = []
    for file in files[:: -(-len(files) // SAMPLE)]:
        try:
            with Image.open(root / file.name) as image:
                sizes.append(image.size)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue  # ingest will name the file
    if not sizes:
        return None
    widths, heights = zip(*sizes, strict=True)
    return statistics.median(heights), statistics.median(widths)
