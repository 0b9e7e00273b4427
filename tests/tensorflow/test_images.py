"""What ingest makes of one file: kept as it is, normalised, or refused."""

from __future__ import annotations

import contextlib
import io
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from components import decoding
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import (
    THUMB,
    Picture,
    decode_images,
    picture,
    read_image,
)
from tests.kit import image_corpus as corpus
from tests.kit.pixel import GRAPH, as_a_viewer_shows, as_transform_reads, difference

MAX_PIXELS = 1_000_000


def read(data: bytes) -> Picture:
    return read_image(data, MAX_PIXELS)


@pytest.mark.parametrize("name", corpus.VALID)
class TestEveryValidKind:
    def test_is_stored_as_a_viewer_shows_it(self, name: str) -> None:
        content, change = corpus.VALID[name]
        data = content(3)
        picture = read(data)
        expected = as_a_viewer_shows(data)
        stored = as_transform_reads(picture.encoded)
        assert stored.shape == expected.shape == (picture.height, picture.width, 3)
        # Blending is rounded.
        assert difference(stored, expected) <= 1
        assert picture.normalized == change
        is_converted = change in ("bmp", "gif", "tiff", "webp")
        assert (picture.encoded != data) == is_converted
        assert picture.format == ("png" if is_converted or data[:1] == b"\x89" else "jpeg")

    def test_reads_the_same_at_once_as_in_aGRAPH(self, name: str) -> None:
        stored = read(corpus.VALID[name][0](4)).encoded
        now, later = decoding.decode_now(stored), GRAPH(stored)
        for one, other in zip(now, later, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_says_what_is_stored(self, name: str) -> None:
        picture = read(corpus.VALID[name][0](3))
        stored = Image.open(io.BytesIO(picture.encoded))
        assert {"JPEG": "jpeg", "MPO": "jpeg"}.get(
            str(stored.format), str(stored.format).lower()
        ) == picture.format
        turned = ImageOps.exif_transpose(stored)
        assert turned.size == (picture.width, picture.height)
        luminance = np.asarray(as_transform_reads(picture.encoded)) @ [0.299, 0.587, 0.114]
        assert picture.mean == pytest.approx(luminance.mean(), abs=1.5)
        assert picture.contrast == pytest.approx(luminance.std(), abs=1.5)


def test_images_that_are_decoded_together_are_read_as_each_alone() -> None:
    photos = [corpus.VALID[name][0](seed) for name in corpus.VALID for seed in range(3)]
    large = io.BytesIO()
    Image.new("RGB", (900, 900), "teal").save(large, "JPEG")
    broken = [content(3) for content, _ in corpus.BROKEN.values()]
    jpegs = [data for data in photos if data.startswith(b"\xff\xd8")]
    assert len(jpegs) > 2 * decoding.TOGETHER
    batch = [*photos, large.getvalue(), b"", jpegs[0][:-20], *broken, *jpegs]
    for data, decoded in zip(batch, decode_images(batch, MAX_PIXELS), strict=True):
        found = picture(data, MAX_PIXELS, decoded)
        try:
            expected: Picture | str = read(data)
        except Unusable as error:
            expected = str(error)
        assert (str(found) if isinstance(found, Unusable) else found) == expected


@pytest.mark.parametrize("name", corpus.BROKEN)
def test_every_broken_kind_is_refused_for_what_it_is(name: str) -> None:
    content, kind = corpus.BROKEN[name]
    with pytest.raises(Unusable) as caught:
        read(content(3))
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("image_format", "mode", "channels"),
    [("PNG", "L", 1), ("JPEG", "L", 1), ("JPEG", "RGB", 3), ("PNG", "P", 3), ("GIF", "P", 3)],
)
def test_channels_of_what_is_kept(image_format: str, mode: str, channels: int) -> None:
    assert read(corpus.make(image_format, 1, mode)).channels == channels


def test_an_alpha_channel_that_hides_nothing_is_kept() -> None:
    assert read(corpus.encoded(corpus.picture(1).convert("RGBA"), "PNG")).channels == 4


def test_the_pixel_limit_is_on_the_header_and_inclusive() -> None:
    data = corpus.encoded(Image.new("RGB", (100, 50)), "PNG")
    assert read_image(data, 5000).width == 100
    with pytest.raises(Unusable, match=r"100 x 50 pixels, data\.max_pixels = 4,999"):
        read_image(data, 4999)


def test_several_changes_are_all_told() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = corpus.make("JPEG", 1, "CMYK", exif=exif.tobytes())
    picture = read(data)
    assert picture.normalized == "cmyk+orientation"
    assert (picture.width, picture.height) == (corpus.HEIGHT, corpus.WIDTH)


SAMPLES = {
    name: corpus.VALID[name][0](9)
    for name in (
        "baseline.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "turned 6.jpg",
        "rgb.png",
        "alpha.png",
        "transparent palette.png",
        "animated.gif",
        "rgb.bmp",
        "rle.bmp",
        "lossy.webp",
        "alpha.webp",
        "local palette.gif",
        "lzw.TIFF",
        "fax.tiff",
        "jpeg.tiff",
        "16 bit.tiff",
        "two pictures.jpg",
        "photo with profile.jpg",
        "gray 16 bit.png",
        "rgb 16 bit.png",
        "gray alpha.png",
        "colour key.png",
        "2 bit palette.png",
        "turned.png",
        "animated.png",
        "transparent.gif",
        "animated.webp",
        "turned.webp",
    )
}
KINDS = ("empty", "damaged", "unsupported", "not an image", "too large")


@pytest.mark.parametrize("name", SAMPLES)
class TestDamage:
    """Whatever is done to a file, it is stored as something readable, or refused; and a server
    that is sent it answers or refuses.
    """

    def check(self, data: bytes) -> None:
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            as_transform_reads(data)
        picture = self.outcome(data)
        if isinstance(picture, Unusable):
            assert picture.kind in KINDS
            assert 0 < len(picture.detail) < 600
            assert not re.search(r"\{\{|\n", picture.detail)
        else:
            pixels = as_transform_reads(picture.encoded)
            assert pixels.shape == (picture.height, picture.width, 3)
            np.testing.assert_array_equal(decoding.decode_now(picture.encoded).pixels, pixels)
        # The ingest shrinks large photos while it decodes them.
        if data[:2] == b"\xff\xd8":
            assert self.is_decoded(data, 8) == self.is_decoded(data, 1)

    def outcome(self, data: bytes) -> Picture | Unusable:
        try:
            return read(data)
        except Unusable as error:
            return error

    def is_decoded(self, data: bytes, ratio: int) -> bool:
        try:
            decoding.decode_now(data, ratio)
        except tf.errors.InvalidArgumentError:
            return False
        return True

    @settings(max_examples=15)
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_truncated(self, name: str, share: float) -> None:
        data = SAMPLES[name]
        self.check(data[: int(len(data) * share)])

    @settings(max_examples=25)
    @given(
        flips=st.lists(
            st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
            min_size=1,
            max_size=4,
        )
    )
    def test_bits_flipped(self, name: str, flips: list[tuple[float, int]]) -> None:
        data = bytearray(SAMPLES[name])
        for place, mask in flips:
            # Half of them into the header, where they do most.
            at = int((place * 2 * len(data)) if place < 0.5 else (place - 0.5) * 200)
            data[min(at, len(data) - 1)] ^= mask
        self.check(bytes(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("progressive", [False, True])
def test_a_photo_is_measured_as_it_is_shown(orientation: int, progressive: bool) -> None:
    # Large enough for every ratio that a JPEG can be shrunk by; no size is a multiple of one.
    small = Image.open(io.BytesIO(corpus.make("PNG", 8)))
    for factor in (5, 9, 17):
        large = small.resize((small.width * factor + 3, small.height * factor + 1))
        exif = Image.Exif()
        exif[0x112] = orientation
        buffer = io.BytesIO()
        large.save(buffer, "JPEG", progressive=progressive, exif=exif)
        picture = read(buffer.getvalue())
        shown = as_a_viewer_shows(buffer.getvalue())
        assert (picture.height, picture.width) == shown.shape[:2]
        assert picture.normalized == ("none" if orientation == 1 else "orientation")
        luminance = shown @ [0.299, 0.587, 0.114]
        assert picture.mean == pytest.approx(luminance.mean(), abs=1)
        assert picture.contrast == pytest.approx(luminance.std(), abs=1)
        expected = Image.fromarray(shown).resize((THUMB, THUMB), Image.Resampling.BOX)
        thumb = np.frombuffer(picture.thumb, np.uint8).reshape(THUMB, THUMB, 3)
        assert np.abs(thumb.astype(int) - np.asarray(expected)).mean() < 1


@pytest.mark.parametrize("name", ["baseline.jpg", "progressive.jpg", "rgb.png", "rgb.bmp"])
def test_a_file_that_lacks_a_tenth_is_refused(name: str) -> None:
    data = SAMPLES[name]
    with pytest.raises(Unusable):
        read(data[: len(data) * 9 // 10])


@settings(max_examples=50)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF"]),
    st.binary(max_size=300),
)
def test_no_bytes_at_all_make_it_fail(magic: bytes, rest: bytes) -> None:
    with pytest.raises(Unusable):
        read(magic + rest)
    with pytest.raises(tf.errors.InvalidArgumentError):
        as_transform_reads(magic + rest)


@pytest.mark.parametrize("name", ["lzw.TIFF", "rgb.bmp", "lossy.webp", "still.gif"])
def test_a_graph_refuses_other_formats_in_so_many_words(name: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=decoding.REFUSAL):
        as_transform_reads(corpus.VALID[name][0](1))


def test_hostile_exif_is_no_reason_to_turn_an_image() -> None:
    plain = GRAPH(corpus.make("JPEG", 1)).pixels.numpy()
    for tail in (
        b"",
        b"\xff" * 8,
        b"\0\0\0\x08\xff\xff",
        b"\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x09",
    ):
        data = corpus.make("JPEG", 1, exif=b"Exif\0\0MM\0*" + tail)
        decoded = GRAPH(data)
        assert decoded.orientation == 1
        np.testing.assert_array_equal(decoded.pixels, plain)
