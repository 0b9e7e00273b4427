"""Images that look the same: resized, re-encoded or slightly retouched copies.

A difference hash has, for each two neighbours of the 9 x 9 thumbnail, which one is brighter. Pairs
with hashes that differ in few bits are candidates, and are the same where their thumbnails are: a
hash alone takes all plain images for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components.image_example_gen.images import THUMB

MAX_BITS = 7  # of 128: pairs this near share at least one of the eight 16-bit words
MAX_DIFFERENCE = 6.0  # mean difference of the thumbnails' values, 0 to 255
# Neighbours that an image is compared with within a word: bounds the work where all are alike.
NEIGHBOURS = 32
_COMPARED = 20_000  # thumbnails, or pairs of them, that are in memory at a time

Thumbs = npt.NDArray[np.uint8]


class Pair(NamedTuple):
    """Numbers of two images that look the same, first < second."""

    first: int
    second: int


def find(thumbs: Thumbs, rows: npt.NDArray[np.int64] | None = None) -> list[Pair]:
    """Find pairs among thumbnails, sorted.

    Args:
      thumbs: uint8 [N, 3 * THUMB**2], THUMB x THUMB RGB pixels each; may be on disk, and then never
        are many of them in memory, but 30 bytes an image.
      rows: sorted numbers of those that are compared, None for all.
    """
    rows = np.arange(len(thumbs)) if rows is None else rows
    if len(rows) < 2:
        return []
    words, brightness = _hashes(thumbs, rows)
    # A pair as one number, first * count + second, so that telling them apart is fast.
    found = np.empty(0, np.int64)
    for word in words.T:
        near = [_near(words, *pair) for pair in _neighbours(word, brightness)]
        # Most pairs share several words.
        fresh = _new(np.concatenate([found[:0], *near]), found)
        found = np.sort(np.concatenate([found, _alike(thumbs, rows, fresh)]))
    first, second = np.divmod(found, len(rows))
    return list(map(Pair, rows[first].tolist(), rows[second].tolist()))


def groups(pairs: Sequence[Pair]) -> list[list[int]]:
    """Numbers connected by pairs, each group and all of them sorted."""
    root: dict[int, int] = {}

    def find_root(position: int) -> int:
        while (parent := root.setdefault(position, position)) != position:
            root[position] = root.get(parent, parent)
            position = parent
        return position

    for first, second in pairs:
        low, high = sorted((find_root(first), find_root(second)))
        root[high] = low
    members: dict[int, list[int]] = {}
    for position in sorted(root):
        members.setdefault(find_root(position), []).append(position)
    return sorted(members.values())


def _hashes(
    thumbs: Thumbs, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Return [N, 8] words of 16 bits, and the sum of each image's values."""
    words = np.empty((len(rows), 8), np.uint16)
    brightness = np.empty(len(rows), np.uint16)
    for start in range(0, len(rows), _COMPARED):
        part = slice(start, start + _COMPARED)
        gray = _read(thumbs, rows[part]).astype(np.uint16).sum(axis=3)
        right = gray[:, :-1, 1:] > gray[:, :-1, :-1]
        down = gray[:, 1:, :-1] > gray[:, :-1, :-1]
        bits = np.concatenate([right, down], axis=1).reshape(len(gray), -1)
        words[part] = np.packbits(bits, axis=1).view(np.uint16)
        brightness[part] = gray.sum(axis=(1, 2))
    return words, brightness


def _read(thumbs: Thumbs, rows: npt.NDArray[np.int64]) -> Thumbs:
    """Read [N, THUMB, THUMB, 3]; a file is mapped only while it is read."""
    if isinstance(thumbs, np.memmap) and thumbs.filename:
        thumbs = np.memmap(thumbs.filename, np.uint8, "r", shape=thumbs.shape)
    return np.asarray(thumbs[rows]).reshape(-1, THUMB, THUMB, 3)


def _neighbours(
    word: npt.NDArray[np.uint16], brightness: npt.NDArray[np.uint16]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    order = np.lexsort((brightness, word))
    word = word[order]
    for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
        is_any = False
        for start in range(0, len(order) - step, _COMPARED):
            end = min(start + _COMPARED, len(order) - step)
            same = word[start + step : end + step] == word[start:end]
            if same.any():
                is_any = True
                yield order[start:end][same], order[start + step : end + step][same]
        if not is_any:
            return


def _near(
    words: npt.NDArray[np.uint16], first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Select the pairs whose hashes differ in few bits, as numbers."""
    near = np.bitwise_count(words[first] ^ words[second]).sum(axis=1) <= MAX_BITS
    first, second = first[near], second[near]
    return np.minimum(first, second) * len(words) + np.maximum(first, second)


def _new(numbers: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each number once that is not known, sorted as `known` is. NumPy's own ways hash, slowly."""
    numbers = np.sort(numbers)
    numbers = numbers[np.diff(numbers, prepend=-1) > 0]
    if not len(known):
        return numbers
    nearest = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    return numbers[known[nearest] != numbers]


def _alike(
    thumbs: Thumbs, rows: npt.NDArray[np.int64], pairs: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Select the pairs whose thumbnails are the same."""
    same = np.empty(len(pairs), np.bool_)
    for start in range(0, len(pairs), _COMPARED):
        first, second = np.divmod(pairs[start : start + _COMPARED], len(rows))
        before = _read(thumbs, rows[first]).astype(np.int16)
        difference = np.abs(before - _read(thumbs, rows[second])).mean(axis=(1, 2, 3))
        same[start : start + _COMPARED] = difference <= MAX_DIFFERENCE
    return pairs[same]
