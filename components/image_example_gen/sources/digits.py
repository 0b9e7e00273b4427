"""The handwritten digits in scikit-learn.

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
import numpy.typing as npt
from PIL import Image

from components import storage
from components.errors import BadDataError
from components.image_example_gen.conversion import to_bmp
from components.image_example_gen.options import Options
from components.image_example_gen.sources.base import Content, Item, Listing, Unit

IMAGES = 1797


def listing(location: str, options: Options) -> Listing:  # noqa: ARG001 - the common interface
    """List the digits. Raises BadDataError if scikit-learn does not have them."""
    path = str(_file())
    return Listing(
        units=[_Digits(path)],
        contents=lambda: [Content(f"{location} as BMP", path)],
        inputs=IMAGES,
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


def write_folder(target: Path) -> None:
    """Write `target`/<digit>/<index>.png, to view, and to send to a model server.

    The folder is renamed when it is complete; an existing one is left unchanged.
    """
    if target.exists():
        return
    with storage.writing_folder(target, durable=False) as staging:
        for index, (pixels, label) in enumerate(zip(*_read(_file()), strict=True)):
            folder = staging / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{index:04d}.png")


def _read(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read scans, uint8 [N, 8, 8] from 0 (paper) to 255 (ink), and their digits, int64 [N]."""
    # A row of the file has 64 gray levels, 0 to 16, and the digit.
    rows = np.loadtxt(path, delimiter=",", dtype=np.int64)
    scans = (rows[:, :64].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return scans, rows[:, 64]


@dataclasses.dataclass(frozen=True)
class _Digits(Unit):
    path: str

    def items(self) -> Iterator[Item]:
        for index, (pixels, label) in enumerate(zip(*_read(Path(self.path)), strict=True)):
            rgb = np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
            yield Item(
                name=f"{label}/{index:04d}.png",  # as in `write_folder`
                label=str(label),
                load=functools.partial(to_bmp, rgb),
                size=rgb.nbytes,
            )
