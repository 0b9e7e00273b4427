"""Number and size of the images of a data set, before anything is run."""

from __future__ import annotations

import io
import itertools
import statistics
from typing import NamedTuple

from PIL import Image

from components.errors import BadDataError
from components.image_example_gen import source_name
from components.image_example_gen.options import Options

SAMPLE = 100


class Survey(NamedTuple):
    """Number of `images`, None where it is not known, and median `height` and `width` in pixels."""

    images: int | None
    height: float
    width: float


DIGITS = Survey(1797, 8.0, 8.0)


def survey(source: str) -> Survey | None:
    """Measure about `SAMPLE` images from all over the data set.

    source: as data.source. Returns None for data that is not on this machine, is split into spans,
    or has no readable image.
    """
    name = source_name.parse(source)
    if name.kind == source_name.DIGITS:
        return DIGITS
    if not name.is_local or name.has_spans:
        return None
    # It imports NumPy, and most commands read no images.
    from components.image_example_gen.sources import list_source

    try:
        # The run finds out whether folders are splits.
        listing = list_source(name, Options(layout="classes"))
    except BadDataError:
        return None
    units = listing.units
    chosen = units[:: -(-len(units) // SAMPLE) or 1]
    sizes = []
    for unit in chosen:
        for item in itertools.islice(unit.items(), -(-SAMPLE // len(chosen))):
            try:
                with Image.open(io.BytesIO(item.load())) as image:
                    sizes.append(image.size)
            except Exception:  # Pillow's many; ingest names the file
                continue
    if not sizes:
        return None
    widths, heights = zip(*sizes, strict=True)
    return Survey(listing.inputs, statistics.median(heights), statistics.median(widths))
