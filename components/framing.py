"""TFRecord's framing: size, its checksum, content, its checksum; little-endian.

As in tensorflow/core/lib/io/record_writer.h, without TensorFlow: a recorder beside a model server
must be small.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

import google_crc32c

_HEAD = struct.Struct("<QI")
_SIZE, _SUM = struct.Struct("<Q"), struct.Struct("<I")
OVERHEAD = _HEAD.size + _SUM.size  # bytes of a record beyond its content


class TooLargeError(ValueError):
    """A record of more bytes than are allowed."""


def framed(content: bytes) -> bytes:
    """Return the record that holds `content`."""
    size = _SIZE.pack(len(content))
    return size + _SUM.pack(_masked(size)) + content + _SUM.pack(_masked(content))


def next_size(file: IO[bytes], most: int) -> int | None:
    """Read the head of a record. Returns the size of its content; None at the end of the file.

    Raises ValueError if it is cut off, damaged, or larger than `most`.
    """
    head = file.read(_HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise ValueError("it is cut off")
    size, checksum = _HEAD.unpack(head)
    if checksum != _masked(head[: _SIZE.size]):
        raise ValueError("it is damaged")
    if size > most:
        raise TooLargeError(f"it claims to have {size:,} bytes, more than {most:,}")
    return int(size)


def records(file: IO[bytes], most: int) -> Iterator[bytes]:
    """Yield the contents from the current position on; see `next_size` for errors."""
    while (size := next_size(file, most)) is not None:
        content, tail = file.read(size), file.read(_SUM.size)
        if len(tail) < _SUM.size:
            raise ValueError("it is cut off")
        if _SUM.unpack(tail)[0] != _masked(content):
            raise ValueError("it is damaged")
        yield content


def _masked(content: bytes) -> int:
    """Return the CRC-32C masked as in TFRecord, so that data may contain checksums."""
    checksum = google_crc32c.value(content)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
