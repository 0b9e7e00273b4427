"""What of this host decides whether .venv can be built and run on it.

Only the standard library is used, because pipeline/bootstrap.py imports this before anything is
installed.
"""

from __future__ import annotations

import ctypes.util
import dataclasses
import mmap
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PYTHON = (3, 11)
# The needs of the wheels, from their ELF version sections.
GLIBC = (2, 38)
LIBSTDCXX_SYMBOLS = ("GLIBCXX_3.4.32", "CXXABI_1.3.15")
NEEDED_BYTES = 5 * 10**9  # .venv takes 4 GB, and archives are unpacked beside it
# First release of each distribution that carries both, and the keys that sign its archive.
NEWER_RELEASE = {
    "debian": (("trixie",), Path("/usr/share/keyrings/debian-archive-keyring.gpg")),
    # Ubuntu puts security fixes in a suite of their own, Debian folds them into the release.
    "ubuntu": (("noble", "noble-updates"), Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")),
}
USE_CONTAINER = "use a container of Debian 13, Ubuntu 24.04 or newer that has Python 3.11"


class BootstrapError(Exception):
    """A reason why .venv cannot be built here, and what to do about it, in one line."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclasses.dataclass(frozen=True)
class Host:
    """Properties of this machine. `missing` names the libstdc++ symbols that it lacks."""

    system: str
    machine: str
    python: tuple[int, int]
    glibc: tuple[int, int] | None
    libstdcxx: str | None
    missing: tuple[str, ...]
    distribution: str
    codename: str

    @property
    def lacking(self) -> str:
        """The needs of the native wheels that this host does not meet, in words; "" for none."""
        parts = []
        if self.glibc is None or self.glibc < GLIBC:
            found = dotted(self.glibc) if self.glibc else "none"
            parts.append(f"glibc {dotted(GLIBC)} (found {found})")
        if self.missing:
            parts.append(f"GCC 14's libstdc++ ({', '.join(self.missing)})")
        return " and ".join(parts)


def inspect_host() -> Host:
    """Look at the running interpreter's C library and at the libstdc++ that it would load."""
    libstdcxx = _find_libstdcxx()
    release = _os_release()
    return Host(
        system=platform.system(),
        machine=platform.machine(),
        python=sys.version_info[:2],
        glibc=glibc_version(),
        libstdcxx=libstdcxx,
        missing=tuple(_missing_symbols(libstdcxx)),
        distribution=release.get("ID", "unknown"),
        codename=release.get("VERSION_CODENAME", ""),
    )


def dotted(version: tuple[int, ...]) -> str:
    """Write (2, 38) as "2.38"."""
    return ".".join(map(str, version))


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:  # not Linux, or a Linux without the file
        return {}


def glibc_version() -> tuple[int, int] | None:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # musl, macOS and Windows know no such name
        return None
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", text)
    return (int(found[1]), int(found[2])) if found else None


def _find_libstdcxx() -> str | None:
    """Return the libstdc++ that the dynamic loader picks, which may be .venv's private copy."""
    try:
        ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return None
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libstdc++.so.6" in line:
            return line.split(maxsplit=5)[5]
    return ctypes.util.find_library("stdc++")


def _missing_symbols(library: str | None) -> Iterator[str]:
    if library is None:
        yield from LIBSTDCXX_SYMBOLS
        return
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        for symbol in LIBSTDCXX_SYMBOLS:
            if data.find(symbol.encode() + b"\0") < 0:
                yield symbol


def check_python(version: tuple[int, int]) -> None:
    """Raise BootstrapError unless `version` is the one that TFX and its Kubeflow support take."""
    if version != PYTHON:
        raise BootstrapError(
            f"Python {dotted(PYTHON)} is needed (TFX's Kubeflow support stops below 3.12), this is "
            f"{dotted(version)}",
            "install it or name one: make run PYTHON=/path/to/python3.11",
        )


def check_host(host: Host) -> None:
    """Raise BootstrapError where no supported way leads to a working .venv."""
    if host.system != "Linux" or host.machine != "x86_64":
        raise BootstrapError(
            f"TFX's native wheels exist for Linux on x86_64, this is {host.system} on "
            f"{host.machine}",
            USE_CONTAINER,
        )
    if host.lacking and host.distribution not in NEWER_RELEASE:
        raise BootstrapError(
            f"this {host.distribution} host lacks {host.lacking}, and only Debian and Ubuntu hosts "
            "can be given a private copy",
            USE_CONTAINER,
        )


def check_space(folder: Path, needed: int = NEEDED_BYTES) -> None:
    """Raise BootstrapError where the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BootstrapError(
            f"{free / 1e9:.1f} GB are free on the disk of {folder} and {needed / 1e9:.0f} GB are "
            "needed",
            "make room there, or clone to a larger disk",
        )


def existing_parent(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
