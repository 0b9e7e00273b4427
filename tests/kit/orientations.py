"""JPEG files with an EXIF orientation in every place where the format allows it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from tests.kit import image_corpus as corpus


def tiff_header(orientation: int, order: str = ">", kind: int = 3) -> bytes:
    """EXIF without its prefix: other tags around the orientation."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    value = struct.pack(order + {3: "H2x", 4: "I"}[kind], orientation)
    entries = [
        struct.pack(order + "HHI", 0x010F, 2, 4) + b"Cam\0",
        struct.pack(order + "HHI", 0x0112, kind, 1) + value,
        struct.pack(order + "HHI", 0x0128, 3, 1) + struct.pack(order + "H2x", 2),
    ]
    return mark + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(part: bytes, before: int) -> bytes:
    """Return a JPEG with `part` before its first marker `before`."""
    data = corpus.make("JPEG", 5, quality=90)
    at = data.index(bytes([0xFF, before]))
    return data[:at] + part + data[at:]


def exif_segment(orientation: int, **how: Any) -> bytes:
    return segment(0xE1, b"Exif\0\0" + tiff_header(orientation, **how))


SOS, SOF, DHT, DQT, APP0 = 0xDA, 0xC0, 0xC4, 0xDB, 0xE0
IN_JPEG: dict[str, Callable[[int], bytes]] = {
    "first": lambda n: jpeg_with(exif_segment(n), APP0),
    "before the tables": lambda n: jpeg_with(exif_segment(n), DQT),
    "after the tables": lambda n: jpeg_with(exif_segment(n), SOF),
    "after the size": lambda n: jpeg_with(exif_segment(n), DHT),
    "last": lambda n: jpeg_with(exif_segment(n), SOS),
    "little endian": lambda n: jpeg_with(exif_segment(n, order="<"), DQT),
    "32 bits": lambda n: jpeg_with(exif_segment(n, kind=4), DQT),
    "32 bits, little endian": lambda n: jpeg_with(exif_segment(n, order="<", kind=4), DQT),
    "after fill bytes": lambda n: jpeg_with(b"\xff\xff\xff" + exif_segment(n), DQT),
    "after a restart marker": lambda n: jpeg_with(b"\xff\xd0" + exif_segment(n), DQT),
    "beyond 256 segments": lambda n: jpeg_with(segment(0xFE, b"c") * 600 + exif_segment(n), DQT),
    "before another": lambda n: jpeg_with(exif_segment(n) + segment(0xE1, b"http://ns.a\0x"), DQT),
    "after XMP": lambda n: jpeg_with(
        segment(0xE1, b"http://ns.a\0Exif\0\0") + exif_segment(n), DQT
    ),
    "after a thumbnail's": lambda n: jpeg_with(
        segment(0xED, exif_segment(3) + b"\xff\xda") + exif_segment(n), DQT
    ),
}
