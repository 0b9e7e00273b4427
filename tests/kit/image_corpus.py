"""A folder of the images that people have, and what should become of each."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 48, 32

# A file's fate: "example:<what was changed>", "duplicate" or "quarantined:<kind>".
Fates = dict[str, str]


def pixels(seed: int, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """Smooth shapes, different for every seed; uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    """Return an image in one of Pillow's modes; alpha goes from clear to opaque."""
    image = Image.fromarray(pixels(seed))
    alpha = Image.linear_gradient("L").resize(image.size)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256 + seed)
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(alpha)
        return image
    if mode == "P":
        return image.quantize(64)
    return image.convert(mode)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def make(image_format: str, seed: int, mode: str = "RGB", **options: Any) -> bytes:
    return encoded(picture(seed, mode), image_format, **options)


def oriented(orientation: int, seed: int, image_format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return make(image_format, seed, exif=exif.tobytes())


def png(ihdr: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of the given chunks."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in [(b"IHDR", ihdr), *chunks, (b"IEND", b"")]:
        parts += [struct.pack(">I", len(data)), name, data]
        parts.append(struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(parts)


def png_16_bit_rgb(seed: int) -> bytes:
    rows = pixels(seed).astype(">u2") * 257
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    return png(header, (b"IDAT", zlib.compress(raw)))


def png_color_key(seed: int) -> bytes:
    """Make the colour of the first pixel transparent."""
    image = pixels(seed)
    raw = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    key = struct.pack(">HHH", *image[0, 0].tolist())
    return png(header, (b"tRNS", key), (b"IDAT", zlib.compress(raw)))


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """Return a few bytes that declare a huge PNG."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png(header, (b"IDAT", zlib.compress(b"\0" * 1000)))


def gif_partial_first_frame(seed: int) -> bytes:
    """Return a GIF whose first frame covers only the middle of the canvas."""
    data = bytearray(make("GIF", seed, "P"))
    data[6:10] = struct.pack("<HH", WIDTH + 8, HEIGHT + 8)
    at = data.index(b"," + struct.pack("<HHHH", 0, 0, WIDTH, HEIGHT))
    data[at + 1 : at + 5] = struct.pack("<HH", 5, 3)
    return bytes(data)


def gif_local_palette(seed: int) -> bytes:
    """With a comment of several parts, a colour table of its own and a transparent colour."""
    image = picture(seed, "P")
    return encoded(image, "GIF", include_color_table=True, transparency=4, comment=b"c" * 700)


def bmp_version_5(seed: int) -> bytes:
    """With the longest of headers, 124 bytes."""
    plain = make("BMP", seed)
    header = struct.pack("<I", 124) + plain[18:54] + b"BGRs".rjust(20, b"\0") + bytes(64)
    size = struct.pack("<IHHI", len(plain) + 84, 0, 0, 14 + len(header))
    return b"BM" + size + header + plain[54:]


def turned_little_endian(seed: int) -> bytes:
    """Return EXIF with a quarter turn after other tags, as phones write it."""
    tags = [(0x010F, 2, 4, b"Cam\0"), (0x0112, 3, 1, b"\x06\0\0\0"), (0x0128, 3, 1, b"\2\0\0\0")]
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    return make("JPEG", seed, exif=exif)


def turned_after_profile(seed: int) -> bytes:
    """EXIF is behind a comment and a colour profile as long as a segment can be."""
    data = oriented(8, seed)
    at = data.index(b"\xff\xe1")
    profile = b"ICC_PROFILE\0\1\1".ljust(65_533, b"\xff")
    comment = b"\xff\xfe\0\x09comment"
    return data[:at] + comment + b"\xff\xe2\xff\xff" + profile + data[at:]


def jpeg_of_kind(seed: int, marker: int, bits: int) -> bytes:
    """Return a JPEG with another kind of frame in its header."""
    data = make("JPEG", seed)
    at = data.index(b"\xff\xc0")
    return (
        data[:at] + bytes([0xFF, marker]) + data[at + 2 : at + 4] + bytes([bits]) + data[at + 5 :]
    )


def camera_raw(seed: int) -> bytes:
    """Return a TIFF that begins with a thumbnail, as cameras write it."""
    return make("TIFF", seed, tiffinfo={254: 1})


def bmp_rle(seed: int) -> bytes:
    """Run-length encoded: each row one run of one palette index."""
    rows = b"".join(bytes([WIDTH, (seed + row) % 256, 0, 0]) for row in range(HEIGHT)) + b"\0\1"
    palette = b"".join(bytes([index, 255 - index, seed % 256, 0]) for index in range(256))
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(rows), 2835, 2835, 256, 256)
    header = struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset)
    return header + info + palette + rows


def animation(image_format: str, seed: int) -> bytes:
    frames = [picture(seed + index, "RGB") for index in range(3)]
    return encoded(frames[0], image_format, save_all=True, append_images=frames[1:])


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def truncated(image_format: str, seed: int) -> bytes:
    return half(make(image_format, seed))


VALID: dict[str, tuple[Callable[[int], bytes], str]] = {
    "baseline.jpg": (lambda n: make("JPEG", n), "none"),
    "progressive.jpg": (lambda n: make("JPEG", n, progressive=True), "none"),
    "gray.jpeg": (lambda n: make("JPEG", n, "L"), "none"),
    "444.jpe": (lambda n: make("JPEG", n, subsampling=0, quality=100), "none"),
    "cmyk.jpg": (lambda n: make("JPEG", n, "CMYK"), "cmyk"),
    "upright.jpg": (lambda n: oriented(1, n), "none"),
    **{f"turned {k}.jpg": (partial(oriented, k), "orientation") for k in range(2, 9)},
    "nonsense orientation.jpg": (lambda n: oriented(77, n), "none"),
    "broken exif.jpg": (lambda n: make("JPEG", n, exif=b"Exif\0\0MM\0*\0\0\0\xff\xff"), "none"),
    "trailing rubbish.jpg": (lambda n: make("JPEG", n) + b"\0" * 100 + b"rubbish", "none"),
    "UPPER.JPG": (lambda n: make("JPEG", n), "none"),
    "photo.jfif": (lambda n: make("JPEG", n), "none"),
    "two pictures.jpg": (lambda n: animation("MPO", n), "none"),
    "rgb.png": (lambda n: make("PNG", n), "none"),
    "gray.png": (lambda n: make("PNG", n, "L"), "none"),
    "bilevel.png": (lambda n: make("PNG", n, "1"), "none"),
    "palette.png": (lambda n: make("PNG", n, "P"), "none"),
    "alpha.png": (lambda n: make("PNG", n, "RGBA"), "alpha"),
    "opaque alpha.png": (lambda n: encoded(picture(n).convert("RGBA"), "PNG"), "none"),
    "gray alpha.png": (lambda n: make("PNG", n, "LA"), "alpha"),
    "transparent palette.png": (lambda n: make("PNG", n, "P", transparency=3), "alpha"),
    "colour key.png": (png_color_key, "alpha"),
    "gray 16 bit.png": (lambda n: make("PNG", n, "I;16"), "16-bit"),
    "rgb 16 bit.png": (png_16_bit_rgb, "16-bit"),
    "turned.png": (lambda n: oriented(6, n, "PNG"), "orientation"),
    "2 bit palette.png": (lambda n: encoded(picture(n).quantize(4), "PNG", bits=2), "none"),
    "little endian turned.jpg": (turned_little_endian, "orientation"),
    "photo with profile.jpg": (turned_after_profile, "orientation"),
    "animated.png": (lambda n: animation("PNG", n), "none"),
    "still.gif": (lambda n: make("GIF", n, "P"), "gif"),
    "animated.gif": (lambda n: animation("GIF", n), "gif"),
    "transparent.gif": (lambda n: make("GIF", n, "P", transparency=3), "gif"),
    "partial.gif": (gif_partial_first_frame, "gif"),
    "local palette.gif": (gif_local_palette, "gif"),
    "rgb.bmp": (lambda n: make("BMP", n), "bmp"),
    "version 5.bmp": (bmp_version_5, "bmp"),
    "palette.bmp": (lambda n: make("BMP", n, "P"), "bmp"),
    "gray.bmp": (lambda n: make("BMP", n, "L"), "bmp"),
    "bilevel.bmp": (lambda n: make("BMP", n, "1"), "bmp"),
    "alpha.bmp": (lambda n: make("BMP", n, "RGBA"), "bmp"),
    "rle.bmp": (bmp_rle, "bmp"),
    "lossy.webp": (lambda n: make("WEBP", n), "webp"),
    "lossless.webp": (lambda n: make("WEBP", n, lossless=True), "webp"),
    "alpha.webp": (lambda n: make("WEBP", n, "RGBA"), "webp"),
    "turned.webp": (lambda n: oriented(6, n, "WEBP"), "webp"),
    "animated.webp": (lambda n: animation("WEBP", n), "webp"),
    "plain.tif": (lambda n: make("TIFF", n), "tiff"),
    "lzw.TIFF": (lambda n: make("TIFF", n, compression="tiff_lzw"), "tiff"),
    "deflate.tiff": (lambda n: make("TIFF", n, compression="tiff_adobe_deflate"), "tiff"),
    "jpeg.tiff": (lambda n: make("TIFF", n, compression="jpeg"), "tiff"),
    "fax.tiff": (lambda n: make("TIFF", n, "1", compression="group4"), "tiff"),
    "16 bit.tiff": (lambda n: make("TIFF", n, "I;16"), "tiff"),
    "cmyk.tiff": (lambda n: make("TIFF", n, "CMYK"), "tiff"),
    "alpha.tiff": (lambda n: make("TIFF", n, "RGBA"), "tiff"),
    "turned.tiff": (lambda n: oriented(6, n, "TIFF"), "tiff"),
    "pages.tiff": (lambda n: animation("TIFF", n), "tiff"),
    "a png.jpg": (lambda n: make("PNG", n), "none"),
    "no extension": (lambda n: make("JPEG", n), "none"),
    "numbers.123": (lambda n: make("PNG", n), "none"),
    " spaces  all over .png": (lambda n: make("PNG", n), "none"),
    "-rf.png": (lambda n: make("PNG", n), "none"),
    "quote'\"`$(id).png": (lambda n: make("PNG", n), "none"),
    "line\nbreak.png": (lambda n: make("PNG", n), "none"),
    "Katze 猫 🐈 قط é.png": (lambda n: make("PNG", n), "none"),
    f"{'ö' * 120}.png": (lambda n: make("PNG", n), "none"),
    f"{'x' * 251}.png": (lambda n: make("PNG", n), "none"),
    "deep/er/est/nested.png": (lambda n: make("PNG", n), "none"),
    "one pixel.png": (lambda n: encoded(Image.new("RGB", (1, 1), (n, 0, 0)), "PNG"), "none"),
    "panorama.jpg": (lambda n: encoded(Image.new("RGB", (900, 9), (n, 9, 9)), "JPEG"), "none"),
}

BROKEN: dict[str, tuple[Callable[[int], bytes], str]] = {
    "empty.jpg": (lambda n: b"", "empty"),
    "empty too.png": (lambda n: b"", "empty"),
    "text.jpg": (lambda n: b"this is no picture %d" % n, "not an image"),
    "page.jpg": (lambda n: b"<!DOCTYPE html><html>%d 404</html>" % n, "unsupported"),
    "drawing.svg": (
        lambda n: b"<svg xmlns='http://www.w3.org/2000/svg' id='%d'/>" % n,
        "unsupported",
    ),
    "phone.heic": (lambda n: b"\0\0\0\x18ftypheic\0\0\0\0%d" % n, "unsupported"),
    "12 bits.jpg": (lambda n: jpeg_of_kind(n, 0xC1, 12), "unsupported"),
    "lossless.jpg": (lambda n: jpeg_of_kind(n, 0xC3, 8), "unsupported"),
    "raw.nef": (camera_raw, "unsupported"),
    "noise.png": (lambda n: np.random.default_rng(n).bytes(2000), "not an image"),
    "header only.jpg": (lambda n: make("JPEG", n)[:200], "damaged"),
    "bomb.png": (lambda n: bomb(60_000 + n), "too large"),
    "float.tiff": (lambda n: encoded(picture(n, "F"), "TIFF"), "unsupported"),
    "wrong checksum.png": (lambda n: _flipped(make("PNG", n), 60), "damaged"),
    **{
        f"truncated.{kind.lower()}": (partial(truncated, kind), "damaged")
        for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
    },
    "truncated progressive.jpg": (lambda n: half(make("JPEG", n, progressive=True)), "damaged"),
    "without an end.jpg": (lambda n: make("JPEG", n)[:-2], "damaged"),
}


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def stored(name: str) -> str:
    """Return the name of a file of the corpus in examples and the accounting."""
    return name.replace("\n", "\\n")


def files(root: Path) -> dict[str, Path]:
    """Each file below `root` by its stored name."""
    return {stored(str(path.relative_to(root))): path for path in root.rglob("*")}


def write(root: Path) -> Fates:
    """Write the corpus below `root`, two classes; the fate of each input by its stored name."""
    fates: Fates = {}
    for seed, (name, content, fate) in enumerate(_files()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(seed))
        fates[stored(name)] = fate
    _add_copies(root, fates)
    _add_links(root, fates)
    _add_what_is_no_input(root)
    return fates


def _files() -> Iterator[tuple[str, Callable[[int], bytes], str]]:
    for name, (content, change) in VALID.items():
        yield f"cat/{name}", content, f"example:{change}"
    for name, (content, kind) in BROKEN.items():
        yield f"dog/{name}", content, f"quarantined:{kind}"
    # Enough to find each class in each split.
    for index in range(60):
        for label in ("cat", "dog"):
            yield f"{label}/plain/{index}.png", lambda n: make("PNG", n), "example:none"
    yield "stray.png", lambda n: make("PNG", n), "quarantined:no class"


def _add_copies(root: Path, fates: Fates) -> None:
    (root / "dog" / "z copy.png").write_bytes((root / "dog" / "plain" / "0.png").read_bytes())
    os.link(root / "dog" / "plain" / "1.png", root / "dog" / "z hard link.png")
    fates |= {"dog/z copy.png": "duplicate", "dog/z hard link.png": "duplicate"}
    both = make("PNG", 5000)
    for label in ("cat", "dog"):
        (root / label / "both.png").write_bytes(both)
        fates[f"{label}/both.png"] = "quarantined:conflict"
    broken = BROKEN["truncated.png"][0](6000)
    for name in ("dog/broken.png", "dog/broken too.png"):
        (root / name).write_bytes(broken)
        fates[name] = "quarantined:damaged"


def _add_links(root: Path, fates: Fates) -> None:
    outside = root.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret.png").write_bytes(make("PNG", 7000))
    links = {
        "dog/z link.png": ("plain/2.png", "duplicate"),
        "dog/link out.png": ("../../outside/secret.png", "quarantined:link"),
        "dog/folder out": (str(outside), "quarantined:link"),
        "dog/zero.png": ("/dev/zero", "quarantined:link"),
        "dog/dangling.png": ("nowhere.png", "quarantined:link"),
        "dog/self.png": ("self.png", "quarantined:link"),
        "dog/loop": (".", "quarantined:link"),
        "cat/deep/up": ("../..", "quarantined:link"),
    }
    for name, (target, fate) in links.items():
        (root / name).symlink_to(target)
        fates[name] = fate


def _add_what_is_no_input(root: Path) -> None:
    (root / "README.md").write_text("# Pets\n")
    (root / "cat" / "notes.txt").write_text("meow")
    (root / "cat" / ".hidden.png").write_bytes(make("PNG", 8000))
    (root / "cat" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / ".git").mkdir()
    (root / ".git" / "x.png").write_bytes(make("PNG", 8001))
    (root / "cat" / "nothing" / "in" / "here").mkdir(parents=True)
    (root / "bird").mkdir()
    os.mkfifo(root / "cat" / "pipe.png")
    listener = socket.socket(socket.AF_UNIX)
    folder = Path.cwd()
    os.chdir(root)  # a socket's path is at most 108 bytes long
    try:
        listener.bind("cat/socket.png")
    finally:
        os.chdir(folder)
        listener.close()
