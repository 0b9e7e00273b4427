"""The orientation that Python reads from a JPEG is the one that the graph applies."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
import tensorflow as tf

from components import exif
from components.exif import jpeg_orientation
from tests.kit.orientations import (
    APP0,
    DHT,
    DQT,
    IN_JPEG,
    SOF,
    SOS,
    exif_segment,
    jpeg_with,
    segment,
    tiff_header,
)
from tests.kit.pixel import GRAPH

PLACES = (APP0, DQT, SOF, DHT, SOS)


def by_the_graph(data: bytes) -> int | None:
    """Return None for data that the graph refuses."""
    with contextlib.suppress(tf.errors.OpError):
        return int(GRAPH(data).orientation)
    return None


@pytest.mark.parametrize("place", IN_JPEG)
def test_every_orientation_in_every_place(place: str) -> None:
    for number in range(10):
        data = IN_JPEG[place](number)
        expected = number if 1 <= number <= 8 else 1
        assert jpeg_orientation(data) == by_the_graph(data) == expected


def test_the_number_of_segments_is_bounded_alike() -> None:
    seen = set()
    for many in range(exif.MAX_SEGMENTS - 12, exif.MAX_SEGMENTS + 2):
        data = jpeg_with(segment(0xFE, b"") * many + exif_segment(6), SOS)
        assert jpeg_orientation(data) == by_the_graph(data)
        seen.add(jpeg_orientation(data))
    assert seen == {6, None}
    without = jpeg_with(segment(0xFE, b"") * 2 * exif.MAX_SEGMENTS, SOS)
    assert jpeg_orientation(without) == by_the_graph(without) == 1


def test_damaged_exif_is_read_alike() -> None:
    chance = random.Random(7)
    seen = set()
    for order, kind, _ in itertools.product("<>", (3, 4), range(150)):
        content = bytearray(b"Exif\0\0" + tiff_header(chance.randrange(10), order, kind))
        for _ in range(chance.randrange(4)):
            content[chance.randrange(len(content))] = chance.choice([0, 1, 2, 3, 4, 6, 255, 77])
        part = segment(0xE1, bytes(content[: chance.randrange(6, len(content) + 1)]))
        if chance.random() < 0.3:  # between segments, with bytes that do not begin any
            part = bytes(chance.choices([0, 1, 255, 0xE1, 0xD0], k=3)) + part
        data = jpeg_with(part * chance.choice([1, 2]), chance.choice(PLACES))
        expected = by_the_graph(data)
        if expected is not None:
            assert jpeg_orientation(data) == expected, data.hex()
            seen.add(expected)
    assert seen == set(range(1, 9))


def test_cut_off_and_empty_data_end() -> None:
    data = IN_JPEG["after the tables"](6)
    assert {jpeg_orientation(data[:end]) for end in range(len(data))} <= {1, 6}
    assert jpeg_orientation(b"") == 1
