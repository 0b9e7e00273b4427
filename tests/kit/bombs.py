"""Small files that are large once decoded, each read on its own: how much memory that takes.

    python -m tests.kit.bombs

prints one JSON object: peak MB above what the process took before, by name. `make` gives the files.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from tests.kit import image_corpus as corpus

LIMIT = 1_000_000  # pixels


def _gif(canvas: tuple[int, int], *frames: tuple[int, int]) -> bytes:
    """Return a GIF with frames of these declared sizes and hardly any pixels."""
    data = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + bytes(6)
    for width, height in frames:
        data += b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x4c\1\0"
    return data + b";"


def _frames(count: int, size: int, image_format: str, **options: str) -> bytes:
    frames = [Image.new("P", (size, size), number) for number in range(count)]
    return corpus.encoded(
        frames[0], image_format, save_all=True, append_images=frames[1:], **options
    )


def _png(width: int, height: int) -> bytes:
    rows = zlib.compress(bytes(height * (1 + 3 * width)), 9)
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return corpus.png(ihdr, (b"IDAT", rows))


def _png_profile() -> bytes:
    """Its colour profile and a text are 300 MB once they are inflated."""
    ihdr = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    many = zlib.compress(bytes(300_000_000), 9)
    chunks = [(b"iCCP", b"p\0\0" + many), (b"zTXt", b"k\0\0" + many)]
    return corpus.png(ihdr, *chunks, (b"IDAT", zlib.compress(b"\0\0")))


def _tiff(**tags: int) -> bytes:
    """Return a TIFF of one strip or tile with other values for `tags`."""
    numbers = {"width": 256, "length": 257, "rows": 278, "tile_width": 322, "tile_length": 323}
    buffer = io.BytesIO()
    info = {numbers[name]: value for name, value in tags.items() if name.startswith("tile")}
    corpus.picture(1).save(buffer, "TIFF", compression="tiff_adobe_deflate", tiffinfo=info)
    data = bytearray(buffer.getvalue())
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    for index in range(count):
        at = directory + 2 + 12 * index
        (tag,) = struct.unpack_from("<H", data, at)
        for name, value in tags.items():
            if numbers[name] == tag:
                data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(data)


def _tiled(side: int) -> bytes:
    """Return a TIFF of 16 x 16 pixels in one tile of `side` x `side`."""
    data = zlib.compress(bytes(1000))
    tags = [
        *((256, 3, 16), (257, 3, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)),
        *((322, 4, side), (323, 4, side), (324, 4, 8), (325, 4, len(data))),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def _jpeg(width: int, height: int) -> bytes:
    data = corpus.make("JPEG", 1)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _bmp(width: int, height: int) -> bytes:
    data = corpus.bmp_rle(1)
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def _webp() -> bytes:
    data = corpus.make("WEBP", 1)
    return data[:26] + struct.pack("<HH", 16_383, 16_383) + data[30:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "gif, a second frame": lambda: _gif((1, 1), (1, 1), (20_000, 20_000)),
    "gif, a first frame beyond its canvas": lambda: _gif((1, 1), (60_000, 60_000)),
    "gif, canvas": lambda: _gif((60_000, 60_000), (1, 1)),
    "gif, many frames": lambda: _frames(60, 900, "GIF"),
    "webp, many frames": lambda: _frames(60, 900, "WEBP"),
    "webp": _webp,
    "apng": lambda: _frames(60, 900, "PNG"),
    "png": lambda: corpus.bomb(),
    "png, real": lambda: _png(4000, 4000),
    "png, profile and text": _png_profile,
    "png, chunks": lambda: corpus.png(
        struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), *[(b"tEXt", b"k\0v")] * 300_000
    ),
    "jpeg": lambda: _jpeg(65_500, 65_500),
    "jpeg, segments": lambda: (
        b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000 + corpus.make("JPEG", 1)[2:]
    ),
    "bmp": lambda: _bmp(60_000, 60_000),
    "tiff, width": lambda: _tiff(width=60_000, length=60_000),
    "tiff, rows of a strip": lambda: _tiff(rows=2**32 - 1),
    "tiff, tile": lambda: _tiled(32_768),
    "tiff, large tile": lambda: _tiled(65_520),
    "tiff, pages": lambda: _frames(60, 900, "TIFF", compression="tiff_lzw"),
}


def measured() -> Iterator[tuple[str, float]]:
    """Peak memory, in MB, that reading each file adds, by the ingest and by the graph."""
    import contextlib

    import tensorflow as tf

    from components.image_example_gen.files import Unusable
    from components.image_example_gen.images import read_image
    from tests.kit.pixel import as_transform_reads

    for small in ("JPEG", "PNG", "GIF", "TIFF"):
        as_transform_reads(read_image(corpus.make(small, 1), LIMIT).encoded)
    for name, make in BOMBS.items():
        data = make()
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = _memory("VmRSS")
        with contextlib.suppress(Unusable):
            as_transform_reads(read_image(data, LIMIT).encoded)
        if data[:2] not in (b"\xff\xd8", b"\x89P"):  # whose size a server looks at first
            with contextlib.suppress(tf.errors.InvalidArgumentError):
                as_transform_reads(data)
        yield name, round(_memory("VmHWM") - before, 1)


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(value) / 1024


if __name__ == "__main__":
    print(json.dumps(dict(measured())))
