"""Image bytes to pixels: the one reading that ingest, training, evaluation and serving share.

It is a graph of TensorFlow's own ops, so that an exported model holds it, and it shows images as a
viewer would, which `tf.io.decode_image` alone does not: EXIF orientation is applied, and what is
transparent is put on white. CMYK becomes RGB and 16 bits are cut to their upper 8 by TensorFlow.

What TensorFlow misreads is refused: BMP other than plain 24 bits (palette indices are taken for
colours), and animated WebP (TensorFlow 2.21 writes beyond its buffer). TIFF it cannot read at all.
`components.image_example_gen.conversion` makes PNGs of them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

REFUSAL = (
    "unreadable image: only JPEG, PNG, GIF, WebP without animation and BMP of 24 bits without "
    "compression can be decoded here; convert it to PNG"
)

_KINDS = (b"\xff\xd8", b"\x89P", b"RI", b"GI", b"BM")
# Segments or blocks that are looked through for what comes before the pixels.
_MAX_SEGMENTS = 256
_EXIF = b"Exif\0\0"
_WHITE = 255


_HEAD = 41


def _template(expected: Mapping[int, bytes]) -> list[list[int]]:
    """[2, _HEAD]: the bytes expected from some positions on, and 255 for each that counts."""
    values, masks = [0] * _HEAD, [0] * _HEAD
    for at, part in expected.items():
        values[at : at + len(part)] = part
        masks[at : at + len(part)] = [255] * len(part)
    return [values, masks]


# First bytes of images of which TensorFlow's decoder alone makes the right pixels: JPEGs where they
# hold no EXIF, plain BMPs, and PNGs of 8 bits, gray or RGB, whose pixels follow at once.
# Nearly all are of these kinds, and are spared a walk through their segments.
_ORDINARY = np.array(
    [
        _template({0: b"\xff\xd8\xff"}),
        _template({0: b"BM", 14: b"\x28\0\0\0", 28: b"\x18\0\0\0\0\0"}),
        _template({0: b"\x89PNG\r\n\x1a\n", 24: b"\x08\0", 37: b"IDAT"}),
        _template({0: b"\x89PNG\r\n\x1a\n", 24: b"\x08\x02", 37: b"IDAT"}),
    ],
    np.uint8,
)
_VALUES, _MASKS = _ORDINARY[:, 0], _ORDINARY[:, 1]
_ONE, _FALSE = np.int64(1), np.bool_(False)


class Decoded(NamedTuple):
    """One image.

    Attributes:
      pixels: uint8 [H, W, 3], RGB, upright, on white.
      orientation: int64, that of EXIF by which `pixels` were turned, 1 where they were not.
      is_clear: bool, whether white was put under anything.
    """

    pixels: tf.Tensor
    orientation: tf.Tensor
    is_clear: tf.Tensor


def decode(encoded: tf.Tensor) -> Decoded:
    """Decode a scalar string, in a graph. Fails with InvalidArgumentError where it is no image."""
    head = tf.io.decode_raw(tf.strings.substr(encoded, 0, _HEAD), tf.uint8, fixed_length=_HEAD)
    is_known = tf.reduce_any(tf.reduce_all((head ^ _VALUES) & _MASKS == 0, axis=1))
    # The fastest way to look for some bytes.
    without_exif = tf.strings.regex_replace(encoded, "Exif\\x00\\x00", "", replace_global=False)
    is_ordinary = is_known & (tf.strings.length(without_exif) == tf.strings.length(encoded))
    pixels, orientation, is_clear = tf.cond(
        is_ordinary, lambda: _ordinary(encoded, 1), lambda: _examined(encoded, 1)
    )
    pixels.set_shape([None, None, 3])
    return Decoded(pixels, orientation, is_clear)


def decode_now(encoded: bytes, ratio: int = 1) -> Decoded:
    """The same at once: a few eager ops cost less than calling a graph.

    `ratio`, for JPEGs only, is 1, 2, 4 or 8: one pixel is made for so many in each direction.
    The file is read and checked to its end all the same; what libjpeg spares is the transforms.
    """
    head = np.frombuffer(encoded[:_HEAD].ljust(_HEAD, b"\0"), np.uint8)
    is_known = ((head ^ _VALUES) & _MASKS == 0).all(axis=1).any()
    is_ordinary = is_known and _EXIF not in encoded
    return Decoded(*(_ordinary if is_ordinary else _examined)(tf.constant(encoded), ratio))


# What each of the following returns: pixels, orientation, `is_clear`.
_Parts = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _ordinary(encoded: tf.Tensor, ratio: int) -> _Parts:
    return _image(encoded, 3, ratio), tf.constant(_ONE), tf.constant(_FALSE)


# Inlined, its two hundred ops would cost every ordinary image some microseconds each.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _examined(encoded: tf.Tensor, ratio: int) -> _Parts:
    # Two bytes that an ordinary image of each kind begins with; the decoders look at more of them.
    is_kind = tf.equal(tf.strings.substr(encoded, 0, 2), _KINDS)
    kind = tf.reduce_sum(tf.cast(is_kind, tf.int32) * tf.range(1, len(_KINDS) + 1)) - 1
    readers = (functools.partial(_jpeg, ratio=ratio), _png, _webp, _gif, _bmp)
    pixels, exif, is_clear = tf.switch_case(
        kind,
        [functools.partial(reader, encoded) for reader in readers],
        default=lambda: _refused(encoded),
    )
    orientation = tf.cond(exif > 0, lambda: _orientation(encoded, exif), lambda: tf.constant(_ONE))
    pixels = tf.cond(orientation > 1, lambda: _turned(pixels, orientation), lambda: pixels)
    return pixels, orientation, is_clear


# What a reader returns: pixels, position of EXIF's TIFF header or 0, `is_clear`.
_Read = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _jpeg(encoded: tf.Tensor, ratio: int) -> _Read:
    def is_passed(_: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
        is_application = (head[1] >= 0xE0) & (head[1] <= 0xEF) | (head[1] == 0xFE)
        return (head[0] == 0xFF) & is_application & ~is_exif(head)

    def step(at: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at += 2 + head[2] * 256 + head[3]
        return at, _bytes(encoded, at, 10)

    def is_exif(head: tf.Tensor) -> tf.Tensor:
        return (head[1] == 0xE1) & tf.reduce_all(head[4:] == list(_EXIF))

    start = _number(2)
    at, head = tf.while_loop(
        is_passed, step, (start, _bytes(encoded, start, 10)), maximum_iterations=_MAX_SEGMENTS
    )
    exif = tf.where(is_exif(head), at + 10, 0)
    return _image(encoded, 3, ratio), exif, _FALSE


def _png(encoded: tf.Tensor) -> _Read:
    exif, transparency = tf.unstack(_chunks(encoded, 8, (b"eXIf", b"tRNS"), is_webp=False))
    (color_type,) = tf.unstack(_bytes(encoded, 25, 1))
    # Asked for alpha where there is none, TensorFlow makes up a wrong one below 8 bits.
    has_alpha = (color_type >= 4) | (transparency > 0)
    pixels, is_clear = tf.cond(
        has_alpha,
        lambda: _on_white(_image(encoded, 4)),
        lambda: (_image(encoded, 3), _FALSE),
    )
    return pixels, exif, is_clear


def _webp(encoded: tf.Tensor) -> _Read:
    is_extended = tf.equal(_text(encoded, 12, 4), b"VP8X")
    is_animated = is_extended & (_bytes(encoded, 20, 1)[0] // 2 % 2 == 1)
    encoded = _accepted(encoded, ~is_animated)
    image = _image(encoded, 0)
    pixels, is_clear = tf.cond(
        tf.shape(image)[2] == 4, lambda: _on_white(image), lambda: (image, _FALSE)
    )
    (exif,) = tf.unstack(_chunks(encoded, 12, (b"EXIF",), is_webp=True))
    # Some writers keep the prefix that belongs into JPEGs.
    prefix = tf.where(tf.equal(_text(encoded, exif, 6), _EXIF), _number(6), 0)
    return pixels, tf.where(exif > 0, exif + prefix, 0), is_clear


def _gif(encoded: tf.Tensor) -> _Read:
    """The first frame on its canvas.

    TensorFlow makes a canvas as large as the largest frame, and leaves black what a frame does not
    cover or has transparent. So the frame's colour table and place are changed before.
    """
    screen = _bytes(encoded, 6, 5)
    frame, control = _first_frame(encoded, screen[4])
    head = _bytes(encoded, frame, 10)
    left, top, width, height = (head[at] + 256 * head[at + 1] for at in (1, 3, 5, 7))
    canvas = tf.stack([screen[2] + 256 * screen[3], screen[0] + 256 * screen[1]])
    flags, table = tf.unstack(
        tf.where(head[9] >= 128, [head[9], frame + 10], [screen[4], _number(13)])
    )
    options = _bytes(encoded, control, 7)
    index = tf.where((control > 0) & (options[3] % 2 == 1), options[6], -1)
    has_clear = (index >= 0) & (index < _table_size(flags))
    encoded = tf.cond(
        has_clear,
        lambda: _replaced(
            _replaced(encoded, control + 3, b"\0"), table + 3 * index, bytes([_WHITE] * 3)
        ),
        lambda: encoded,
    )
    encoded = _replaced(encoded, frame + 1, b"\0\0\0\0")
    image = _image(encoded, 3)[:height, :width]
    is_partial = tf.reduce_any(tf.stack([top + height, left + width]) < canvas)
    is_partial |= left + top > 0

    def on_canvas() -> tf.Tensor:
        seen = image[: canvas[0] - top, : canvas[1] - left]
        below, right = tf.unstack(canvas - [top, left] - tf.shape(seen, tf.int64)[:2])
        return tf.pad(seen, [[top, below], [left, right], [0, 0]], constant_values=_WHITE)

    is_inside = (top < canvas[0]) & (left < canvas[1])
    pixels = tf.cond(is_partial & is_inside, on_canvas, lambda: image)
    return pixels, _number(0), has_clear | is_partial


def _bmp(encoded: tf.Tensor) -> _Read:
    head = _bytes(encoded, 14, 20)
    is_plain = (head[0] >= 40) & (head[14] == 24) & tf.reduce_all(head[15:] == 0)
    return _image(_accepted(encoded, is_plain), 3), _number(0), _FALSE


def _refused(encoded: tf.Tensor) -> _Read:
    return _image(_accepted(encoded, _FALSE), 3), _number(0), _FALSE


def _image(encoded: tf.Tensor, channels: int, ratio: int = 1) -> tf.Tensor:
    if ratio > 1:
        return tf.io.decode_jpeg(encoded, channels=channels, ratio=ratio)
    image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
    image.set_shape([None, None, channels or None])
    return image


def _accepted(encoded: tf.Tensor, condition: tf.Tensor) -> tf.Tensor:
    """`encoded` where the condition holds; fails with `REFUSAL` in its message where not.

    An assertion would be run with the rest of a graph even where nobody asks for its images.
    """

    def refuse() -> tf.Tensor:
        message = tf.strings.join([REFUSAL, _text(encoded, 0, 0)])  # else it is folded, and logged
        return tf.strings.as_string(tf.strings.to_number(message))

    return tf.cond(condition, lambda: encoded, refuse)


def _on_white(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """RGB of uint8 [H, W, 4], and whether anything shone through."""
    color, alpha = image[..., :3], image[..., 3:]
    is_clear = tf.reduce_min(alpha) < 255

    def mixed() -> tf.Tensor:
        # 255 * 255 + 127 is the most that can come out, and fits 16 bits.
        weight = tf.cast(alpha, tf.uint16)
        total = tf.cast(color, tf.uint16) * weight + _WHITE * (255 - weight)
        return tf.cast((total + 127) // 255, tf.uint8)

    return tf.cond(is_clear, mixed, lambda: color), is_clear


def _turned(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """By EXIF: 2 mirror, 3 half turn, 4 flip, 5 transpose, 6 and 8 quarter turns, 7 transverse."""
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    is_reversed = [
        tf.reduce_any(orientation == [3, 4, 7, 8]),
        tf.reduce_any(orientation == [2, 3, 6, 7]),
    ]
    return tf.reverse(pixels, tf.boolean_mask([0, 1], is_reversed))


def _orientation(encoded: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """EXIF's tag 0x112 in the first directory of the TIFF that begins at `at`; 1 for nonsense."""
    head = _bytes(encoded, at, 8)

    def number(digits: tf.Tensor) -> tf.Tensor:
        ordered = tf.where(head[0] == ord("M"), digits, tf.reverse(digits, [-1]))
        weights = [256**power for power in reversed(range(digits.shape[-1]))]
        return tf.reduce_sum(ordered * tf.constant(weights, tf.int64), -1)

    directory = at + number(head[4:])
    size = 12 * tf.maximum(number(_bytes(encoded, directory, 2)), 1)
    entries = tf.reshape(_bytes(encoded, directory + 2, size), [-1, 12])
    is_it = (number(entries[:, :2]) == 0x112) & (number(entries[:, 2:4]) == 3)
    # Of several the last would win; -1 is for none.
    value = tf.reduce_max(tf.where(is_it, number(entries[:, 8:10]), -1))
    is_valid = (number(head[2:4]) == 42) & (value >= 2) & (value <= 8)
    return tf.where(is_valid, value, 1)


def _chunks(encoded: tf.Tensor, start: int, names: Sequence[bytes], *, is_webp: bool) -> tf.Tensor:
    """Where the data of the named chunks before a PNG's pixels, or in a WebP, begins; 0 for none.

    Both formats are lists of chunks. PNG: length, name, data, checksum; WebP: name, length, data,
    and a byte more where the length is odd.
    """

    def is_open(at: tf.Tensor, name: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        return (at < _length(encoded)) & (name != b"IDAT")

    def step(
        at: tf.Tensor, name: tf.Tensor, found: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        found = tf.where(tf.equal(name, names), at + 8, found)
        digits = _bytes(encoded, at + (4 if is_webp else 0), 4)
        weights = [256**power for power in (range(4) if is_webp else reversed(range(4)))]
        length = tf.reduce_sum(digits * tf.constant(weights, tf.int64))
        at += 8 + length + (length % 2 if is_webp else 4)
        return at, name_at(at), found

    def name_at(at: tf.Tensor) -> tf.Tensor:
        return _text(encoded, at + (0 if is_webp else 4), 4)

    first = _number(start)
    state = (first, name_at(first), tf.zeros([len(names)], tf.int64))
    return tf.while_loop(is_open, step, state, maximum_iterations=_MAX_SEGMENTS)[2]


def _first_frame(encoded: tf.Tensor, flags: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where a GIF's first image descriptor is, and the graphic control before it, 0 for none."""

    def is_open(
        _at: tf.Tensor, head: tf.Tensor, is_data: tf.Tensor, _control: tf.Tensor
    ) -> tf.Tensor:
        return is_data | (head[0] == 0x21)

    def step(
        at: tf.Tensor, head: tf.Tensor, is_data: tf.Tensor, control: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        control = tf.where(~is_data & (head[1] == 0xF9), at, control)
        # An extension is its two bytes, then parts that begin with their length, the last with 0.
        at += tf.where(is_data, 1 + head[0], 2)
        return at, _bytes(encoded, at, 2), ~is_data | (head[0] > 0), control

    start = 13 + tf.where(flags >= 128, 3 * _table_size(flags), 0)
    state = (start, _bytes(encoded, start, 2), _FALSE, _number(0))
    at, _, _, control = tf.while_loop(is_open, step, state, maximum_iterations=_MAX_SEGMENTS)
    return at, control


def _table_size(flags: tf.Tensor) -> tf.Tensor:
    """Colours in the table that the last bits of a GIF's `flags` describe."""
    return 2 ** (flags % 8 + 1)


def _replaced(encoded: tf.Tensor, at: tf.Tensor, new: bytes) -> tf.Tensor:
    """The bytes with those from `at` on replaced."""
    after = at + len(new)
    return tf.strings.join([_text(encoded, 0, at), new, _text(encoded, after, _length(encoded))])


def _number(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)


def _length(encoded: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(encoded), tf.int64)


def _text(encoded: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """`count` bytes from `at` on, fewer where the file ends."""
    at = tf.minimum(tf.cast(at, tf.int64), _length(encoded))
    return tf.strings.substr(encoded, at, tf.cast(count, tf.int64))


def _bytes(encoded: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """The same as int64 [count], zeros where the file ends."""
    fixed = tf.cast(count, tf.int32)
    raw = tf.io.decode_raw(_text(encoded, at, count), tf.uint8, fixed_length=fixed)
    return tf.cast(raw, tf.int64)
