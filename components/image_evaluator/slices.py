"""The slice of an image by each of its properties."""

from __future__ import annotations

import posixpath

# Lower ends and names of ranges: shorter side in pixels, width / height, mean luminance.
_SIZES = (
    (0, "under 64 px"),
    (64, "64-127 px"),
    (128, "128-255 px"),
    (256, "256-511 px"),
    (512, "512-1023 px"),
    (1024, "from 1024 px"),
)
_ASPECTS = ((0, "portrait"), (0.8, "square"), (1.25, "landscape"))
_BRIGHTNESSES = ((0, "dark"), (85, "medium"), (170, "bright"))


def size(height: int, width: int) -> str:
    """Return the range of the shorter side, in pixels."""
    return _under(min(height, width), _SIZES)


def aspect(ratio: float) -> str:
    """Return the range of width / height; square is from 4:5 to below 5:4."""
    return _under(ratio, _ASPECTS)


def brightness(mean: float) -> str:
    """Return the range of the mean luminance, 0 to 255."""
    return _under(mean, _BRIGHTNESSES)


def source(filename: str, label: str) -> str:
    """Return the first folder in the path that is not the class, such as a camera; "." for none.

    For a record in a file of many images (`name#number`) it is the file.
    """
    file, mark, _ = filename.rpartition("#")
    if mark:
        return file
    folders = posixpath.dirname(filename.partition("://")[2] or filename).split("/")
    return next((folder for folder in folders if folder not in ("", label)), ".")


def _under(value: float, ends: tuple[tuple[float, str], ...]) -> str:
    return next(name for low, name in reversed(ends) if value >= low)
