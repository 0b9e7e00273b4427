"""The handwritten digits that scikit-learn ships.

1,797 scans of 8x8 pixels with 17 gray levels (UCI ML hand-written digits, test set), by
E. Alpaydin and C. Kaynak, CC BY 4.0.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.errors import BadDataError
from components.image_example_gen.options import Options
from components.image_example_gen.sources.base import Content, Item, Listing, Unit
from components.image_example_gen.sources.pixels import encode

IMAGES = 1797


def listing(location: str, options: Options) -> Listing:  # noqa: ARG001 - one of many
    """List the digits. Raises BadDataError where scikit-learn does not have them."""
    return Listing(
        units=[_Digits(str(_file()))], contents=[Content(f"{location} as BMP", str(_file()))]
    )


def _file() -> Path:
    # Importing scikit-learn takes longer than reading its file.
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return path
    raise BadDataError(
        "digits: not found in scikit-learn; install it again: pip install scikit-learn"
    )


@dataclasses.dataclass(frozen=True)
class _Digits(Unit):
    """Rows of 64 gray levels, 0 (paper) to 16 (ink), and the digit."""

    path: str

    @property
    def inputs(self) -> int:
        return IMAGES

    def items(self) -> Iterator[Item]:
        rows = np.loadtxt(self.path, delimiter=",", dtype=np.int64)
        gray = (rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
        for index, (pixels, label) in enumerate(zip(gray, rows[:, 64], strict=True)):
            rgb = np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
            yield Item(
                name=f"{label}/{index:04d}.bmp",
                label=str(label),
                load=functools.partial(encode, rgb),
                size=rgb.nbytes,
            )
