"""Files of TFRecords, compressed or not, and parts of them."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import zlib
from collections.abc import Iterator
from typing import IO, cast

from components import framing
from components.image_example_gen.sources.file_table import UNIT_BYTES, UNIT_FILES


def read(path: str, position: int, most: int) -> Iterator[bytes]:
    """Yield the contents of the records from a position on.

    Raises OSError, or ValueError at a damaged record or one of more than `most` bytes, which is not
    read: where the next one begins is unknown.
    """
    with _opened(path) as (file, _):
        file.seek(position)
        try:
            yield from framing.records(file, most)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(str(error)) from error


def parts(path: str, most: int) -> list[tuple[int, int, int | None]]:
    """Divide a file: number and position of the first record, and number of records, of each part.

    The last number is None: that part may end in a damaged record. A compressed file, and one that
    cannot be read, has one part.
    """
    starts = [(0, 0)]
    number, position = 0, 0
    with contextlib.suppress(OSError, ValueError), _opened(path) as (file, is_packed):
        while not is_packed and (size := framing.next_size(file, most)) is not None:
            first, begin = starts[-1]
            end = position + size + framing.OVERHEAD
            if number - first == UNIT_FILES or (number > first and end - begin > UNIT_BYTES):
                starts.append((number, position))
            number, position = number + 1, end
            file.seek(position)
    counts = [after - first for (first, _), (after, _) in itertools.pairwise(starts)]
    return [(*start, count) for start, count in zip(starts, [*counts, None], strict=True)]


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], bool]]:
    """Open a file. Yields it, and whether it is compressed."""
    with open(path, "rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_packed else file, is_packed
