"""TFRecord's framing: length, its checksum, content, its checksum; little-endian.

As in tensorflow/core/lib/io/record_writer.h, without TensorFlow: a recorder beside a model server
must be small.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

_HEAD = struct.Struct("<QI")
_LENGTH, _SUM = struct.Struct("<Q"), struct.Struct("<I")
OVERHEAD = _HEAD.size + _SUM.size  # bytes of a record beyond its content


def framed(content: bytes) -> bytes:
    """Frame `content` as a record."""
    length = _LENGTH.pack(len(content))
    return length + _SUM.pack(_masked(length)) + content + _SUM.pack(_masked(content))


def records(file: BinaryIO) -> Iterator[bytes]:
    """Yield the contents of a file. Raises ValueError at a cut-off or damaged record."""
    end = os.fstat(file.fileno()).st_size
    while head := file.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise ValueError("it is cut off")
        size, checksum = _HEAD.unpack(head)
        if checksum != _masked(head[: _LENGTH.size]):
            raise ValueError("it is damaged")
        if file.tell() + size + _SUM.size > end:
            raise ValueError("it is cut off")
        content, tail = file.read(size), file.read(_SUM.size)
        if _SUM.unpack(tail)[0] != _masked(content):
            raise ValueError("it is damaged")
        yield content


def _masked(content: bytes) -> int:
    """Return the CRC-32C masked as in TFRecord, so that data may contain checksums."""
    checksum = google_crc32c.value(content)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
