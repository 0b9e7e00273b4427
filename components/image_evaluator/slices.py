"""The values of an image's properties that it is counted under."""

from __future__ import annotations

import posixpath

# Shortest side in pixels, width / height, and mean luminance: lower ends, each with a name.
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
    """Name the class of an image's shorter side."""
    return _under(min(height, width), _SIZES)


def aspect(ratio: float) -> str:
    """Name the class of width / height: square is anything from 4:5 to below 5:4."""
    return _under(ratio, _ASPECTS)


def brightness(mean: float) -> str:
    """Name the class of the mean luminance, 0 to 255."""
    return _under(mean, _BRIGHTNESSES)


def source(filename: str, label: str) -> str:
    """Return the uppermost folder that is not the class's, such as a camera's; "." for none.

    Where one file holds many images, as TFRecords do (`name#number`), it is that file.
    """
    file, mark, _ = filename.rpartition("#")
    if mark:
        return file
    folders = posixpath.dirname(filename.partition("://")[2] or filename).split("/")
    return next((folder for folder in folders if folder not in ("", label)), ".")


def _under(value: float, ends: tuple[tuple[float, str], ...]) -> str:
    return next(name for low, name in reversed(ends) if value >= low)
