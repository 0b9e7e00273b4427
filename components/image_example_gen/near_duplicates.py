"""Search for images that look the same: resized, re-encoded or slightly retouched copies.

Each bit of a difference hash is whether one of two neighbours in the 9 x 9 thumbnail is brighter.
Pairs whose hashes differ in few bits are candidates. Their thumbnails are compared too, as all
plain images have the same hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from components.image_example_gen.images import THUMB

MAX_BITS = 7  # of 128: pairs this near share at least one of the eight 16-bit words
MAX_DIFFERENCE = 6.0  # mean difference of the thumbnails' values, 0 to 255
# Most images with an equal word that an image is compared with; bounds the work if all are alike.
NEIGHBOURS = 32
_COMPARED = 20_000  # thumbnails, or pairs of them, in memory at a time

Thumbs = npt.NDArray[np.uint8]


class Pair(NamedTuple):
    """Ids of two images that look the same, first < second."""

    first: int
    second: int


def find(thumbs: Thumbs, rows: npt.NDArray[np.int64] | None = None) -> list[Pair]:
    """Find pairs of thumbnails that look the same, sorted.

    Args:
      thumbs: uint8 [N, 3 * THUMB**2], THUMB x THUMB RGB pixels each. If it is on disk, only a part
        of it and 30 bytes per image are in memory.
      rows: sorted numbers of the rows to compare, None for all.
    """
    rows = np.arange(len(thumbs)) if rows is None else rows
    if len(rows) < 2:
        return []
    words, brightness = _hashes(thumbs, rows)
    # A pair is one number, first * count + second, which is fast to compare.
    found = np.empty(0, np.int64)
    for word in words.T:
        near = [_near(words, *pair) for pair in _neighbours(word, brightness)]
        # Most pairs have several equal words.
        fresh = _new(np.concatenate([found[:0], *near]), found)
        found = np.sort(np.concatenate([found, _alike(thumbs, rows, fresh)]))
    first, second = np.divmod(found, len(rows))
    return list(map(Pair, rows[first].tolist(), rows[second].tolist()))


def groups(pairs: Sequence[Pair]) -> list[list[int]]:
    """Group ids that are connected by pairs; all sorted."""
    if not pairs:
        return []
    ids, edges = np.unique(np.array(pairs), return_inverse=True)
    first, second = edges.reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(pairs)), (first, second)), shape=(len(ids), len(ids)))
    members: dict[int, list[int]] = {}
    for number, group in zip(ids, csgraph.connected_components(graph)[1], strict=True):
        members.setdefault(int(group), []).append(int(number))
    return sorted(members.values())


def _hashes(
    thumbs: Thumbs, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Compute hashes, [N, 8] words of 16 bits, and the sum of each image's values, [N]."""
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
    """Read thumbnails, [N, THUMB, THUMB, 3]; maps a file anew each time, to release its pages."""
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
    """Return the pairs whose hashes differ in few bits, as numbers."""
    near = np.bitwise_count(words[first] ^ words[second]).sum(axis=1) <= MAX_BITS
    first, second = first[near], second[near]
    return np.minimum(first, second) * len(words) + np.maximum(first, second)


def _new(numbers: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the distinct numbers that are not in `known`, sorted; faster than `np.setdiff1d`."""
    numbers = np.sort(numbers)
    numbers = numbers[np.diff(numbers, prepend=-1) > 0]
    if not len(known):
        return numbers
    nearest = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    return numbers[known[nearest] != numbers]


def _alike(
    thumbs: Thumbs, rows: npt.NDArray[np.int64], pairs: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return the pairs whose thumbnails look the same."""
    same = np.empty(len(pairs), np.bool_)
    for start in range(0, len(pairs), _COMPARED):
        first, second = np.divmod(pairs[start : start + _COMPARED], len(rows))
        before = _read(thumbs, rows[first]).astype(np.int16)
        difference = np.abs(before - _read(thumbs, rows[second])).mean(axis=(1, 2, 3))
        same[start : start + _COMPARED] = difference <= MAX_DIFFERENCE
    return pairs[same]
