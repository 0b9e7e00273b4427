"""Check of a TIFF before Pillow reads it, as Pillow discards libtiff's warnings.

For damaged fax and JPEG data libtiff warns, and leaves parts of the image uninitialized: Pillow's
pixels can differ between two readings. Here the libtiff that Pillow is linked to decodes the image
first, with handlers for its warnings.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from typing import Any

from PIL import TiffImagePlugin, _imaging

from components.image_example_gen.files import Unusable

_SUBFILE_TYPE, _COMPRESSION, _PHOTOMETRIC = 254, 259, 262
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_DNG_VERSION = 50706
_SENSOR = (32803, 34892)  # values of `_PHOTOMETRIC`: a colour filter array, and linear raw
_REDUCED = 1  # bit of `_SUBFILE_TYPE`
_NONE = 1  # value of `_COMPRESSION`
_LONGEST = 200  # characters of a warning

# int handler(TIFF*, void* user_data, const char* module, const char* format, va_list)
_Handler = ctypes.CFUNCTYPE(
    ctypes.c_int, *[ctypes.c_void_p] * 2, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p
)


def check(data: bytes, image: TiffImagePlugin.TiffImageFile, max_pixels: int) -> None:
    """Raise Unusable if the first page is a thumbnail, too large, or damaged.

    Args:
      data: the file.
      image: the opened file; its pixels are not read.
      max_pixels: of the image and of each tile.
    """
    tags = image.tag_v2
    is_raw = _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _SENSOR
    if is_raw or int(tags.get(_SUBFILE_TYPE, 0)) & _REDUCED:
        raise Unusable(
            "unsupported",
            "a camera's raw file, or another TIFF that begins with a thumbnail; "
            "export the image as JPEG or PNG",
        )
    tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
    if tile > max_pixels:
        raise Unusable("too large", f"tiles of {tile:,} pixels, data.max_pixels = {max_pixels:,}")
    # Pillow reads uncompressed data itself, and notices if some is missing.
    if int(tags.get(_COMPRESSION, _NONE)) == _NONE:
        return
    library = _libtiff()
    if library is None:
        raise Unusable(
            "unsupported",
            "a compressed TIFF, which the libtiff of this Pillow cannot check; convert it to PNG, "
            "or install Pillow from its own wheel",
        )
    if complaint := _complaint(library, data):
        raise Unusable("damaged", complaint)


def _complaint(library: ctypes.CDLL, data: bytes) -> str:
    """Decode the first page and return libtiff's first warning, "" for none."""
    complaints: list[str] = []
    is_open = False

    def note(_tiff: int, _data: int, module: bytes, form: bytes, arguments: int) -> int:
        # While it opens the file, libtiff also warns about unknown tags.
        if is_open:
            text = ctypes.create_string_buffer(_LONGEST)
            _c_library().vsnprintf(text, _LONGEST, form, ctypes.c_void_p(arguments))
            name = (module or b"").decode(errors="replace")
            complaints.append(f"{name}: {text.value.decode(errors='replace')}")
        return 1  # handled: the process's handlers are not called

    handler = _Handler(note)
    with _descriptor(data) as descriptor, _options(library, handler) as options:
        own = os.dup(descriptor)
        handle = library.TIFFFdOpenExt(own, b"", b"r", options)
        if not handle:
            os.close(own)
            return "libtiff cannot open it"
        try:
            is_open = True
            _decode(library, handle, complaints)
        finally:
            library.TIFFClose(handle)
    return complaints[0] if complaints else ""


def _decode(library: ctypes.CDLL, handle: int, complaints: list[str]) -> None:
    """Decode strips or tiles up to the first warning."""
    is_tiled = library.TIFFIsTiled(handle)
    kind = "Tile" if is_tiled else "Strip"
    size = getattr(library, f"TIFF{kind}Size")(handle)
    if size <= 0:
        complaints.append(f"its {kind.lower()}s have no size")
        return
    buffer = ctypes.create_string_buffer(size)
    read = getattr(library, f"TIFFReadEncoded{kind}")
    for index in range(getattr(library, f"TIFFNumberOf{kind}s")(handle)):
        if read(handle, index, buffer, size) < 0 and not complaints:
            complaints.append(f"{kind.lower()} {index} cannot be decoded")
        if complaints:
            return


@contextlib.contextmanager
def _descriptor(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("image")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _options(library: ctypes.CDLL, handler: Any) -> Iterator[int]:
    options = library.TIFFOpenOptionsAlloc()
    try:
        library.TIFFOpenOptionsSetErrorHandlerExtR(options, handler, None)
        library.TIFFOpenOptionsSetWarningHandlerExtR(options, handler, None)
        yield options
    finally:
        library.TIFFOpenOptionsFree(options)


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@functools.cache
def _libtiff() -> ctypes.CDLL | None:
    """Load libtiff through Pillow's extension, which is linked to it.

    Returns None if Pillow was built without libtiff, with hidden functions, or with libtiff < 4.5.
    """
    try:
        return _declared(ctypes.CDLL(_imaging.__file__))
    except (OSError, AttributeError):
        return None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the types of the functions. Raises AttributeError if one is missing."""
    pointer, number, size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_ssize_t
    integer, text = ctypes.c_int, ctypes.c_char_p
    prototypes: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "TIFFOpenOptionsAlloc": (pointer, ()),
        "TIFFOpenOptionsFree": (None, (pointer,)),
        "TIFFOpenOptionsSetErrorHandlerExtR": (None, (pointer, _Handler, pointer)),
        "TIFFOpenOptionsSetWarningHandlerExtR": (None, (pointer, _Handler, pointer)),
        "TIFFFdOpenExt": (pointer, (integer, text, text, pointer)),
        "TIFFClose": (None, (pointer,)),
        "TIFFIsTiled": (integer, (pointer,)),
        "TIFFTileSize": (size, (pointer,)),
        "TIFFStripSize": (size, (pointer,)),
        "TIFFNumberOfTiles": (number, (pointer,)),
        "TIFFNumberOfStrips": (number, (pointer,)),
        "TIFFReadEncodedTile": (size, (pointer, number, pointer, size)),
        "TIFFReadEncodedStrip": (size, (pointer, number, pointer, size)),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
