"""Recognition of image files by their first bytes, without TensorFlow and Pillow.

The ingest and the model server check the size of an image with `header` before they decode it. It
reads JPEG as libjpeg does, and PNG as libpng does.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from components.exif import STANDALONE
from components.image_example_gen.files import Unusable
from components.servable import JPEG, PNG

ADVICE = "convert it to JPEG or PNG"

_HEAD = 4096  # bytes of a text file that are examined
_SIZE_FIELDS = struct.Struct(">BHHB")  # of a frame: bits, height, width, components
_FRAMES = {0xC0: "", 0xC1: "", 0xC2: "", 0xC3: "lossless"}
_FRAMES |= dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical")
_FRAMES |= {0xC9: "arithmetic-coded", 0xCA: "arithmetic-coded", 0xCB: "lossless"}
_FRAMES |= {0xF7: "JPEG-LS, lossless"}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}


class Header(NamedTuple):
    """The header of a JPEG or PNG.

    Attributes:
      format: "jpeg" or "png".
      width, height: pixels as stored, before EXIF orientation is applied.
      channels: 1 gray, 3 colour, 4 with alpha.
      is_cmyk: whether a JPEG has four colours.
      bits: of a channel.
    """

    format: str
    width: int
    height: int
    channels: int
    is_cmyk: bool
    bits: int


def header(data: bytes) -> Header | None:
    """Read the header of a JPEG or PNG; None for other data.

    Raises Unusable if it is incomplete, or of a variant that cannot be decoded.
    """
    if data.startswith(JPEG):
        return _jpeg(data)
    return _png(data) if data.startswith(PNG) else None


def _jpeg(data: bytes) -> Header:
    at, size = 2, len(data)
    while True:
        # As in libjpeg, bytes between segments are skipped.
        at = data.find(b"\xff", at)
        while 0 <= at < size and data[at] == 0xFF:
            at += 1
        if at < 0 or at + 3 > size:
            raise Unusable("damaged", "the JPEG ends before its size")
        marker = data[at]
        at += 1
        if marker in STANDALONE:
            continue
        if marker in (0xD8, 0xD9, 0xDA):
            raise Unusable("damaged", "the JPEG has no size before its pixels")
        if marker in _FRAMES:
            return _frame(data, at, _FRAMES[marker])
        at += max(2, data[at] << 8 | data[at + 1])


def _frame(data: bytes, at: int, variant: str) -> Header:
    try:
        bits, height, width, components = _SIZE_FIELDS.unpack_from(data, at + 2)
    except struct.error:
        raise Unusable("damaged", "the JPEG ends within its size") from None
    if bits != 8:
        variant = f"{bits}-bit"
    elif components not in (1, 3, 4):
        variant = f"{components}-component"
    if variant:
        raise Unusable(
            "unsupported", f"a JPEG of a rare kind ({variant}); convert it to baseline JPEG or PNG"
        )
    if not width or not height:
        raise Unusable("damaged", f"the JPEG has {width} x {height} pixels")
    return Header("jpeg", width, height, 1 if components == 1 else 3, components == 4, bits)


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise Unusable("damaged", "the PNG has no header chunk")
    width, height, bits, color_type = struct.unpack_from(">IIBB", data, 16)
    channels = _PNG_CHANNELS.get(color_type, 0)
    if not channels or not width or not height:
        raise Unusable(
            "damaged", f"the PNG has {width} x {height} pixels of colour type {color_type}"
        )
    pixels = data.find(b"IDAT")
    return Header("png", width, height, 4 if b"tRNS" in data[33:pixels] else channels, False, bits)


_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"crx ": "a camera's raw file",
    b"jp2 ": "JPEG 2000",
    b"jxl ": "JPEG XL",
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"), "HEIC"),
    **dict.fromkeys((b"mif1", b"msf1", b"miaf"), "HEIF"),
}
_RAW = "a camera's raw file"
_VIDEO = "a video"
# The first match counts.
_KNOWN = [
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"GIF8[79]a", "GIF"),
        (rb"RIFF....WEBP", "WebP"),
        (rb"RIFF....AVI ", _VIDEO),
        (rb"II\*\0....CR|IIU\0|IIR[OS]|MMOR|FUJIFILMCCD-RAW|FOVb|\0MRM", _RAW),
        (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
        (rb"P[1-6][\s#]", "PPM, PGM or PBM"),
        (rb"P7\n", "PAM"),
        (rb"P[Ff]\n", "PFM"),
        (rb"qoif", "QOI"),
        (rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]", "PCX"),
        (rb"\x00\x00[\x01\x02]\x00(?!\x00\x00)", "ICO"),
        (rb"8BPS", "Photoshop's PSD"),
        (rb"gimp xcf", "GIMP's XCF"),
        (rb"%PDF", "PDF"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
        (rb"\x76\x2f\x31\x01", "OpenEXR"),
        (rb"#\?(RADIANCE|RGBE)", "Radiance HDR"),
        (rb"DDS ", "DDS"),
        (rb"icns", "ICNS"),
        (rb"SIMPLE  =", "FITS"),
        (rb".{128}DICM", "DICOM"),
        (rb"PK\x03\x04", "a zip archive"),
        (rb"\x1f\x8b", "a gzip archive"),
        (rb"\x1a\x45\xdf\xa3", _VIDEO),
        (rb"version https://git-lfs", "a pointer of Git LFS: run git lfs pull, or"),
    )
]
_TARGA_FOOTER = b"TRUEVISION-XFILE.\0"
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body")


def known(data: bytes) -> str:
    """Name the format of data that is neither JPEG nor PNG, "" if unknown."""
    if data[4:8] == b"ftyp":
        size = min(max(8, int.from_bytes(data[:4], "big")), 256)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
        # AVIF and HEIC also contain the brand of the family, which comes last in _BRANDS.
        return next((name for brand, name in _BRANDS.items() if brand in brands), _VIDEO)
    for pattern, name in _KNOWN:
        if pattern.match(data):
            return name
    return _text(data[:_HEAD]) or _targa(data)


def _text(head: bytes) -> str:
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head.startswith(b"<"):
        return ""
    if head.startswith(_PAGES):
        return "a web page"
    return "SVG" if b"<svg" in head else "XML"


def _targa(data: bytes) -> str:
    """Recognise TGA by its footer or all fields of its header, as it has no magic number."""
    if data.endswith(_TARGA_FOOTER):
        return "TGA"
    if len(data) < 18:
        return ""
    has_map, kind, map_bits, bits = data[1], data[2], data[7], data[16]
    width, height = struct.unpack_from("<HH", data, 12)
    is_mapped = kind in (1, 9) and has_map == 1 and map_bits in (15, 16, 24, 32) and bits == 8
    is_plain = kind in (2, 3, 10, 11) and has_map == 0 and bits in (8, 15, 16, 24, 32)
    is_plain = is_plain and not any(data[3:8])
    return "TGA" if (is_mapped or is_plain) and width and height and not data[17] & 0xC0 else ""
