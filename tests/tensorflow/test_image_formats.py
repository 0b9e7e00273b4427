"""Image files: their names, that all parsers agree on them, and what reading them costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components import decoding
from components.image_example_gen import formats, tiff
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import read_image
from tests import REPO
from tests.kit import image_corpus as corpus
from tests.kit.bombs import BOMBS
from tests.kit.orientations import IN_JPEG

MAX_PIXELS = 100_000_000


class TestNames:
    """What nothing here can read is named, with what to do."""

    def files(self) -> Iterator[tuple[str, bytes]]:
        image = corpus.picture(1)
        for name, image_format in (
            ("PPM", "PPM"),
            ("TGA", "TGA"),
            ("PCX", "PCX"),
            ("JPEG 2000", "JPEG2000"),
            ("ICO", "ICO"),
            ("AVIF", "AVIF"),
            ("DDS", "DDS"),
            ("PostScript", "EPS"),
            ("PDF", "PDF"),
        ):
            yield name, corpus.encoded(image, image_format)
        yield "TGA", corpus.encoded(image, "TGA", compression="tga_rle")[:-26]
        yield "QOI", b"qoif\0\0\0\x08\0\0\0\x08\3\0"
        yield "HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
        yield "AVIF", b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1"
        yield "JPEG XL", b"\xff\x0a\x08\x10"
        yield "JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"
        svg = (
            b'<?xml version="1.0"?><!-- made --><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x">'
        )
        yield "SVG", svg + b'<svg xmlns="http://www.w3.org/2000/svg"/>'
        yield "a web page", b"\xef\xbb\xbf<!DOCTYPE HTML><html></html>"
        yield "12-bit", corpus.jpeg_of_kind(1, 0xC1, 12)
        yield "lossless", corpus.jpeg_of_kind(1, 0xC3, 8)
        yield "arithmetic-coded", corpus.jpeg_of_kind(1, 0xC9, 8)
        yield "raw file", corpus.camera_raw(1)
        yield "raw file", b"II*\0\x10\0\0\0CR\2\0" + bytes(100)
        yield "a video", b"\0\0\0\x18ftypisom\0\0\0\0isomavc1"

    def test_are_told_with_what_to_do(self) -> None:
        for name, data in self.files():
            with pytest.raises(Unusable) as caught:
                read_image(data, MAX_PIXELS)
            assert caught.value.kind == "unsupported", name
            assert name in caught.value.detail
            assert re.search(r"\b(convert|export) ", caught.value.detail)

    def test_images_are_not_taken_for_anything_else(self) -> None:
        for name, (content, _) in corpus.VALID.items():
            data = content(2)
            expected = {".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WebP"}
            suffix = "." + name.lower().rpartition(".")[2]
            assert formats.known(data) == expected.get(suffix, "")


def test_headers_are_read_as_the_decoder_reads_them() -> None:
    """Else a file could be small for the limit and huge for the decoder."""
    rng = np.random.default_rng(0)
    sources = [
        corpus.make("JPEG", 1),
        corpus.make("JPEG", 2, progressive=True),
        IN_JPEG["after fill bytes"](6),
    ]
    sources += [
        corpus.make("PNG", 1),
        corpus.make("PNG", 2, "RGBA"),
        IN_JPEG["after a restart marker"](6),
    ]
    agreed = 0
    for _ in range(3000):
        data = bytearray(sources[rng.integers(len(sources))])
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(2, 250)
            if rng.random() < 0.3:
                data[at:at] = bytes([0xFF, rng.integers(256)])
            data[at] = rng.choice(np.array([0xFF, 0, rng.integers(256)]))
        try:
            decoded = decoding.decode_now(bytes(data)).pixels.shape[:2]
        except tf.errors.InvalidArgumentError:
            continue
        header = formats.header(bytes(data))
        assert header is not None
        assert sorted(decoded) == sorted((header.height, header.width))
        agreed += 1
    assert agreed > 300


class _Hiding:
    """A library that is there and hides its functions, as static builds do."""

    def __getattr__(self, name: str) -> None:
        raise AttributeError(name)


def _missing(_name: str) -> None:
    raise OSError("cannot open shared object file")


@pytest.mark.parametrize("library", [_missing, lambda _name: _Hiding()])
def test_a_pillow_whose_libtiff_cannot_be_called_refuses_what_it_cannot_check(
    library: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good file must not be told damaged; one that needs no libtiff is read all the same."""
    monkeypatch.setattr(tiff, "_libtiff", tiff._libtiff.__wrapped__)
    monkeypatch.setattr("ctypes.CDLL", library)
    for compression in ("tiff_lzw", "group4", "jpeg", "tiff_adobe_deflate"):
        mode = "1" if compression == "group4" else "RGB"
        with pytest.raises(Unusable, match=r"convert .*PNG") as caught:
            read_image(corpus.make("TIFF", 1, mode, compression=compression), MAX_PIXELS)
        assert caught.value.kind == "unsupported"
    assert read_image(corpus.make("TIFF", 1), MAX_PIXELS).normalized == "tiff"


def run(module: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", module],
        cwd=REPO,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout


def test_damaged_files_are_read_the_same_whatever_is_in_memory() -> None:
    """What libtiff could not decode it as it was in memory; malloc fills that here."""
    first, second = (run("tests.kit.readings", MALLOC_PERTURB_=value) for value in ("1", "170"))
    lines = first.splitlines()
    assert lines == second.splitlines()
    kinds = Counter(line.rpartition(" ")[2] for line in lines)
    assert kinds["damaged"] > 100
    assert len(kinds) > 100  # and many are accepted


def test_no_small_file_takes_much_memory() -> None:
    peaks = json.loads(run("tests.kit.bombs"))
    assert peaks.keys() == BOMBS.keys()
    # The limit of a million pixels is 3 MB; a damaged image may be read twice and blended.
    assert {name: peak for name, peak in peaks.items() if peak > 100} == {}
