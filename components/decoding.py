"""The decoder of images that ingest, training, evaluation and serving share.

It consists of TensorFlow ops, so that an exported model contains it. EXIF orientation is applied,
and transparent pixels are blended with white. TensorFlow converts CMYK to RGB and cuts 16 bits to
the upper 8. The pixels equal Pillow's, bit for bit: JPEGs are decoded with libjpeg's accurate DCT.
The fast DCT, which `tf.io.decode_image` always uses and `tf.io.decode_jpeg` uses by default,
overflows at hard edges.

Only JPEG and PNG are accepted. TensorFlow's other decoders are not reliable: BMP's returns palette
indices as colours, GIF's decodes every frame to return the first, and WebP's is missing from older
servers and writes beyond its buffer for animations. `components.image_example_gen.conversion`
converts such files to PNG.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.exif import EXIF, MAX_SEGMENTS, jpeg_orientation
from components.servable import JPEG, PNG

REFUSAL = "unreadable image: only JPEG and PNG can be decoded here; convert it to PNG"
REFUSAL_LONG = "unreadable image: too many segments or chunks around its EXIF data"

TOGETHER = 16  # images that `decode_together` takes
_PNG_EXIF = b"eXIf"
_WHITE = 255
_HEAD = 41


def _template(expected: Mapping[int, bytes]) -> list[list[int]]:
    """Return [2, _HEAD]: the expected bytes by position, and 255 for each byte that is compared."""
    values, masks = [0] * _HEAD, [0] * _HEAD
    for at, part in expected.items():
        values[at : at + len(part)] = part
        masks[at : at + len(part)] = [255] * len(part)
    return [values, masks]


# First bytes of images that TensorFlow's decoder reads correctly if they have no EXIF: JPEGs, and
# 8-bit PNGs in gray or RGB without chunks before the pixels. Nearly all images are of these kinds,
# and their segments need not be read.
_ORDINARY = np.array(
    [
        _template({0: JPEG}),
        _template({0: PNG, 24: b"\x08\0", 37: b"IDAT"}),
        _template({0: PNG, 24: b"\x08\x02", 37: b"IDAT"}),
    ],
    np.uint8,
)
_VALUES, _MASKS = _ORDINARY[:, 0], _ORDINARY[:, 1]
_ONE, _FALSE = np.int64(1), np.bool_(False)


class Decoded(NamedTuple):
    """One image.

    Attributes:
      pixels: uint8 [H, W, 3], RGB, upright, on white.
      orientation: int64, EXIF's, which was applied to `pixels`; 1 if there is none.
      is_clear: bool, whether any pixel was transparent.
    """

    pixels: tf.Tensor
    orientation: tf.Tensor | np.int64
    is_clear: tf.Tensor | np.bool_


def decode(encoded: tf.Tensor) -> Decoded:
    """Decode a scalar string, in a graph. Fails with InvalidArgumentError for other data."""
    head = tf.io.decode_raw(tf.strings.substr(encoded, 0, _HEAD), tf.uint8, fixed_length=_HEAD)
    is_known = tf.reduce_any(tf.reduce_all((head ^ _VALUES) & _MASKS == 0, axis=1))
    has_exif = _holds(encoded, EXIF) | _holds(encoded, _PNG_EXIF)
    pixels, orientation, is_clear = tf.cond(
        is_known & ~has_exif,
        lambda: (_image(encoded, 3), tf.constant(_ONE), tf.constant(_FALSE)),
        lambda: _examined(encoded),
    )
    pixels.set_shape([None, None, 3])
    return Decoded(pixels, orientation, is_clear)


def decode_now(encoded: bytes, ratio: int = 1, pixels: tf.Tensor | None = None) -> Decoded:
    """Decode bytes eagerly, which is faster than a graph for the few ops of an ordinary image.

    `ratio` is 1, 2, 4 or 8: JPEGs are reduced by this factor in each direction. libjpeg still reads
    and checks the whole file, but does fewer transforms. `pixels` are those of a JPEG that
    `decode_together` has decoded.
    """
    if encoded.startswith(JPEG):
        pixels = _image(tf.constant(encoded), 3, ratio) if pixels is None else pixels
        orientation = jpeg_orientation(encoded)
        if orientation == 1:
            return Decoded(pixels, _ONE, _FALSE)
        if orientation is None:
            return Decoded(*_examined(tf.constant(encoded)))  # fails
        turn = tf.constant(orientation, tf.int64)
        return Decoded(_turned(pixels, turn), turn, _FALSE)
    head = np.frombuffer(encoded[:_HEAD].ljust(_HEAD, b"\0"), np.uint8)
    is_known = ((head ^ _VALUES) & _MASKS == 0).all(axis=1).any()
    if is_known and _PNG_EXIF not in encoded:
        return Decoded(_image(tf.constant(encoded), 3), _ONE, _FALSE)
    return Decoded(*_examined(tf.constant(encoded)))


def decode_together(encoded: Sequence[bytes], ratio: int) -> list[tf.Tensor]:
    """Decode at most TOGETHER JPEGs in one call, for `decode_now`. Fails if any is damaged."""
    filled = [*encoded, *[_dot()] * (TOGETHER - len(encoded))]
    return _together(ratio)(tf.constant(filled))[: len(encoded)]


@functools.cache
def _dot() -> bytes:
    """Return a JPEG of one pixel."""
    return tf.io.encode_jpeg(np.zeros([1, 1, 1], np.uint8)).numpy()


@functools.cache
def _together(ratio: int) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    @tf.function(input_signature=[tf.TensorSpec([TOGETHER], tf.string)], autograph=False)
    def decode_each(encoded: tf.Tensor) -> list[tf.Tensor]:
        return [_image(each, 3, ratio) for each in tf.unstack(encoded)]

    return decode_each


_Parts = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # pixels, orientation, `is_clear`


# Inlined, these two hundred ops would slow down the decoding of ordinary images too.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _examined(encoded: tf.Tensor) -> _Parts:
    # `_image` reads other formats too, and each by its first bytes.
    kinds = [tf.equal(_text(encoded, 0, len(magic)), magic) for magic in (JPEG, PNG)]
    kind = tf.where(kinds[0], 0, tf.where(kinds[1], 1, 2))
    readers = (_jpeg, _png, _refused)
    pixels, exif, is_clear = tf.switch_case(
        kind, [functools.partial(reader, encoded) for reader in readers]
    )
    orientation = _orientation(encoded, exif)
    pixels = tf.cond(orientation > 1, lambda: _turned(pixels, orientation), lambda: pixels)
    return pixels, orientation, is_clear


# Pixels, position of EXIF's TIFF header or 0, `is_clear`.
_Read = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _jpeg(encoded: tf.Tensor) -> _Read:
    exif = tf.cond(
        _holds(encoded, EXIF), lambda: _jpeg_exif(encoded), lambda: tf.zeros([], tf.int64)
    )
    return _image(_accepted(encoded, exif >= 0, REFUSAL_LONG), 3), exif, _FALSE


def _jpeg_exif(encoded: tf.Tensor) -> tf.Tensor:
    """Find the TIFF header in the first EXIF segment before the pixels.

    Returns its position, 0 without EXIF, -1 after too many segments. As in libjpeg, bytes between
    two segments are skipped.
    """

    def is_exif(head: tf.Tensor) -> tf.Tensor:
        return (head[0] == 0xFF) & (head[1] == 0xE1) & tf.reduce_all(head[4:] == list(EXIF))

    def is_before(at: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
        is_end = (head[0] == 0xFF) & (head[1] >= 0xD8) & (head[1] <= 0xDA)
        return (at < _length(encoded)) & ~is_end & ~is_exif(head)

    def step(at: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        is_filling = (head[0] != 0xFF) | (head[1] == 0xFF)
        is_bare = (head[1] <= 1) | ((head[1] >= 0xD0) & (head[1] <= 0xD7))
        length = 2 + tf.where(is_bare, _number(0), head[2] * 256 + head[3])
        at += tf.where(is_filling, _ONE, length)
        return at, _bytes(encoded, at, 10)

    start = _number(2)
    at, head = tf.while_loop(
        is_before, step, (start, _bytes(encoded, start, 10)), maximum_iterations=MAX_SEGMENTS
    )
    nowhere = tf.where(is_before(at, head), _number(-1), _number(0))
    return tf.where(is_exif(head), at + 10, nowhere)


def _png(encoded: tf.Tensor) -> _Read:
    is_listed = _holds(encoded, _PNG_EXIF) | _holds(encoded, b"tRNS")
    exif, transparency = tf.unstack(
        tf.cond(is_listed, lambda: _png_chunks(encoded), lambda: tf.zeros([2], tf.int64))
    )
    encoded = _accepted(encoded, exif >= 0, REFUSAL_LONG)
    (color_type,) = tf.unstack(_bytes(encoded, 25, 1))
    # Below 8 bits, TensorFlow returns a wrong alpha channel for a PNG that has none.
    has_alpha = (color_type >= 4) | (transparency > 0)
    pixels, is_clear = tf.cond(
        has_alpha,
        lambda: _on_white(_image(encoded, 4)),
        lambda: (_image(encoded, 3), _FALSE),
    )
    return pixels, exif, is_clear


def _png_chunks(encoded: tf.Tensor) -> tf.Tensor:
    """Find where the data of eXIf (anywhere) and of tRNS (before the pixels) begin.

    Returns int64 [2]; 0 for a missing chunk, [-1, 0] after too many chunks. A chunk consists of
    length, name, data and checksum.
    """

    def is_open(at: tf.Tensor, name: tf.Tensor, _found: tf.Tensor, _names: tf.Tensor) -> tf.Tensor:
        return (at < _length(encoded)) & (name != b"IEND")

    def step(
        at: tf.Tensor, name: tf.Tensor, found: tf.Tensor, names: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        found = tf.where(tf.equal(name, names), at + 8, found)
        names = tf.where(tf.equal(name, b"IDAT"), [_PNG_EXIF, b""], names)
        weights = tf.constant([256**power for power in (3, 2, 1, 0)], tf.int64)
        at += 12 + tf.reduce_sum(_bytes(encoded, at, 4) * weights)
        return at, _text(encoded, at + 4, 4), found, names

    first = _number(8)
    names = tf.constant([_PNG_EXIF, b"tRNS"])
    state = (first, _text(encoded, first + 4, 4), tf.zeros([2], tf.int64), names)
    state = tf.while_loop(is_open, step, state, maximum_iterations=MAX_SEGMENTS)
    return tf.where(is_open(*state), tf.constant([-1, 0], tf.int64), state[2])


def _refused(encoded: tf.Tensor) -> _Read:
    return _image(_accepted(encoded, _FALSE, REFUSAL), 3), _number(0), _FALSE


def _image(encoded: tf.Tensor, channels: int, ratio: int = 1) -> tf.Tensor:
    """Decode JPEG or PNG to uint8 [H, W, channels]."""
    return tf.io.decode_jpeg(
        encoded,
        channels=channels,
        ratio=ratio,
        acceptable_fraction=1.0,  # the default, an int, keeps it from TensorFlow's fast path
        dct_method="INTEGER_ACCURATE",
    )


def _accepted(encoded: tf.Tensor, condition: tf.Tensor, refusal: str) -> tf.Tensor:
    """Return `encoded` if the condition holds, else fail with `refusal` in the message.

    An assertion op would also run in graphs whose images are not used.
    """

    def refuse() -> tf.Tensor:
        # A part of the image, as TensorFlow would fold a constant, and log it.
        message = tf.strings.join([refusal, _text(encoded, 0, 0)])
        return tf.strings.as_string(tf.strings.to_number(message))

    return tf.cond(condition, lambda: encoded, refuse)


def _on_white(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend uint8 [H, W, 4] with white; also return whether any pixel was transparent."""
    color, alpha = image[..., :3], image[..., 3:]
    is_clear = tf.reduce_min(alpha) < 255

    def mixed() -> tf.Tensor:
        # The maximum, 255 * 255 + 127, fits 16 bits.
        weight = tf.cast(alpha, tf.uint16)
        total = tf.cast(color, tf.uint16) * weight + _WHITE * (255 - weight)
        return tf.cast((total + 127) // 255, tf.uint8)

    return tf.cond(is_clear, mixed, lambda: color), is_clear


def _turned(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn by EXIF: 2 mirror, 3 half turn, 4 flip, 5 transpose, 6, 8 quarter turn, 7 transverse."""
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    is_reversed = [
        tf.reduce_any(orientation == [3, 4, 7, 8]),
        tf.reduce_any(orientation == [2, 3, 6, 7]),
    ]
    return tf.reverse(pixels, tf.boolean_mask([0, 1], is_reversed))


def _orientation(encoded: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Read EXIF's tag 0x112 from the first directory of the TIFF that begins at `at`.

    Returns 1 for invalid values, and if `at` is 0. Both 16 and 32 bits are accepted.
    """
    return tf.cond(at > 0, lambda: _orientation_tag(encoded, at), lambda: tf.constant(_ONE))


def _orientation_tag(encoded: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    head = _bytes(encoded, at, 8)

    def number(digits: tf.Tensor) -> tf.Tensor:
        ordered = tf.where(head[0] == ord("M"), digits, tf.reverse(digits, [-1]))
        weights = [256**power for power in reversed(range(digits.shape[-1]))]
        return tf.reduce_sum(ordered * tf.constant(weights, tf.int64), -1)

    directory = at + number(head[4:])
    size = 12 * tf.maximum(number(_bytes(encoded, directory, 2)), 1)
    entries = tf.reshape(_bytes(encoded, directory + 2, size), [-1, 12])
    kinds = number(entries[:, 2:4])
    is_it = (number(entries[:, :2]) == 0x112) & (number(entries[:, 4:8]) == 1)
    values = tf.where(kinds == 3, number(entries[:, 8:10]), number(entries[:, 8:]))
    is_it &= (kinds == 3) | (kinds == 4)
    # If the tag is repeated, the last one counts.
    value = tf.concat([tf.constant([1], tf.int64), tf.boolean_mask(values, is_it)], 0)[-1]
    is_valid = (number(head[2:4]) == 42) & (value >= 2) & (value <= 8)
    return tf.where(is_valid, value, 1)


def _holds(encoded: tf.Tensor, part: bytes) -> tf.Tensor:
    """Return whether `part`, of letters and zeros, is anywhere in `encoded`."""
    # The fastest of TensorFlow's ways to search for bytes.
    pattern = part.decode().replace("\0", "\\x00")
    without = tf.strings.regex_replace(encoded, pattern, "", replace_global=False)
    return tf.strings.length(without) != tf.strings.length(encoded)


def _number(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)


def _length(encoded: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(encoded), tf.int64)


def _text(encoded: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """Return `count` bytes from `at` on, fewer at the end of the file."""
    at = tf.minimum(tf.cast(at, tf.int64), _length(encoded))
    return tf.strings.substr(encoded, at, tf.cast(count, tf.int64))


def _bytes(encoded: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """Return `count` bytes from `at` on as int64 [count], with zeros after the end of the file."""
    fixed = tf.cast(count, tf.int32)
    raw = tf.io.decode_raw(_text(encoded, at, count), tf.uint8, fixed_length=fixed)
    return tf.cast(raw, tf.int64)
