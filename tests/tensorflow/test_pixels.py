"""Pixels against Pillow's, over the features of every format.

JPEG differs by at most 2 where two libraries scale chroma in different ways; between TensorFlow's
and Pillow's libjpeg-turbo no difference was seen.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

from components import decoding
from components.image_example_gen.conversion import Pixels
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import read_image
from tests.kit import image_corpus as corpus
from tests.kit.orientations import DQT, IN_JPEG, exif_segment, jpeg_with, segment, tiff_header
from tests.kit.pixel import as_a_viewer_shows, as_transform_reads, difference

MAX_PIXELS = 100_000_000
JPEG_BOUND = 2


def text_and_edges(width: int, height: int) -> Image.Image:
    """Black on white and colours on each other: the hardest that a DCT can meet."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height // 2), fill=(255, 0, 0))
    draw.rectangle((0, height // 2, width // 2, height), fill=(0, 0, 255))
    for at in range(0, width, 4):
        if at % 8:
            draw.rectangle((at, height // 3, at + 3, height // 3 + 3), fill="black")
    draw.text((1, 1), "Aa1", fill="black")
    return image


def stored(data: bytes) -> Pixels:
    """Pixels of what the ingest keeps, whose record must agree with them."""
    picture = read_image(data, MAX_PIXELS)
    pixels = as_transform_reads(picture.encoded)
    assert (picture.height, picture.width, 3) == pixels.shape
    return pixels


class TestJpeg:
    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1", "4:4:0"])
    def test_every_quality(self, subsampling: str) -> None:
        image = text_and_edges(48, 48)
        worst = 0
        for quality in range(1, 101):
            # Pillow writes no 4:4:0; 4:2:2 whose sampling factors are swapped is a valid one.
            written = subsampling.replace("4:4:0", "4:2:2")
            data = corpus.encoded(
                image, "JPEG", quality=quality, subsampling=written, progressive=quality % 3 == 0
            )
            if subsampling == "4:4:0":
                data = data.replace(b"\x03\x01\x21\0\x02\x11", b"\x03\x01\x12\0\x02\x11")
            worst = max(worst, difference(as_transform_reads(data), as_a_viewer_shows(data)))
        assert worst <= JPEG_BOUND

    def test_the_fast_transform_would_overflow(self) -> None:
        quarters = np.kron([[0, 255], [255, 0]], np.ones((4, 4))).astype(np.uint8)
        data = corpus.encoded(Image.fromarray(quarters), "JPEG", quality=75)
        fast = tf.io.decode_jpeg(data, channels=3).numpy()
        shown = as_a_viewer_shows(data)
        assert np.abs(fast.astype(int) - shown).mean() > 100
        assert difference(stored(data), shown) == 0

    @pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
    @pytest.mark.parametrize(
        "size", [(1, 1), (1, 9), (9, 1), (7, 8), (8, 8), (17, 15), (640, 480), (5000, 9), (9, 5000)]
    )
    def test_every_size(self, mode: str, size: tuple[int, int]) -> None:
        data = corpus.encoded(text_and_edges(*size).convert(mode), "JPEG", quality=83)
        assert difference(stored(data), as_a_viewer_shows(data)) <= JPEG_BOUND

    def test_a_large_photo(self) -> None:
        data = corpus.encoded(Image.fromarray(corpus.pixels(1, 5000, 3000)), "JPEG")
        assert difference(stored(data), as_a_viewer_shows(data)) <= JPEG_BOUND

    @pytest.mark.parametrize("options", [{"keep_rgb": True}, {"restart_marker_blocks": 2}])
    def test_rare_options(self, options: dict[str, Any]) -> None:
        data = corpus.encoded(text_and_edges(50, 40), "JPEG", **options)
        assert difference(stored(data), as_a_viewer_shows(data)) <= JPEG_BOUND


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(part: bytes, before: bytes, mode: str = "RGB", **options: Any) -> bytes:
    data = corpus.make("PNG", 5, mode, **options)
    at = data.index(before) - 4
    return data[:at] + part + data[at:]


IN_PNG: dict[str, Callable[[int], bytes]] = {
    "before the pixels": lambda n: png_with(chunk(b"eXIf", tiff_header(n)), b"IDAT"),
    "after the pixels": lambda n: png_with(chunk(b"eXIf", tiff_header(n)), b"IEND"),
    "after the pixels, with alpha": lambda n: png_with(
        chunk(b"eXIf", tiff_header(n, order="<")), b"IEND", "RGBA"
    ),
    "before the palette": lambda n: png_with(
        chunk(b"eXIf", tiff_header(n)), b"PLTE", "P", transparency=3
    ),
    "after many chunks": lambda n: png_with(
        chunk(b"tEXt", b"k\0eXIf") * 600 + chunk(b"eXIf", tiff_header(n)), b"IDAT"
    ),
}
ELSEWHERE: dict[str, Callable[[int], bytes]] = {
    "webp": lambda n: corpus.oriented(n, 5, "WEBP"),
    "lossless webp": lambda n: corpus.make(
        "WEBP", 5, lossless=True, exif=b"Exif\0\0" + tiff_header(n)
    ),
    "tiff": lambda n: corpus.make("TIFF", 5, tiffinfo={274: n}),
    "compressed tiff": lambda n: corpus.make("TIFF", 5, tiffinfo={274: n}, compression="tiff_lzw"),
}


@pytest.mark.parametrize("place", [*IN_JPEG, *IN_PNG, *ELSEWHERE])
def test_every_orientation_in_every_place(place: str) -> None:
    make = (IN_JPEG | IN_PNG | ELSEWHERE)[place]
    upright = stored(make(1))
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        2: np.fliplr,
        3: lambda pixels: np.rot90(pixels, 2),
        4: np.flipud,
        5: lambda pixels: pixels.transpose(1, 0, 2),
        6: lambda pixels: np.rot90(pixels, 3),
        7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    for orientation in range(1, 9):
        data = make(orientation)
        pixels = stored(data)
        assert difference(pixels, as_a_viewer_shows(data)) <= JPEG_BOUND
        np.testing.assert_array_equal(pixels, turns.get(orientation, np.array)(upright))
    if place not in ELSEWHERE:  # of which some cannot be written with nonsense
        for orientation in (0, 9):
            np.testing.assert_array_equal(stored(make(orientation)), upright)


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(segment(0xFE, exif_segment(6)), DQT),
        jpeg_with(segment(0xE2, b"Exif\0\0" + tiff_header(6)), DQT),
        corpus.make("JPEG", 5, quality=90) + exif_segment(6),
        png_with(chunk(b"tEXt", b"k\0eXIf" + tiff_header(6)), b"IDAT"),
        png_with(chunk(b"eXIf", b""), b"IDAT"),
    ],
)
def test_what_only_looks_like_exif_turns_nothing(data: bytes) -> None:
    plain = corpus.make("JPEG" if data[:1] == b"\xff" else "PNG", 5, quality=90)
    np.testing.assert_array_equal(stored(data), as_transform_reads(plain))


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with(segment(0xFE, b"") * 1100 + exif_segment(6), DQT),
        png_with(chunk(b"tEXt", b"k\0") * 1100 + chunk(b"eXIf", tiff_header(6)), b"IDAT"),
    ],
)
def test_exif_behind_more_than_is_looked_through_is_refused(data: bytes) -> None:
    """A request must not cost a minute, and no image is shown as it should not be."""
    for read in (as_transform_reads, decoding.decode_now):
        with pytest.raises(tf.errors.InvalidArgumentError, match=decoding.REFUSAL_LONG):
            read(data)
    with pytest.raises(Unusable, match=decoding.REFUSAL_LONG) as caught:
        read_image(data, MAX_PIXELS)
    assert caught.value.kind == "damaged"


def packed(values: Pixels, bits: int) -> bytes:
    """Rows of samples [H, W * channels] as PNG has them, without filters."""
    if bits == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    if bits == 8:
        return b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in values)
    shifts = np.arange(bits - 1, -1, -1)
    planes = (values[..., np.newaxis] >> shifts) & 1
    return b"".join(b"\0" + np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in planes)


ADAM7 = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def png_of(
    samples: np.ndarray, bits: int, color_type: int, interlaced: bool, *chunks: Any
) -> bytes:
    """Return a PNG of samples [H, W, channels]."""
    height, width = samples.shape[:2]
    passes = [samples[top::down, left::right] for top, left, down, right in ADAM7]
    parts = [part for part in passes if part.size] if interlaced else [samples]
    raw = b"".join(packed(part.reshape(len(part), -1), bits) for part in parts)
    ihdr = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlaced)
    return corpus.png(ihdr, *chunks, (b"IDAT", zlib.compress(raw)))


KINDS_OF_PNG = [
    (color_type, bits, is_clear, interlaced)
    for color_type, depths in {
        0: (1, 2, 4, 8, 16),
        2: (8, 16),
        3: (1, 2, 4, 8),
        4: (8, 16),
        6: (8, 16),
    }.items()
    for bits, is_clear, interlaced in itertools.product(depths, (False, True), (False, True))
    if not (is_clear and color_type >= 4)
]


@pytest.mark.parametrize(("color_type", "bits", "is_clear", "interlaced"), KINDS_OF_PNG)
def test_every_kind_of_png(color_type: int, bits: int, is_clear: bool, interlaced: bool) -> None:
    """Against what its samples mean.

    Of a transparent gray below 8 bits Pillow compares the wrong values, and of 16 bits it blends
    nothing or too much.
    """
    rng = np.random.default_rng(bits)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    samples = rng.integers(0, 2**bits, (13, 11, channels))
    chunks = []
    alpha = np.full((13, 11, 1), 255)
    if color_type == 3:
        palette = rng.integers(0, 256, (2**bits, 3))
        chunks.append((b"PLTE", palette.astype(np.uint8).tobytes()))
        color = palette[samples[..., 0]]
        if is_clear:
            shown = rng.integers(0, 256, 2**bits)
            chunks.append((b"tRNS", shown.astype(np.uint8).tobytes()))
            alpha = shown[samples]
    else:
        eight = samples >> 8 if bits == 16 else samples * 255 // (2**bits - 1)
        color = eight[..., : 3 if channels >= 3 else 1]
        if color_type >= 4:
            alpha = eight[..., -1:]
        if is_clear:
            key = samples[2, 3]
            chunks.append((b"tRNS", key.astype(">u2").tobytes()))
            alpha = 255 * (samples != key).any(axis=-1, keepdims=True)
    expected = (np.broadcast_to(color, (13, 11, 3)) * alpha + 255 * (255 - alpha) + 127) // 255
    data = png_of(samples, bits, color_type, interlaced, *chunks)
    np.testing.assert_array_equal(stored(data), expected)
    if not (bits == 16 and (is_clear or color_type == 4)) and not (is_clear and bits in (2, 4)):
        assert difference(stored(data), as_a_viewer_shows(data)) <= 1


def gif(seed: int, change: Callable[[bytearray], None], **options: Any) -> tuple[bytes, Pixels]:
    """Return a GIF with changed bytes, and the pixels of its frame."""
    image = corpus.picture(seed, "P")
    data = bytearray(corpus.encoded(image, "GIF", **options))
    change(data)
    return bytes(data), np.asarray(image.convert("RGB"))


def resize_screen(data: bytearray, width: int, height: int) -> None:
    data[6:10] = struct.pack("<HH", width, height)


def insert_comment(data: bytearray, content: bytes) -> None:
    at = data.index(b",\0\0\0\0")
    data[at:at] = b"\x21\xfe" + content


class TestGif:
    def test_a_frame_beyond_the_canvas_is_shown_whole_and_measured(self) -> None:
        data, frame = gif(1, partial(resize_screen, width=5, height=4))
        np.testing.assert_array_equal(stored(data), frame)

    def test_what_a_frame_does_not_cover_is_white(self) -> None:
        data, frame = gif(2, partial(resize_screen, width=60, height=50))
        expected = np.full((50, 60, 3), 255, np.uint8)
        expected[: corpus.HEIGHT, : corpus.WIDTH] = frame
        np.testing.assert_array_equal(stored(data), expected)

    @pytest.mark.parametrize("content", [b"\0", b"\3abc\0"])
    def test_comments_may_be_empty(self, content: bytes) -> None:
        data, frame = gif(3, partial(insert_comment, content=content))
        np.testing.assert_array_equal(stored(data), frame)

    @pytest.mark.parametrize("interlace", [0, 1])
    def test_interlaced_rows_are_in_order(self, interlace: int) -> None:
        data, frame = gif(4, lambda _: None, interlace=interlace)
        np.testing.assert_array_equal(stored(data), frame)


BMP_HEADERS = {"info": 40, "version 4": 108, "version 5": 124}


class TestBmp:
    @pytest.mark.parametrize("header", BMP_HEADERS)
    @pytest.mark.parametrize("after", [b"", b"\0\0", b"profile" * 100])
    def test_what_stands_after_the_pixels_does_no_harm(self, header: str, after: bytes) -> None:
        plain = corpus.make("BMP", 6)
        size = BMP_HEADERS[header]
        longer = struct.pack("<I", size) + plain[18:54] + bytes(size - 40)
        head = struct.pack("<IHHI", len(plain) + size - 40 + len(after), 0, 0, 14 + size)
        data = b"BM" + head + longer + plain[54:] + after
        np.testing.assert_array_equal(stored(data), corpus.pixels(6))

    def test_rows_may_go_down(self) -> None:
        data = bytearray(corpus.make("BMP", 7))
        data[22:26] = struct.pack("<i", -corpus.HEIGHT)
        np.testing.assert_array_equal(stored(bytes(data)), corpus.pixels(7)[::-1])


TIFFS = [
    (compression, mode)
    for compression, modes in {
        "raw": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"),
        "tiff_lzw": ("L", "P", "RGB", "RGBA", "CMYK", "I;16"),
        "tiff_adobe_deflate": ("1", "L", "RGB"),
        "packbits": ("1", "L", "RGB"),
        "group3": ("1",),
        "group4": ("1",),
        "jpeg": ("L", "RGB"),
        "zstd": ("RGB",),
        "lzma": ("RGB",),
    }.items()
    for mode in modes
]


@pytest.mark.parametrize(("compression", "mode"), TIFFS)
def test_every_kind_of_tiff(compression: str, mode: str) -> None:
    data = corpus.make("TIFF", 8, mode, compression=compression)
    assert difference(stored(data), as_a_viewer_shows(data)) <= 1


@pytest.mark.parametrize("options", [{"quality": 1}, {"quality": 100}, {"lossless": True}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_every_kind_of_webp(options: dict[str, Any], mode: str) -> None:
    data = corpus.make("WEBP", 9, mode, **options)
    assert difference(stored(data), as_a_viewer_shows(data)) <= 1
