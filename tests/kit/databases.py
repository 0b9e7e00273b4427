"""The distribution's MariaDB and PostgreSQL, each as a process on loopback with its own folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import portpicker
import pytest

PASSWORD = r"it's 50% \secret"  # what connection strings treat in special ways
_STARTUP_S = 60.0
_LOOPBACK = "127.0.0.1"


class Database:
    """A server in `folder` with a database `perennial` that an account `perennial` may fill."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port: int = portpicker.pick_unused_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        """What a pod is told of it."""
        return {
            "PERENNIAL_METADATA_KIND": self.kind,
            "PERENNIAL_METADATA_HOST": _LOOPBACK,
            "PERENNIAL_METADATA_PORT": str(self.port),
            "PERENNIAL_METADATA_PASSWORD": PASSWORD,
        }

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options: tuple[str, ...]
        if self.kind == "mysql":
            options = (f"--datadir={self._folder}/data", f"--socket={self._folder}/socket")
            options += (f"--bind-address={_LOOPBACK}", f"--port={self.port}")
            command = [_program("mariadbd"), "--no-defaults", *options]
            command += [f"--pid-file={self._folder}/pid", f"--init-file={self._folder}/init.sql"]
        else:
            options = ("-c", f"listen_addresses={_LOOPBACK}", "-p", str(self.port))
            command = [_program("postgres"), "-D", str(self._folder / "data"), *options]
            command += ["-k", str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=_user())
        deadline = time.monotonic() + _STARTUP_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((_LOOPBACK, self.port), timeout=1).close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                shown = (self._folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.kind} did not start: {shown}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it as a pod is that is killed: at once, its connections cut."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running(kind: str) -> Iterator[Database]:
    """Start a server, "mysql" (MariaDB) or "postgresql", and remove it afterwards.

    Skips the test where its programs are not installed.
    """
    with tempfile.TemporaryDirectory(prefix=f"{kind}-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if (user := _user()) is not None:
            os.chown(folder, user, -1)
        _create_mariadb(folder) if kind == "mysql" else _create_postgresql(folder)
        database = Database(kind, folder)
        try:
            database.start()
            yield database
        finally:
            database.stop()


def _create_mariadb(folder: Path) -> None:
    options = ("--no-defaults", f"--datadir={folder}/data", "--skip-test-db")
    command = [_program("mariadb-install-db"), *options, "--auth-root-authentication-method=normal"]
    subprocess.run(command, check=True, capture_output=True, cwd="/", user=_user())
    escaped = PASSWORD.replace("\\", "\\\\").replace("'", "''")
    (folder / "init.sql").write_text(
        "CREATE DATABASE IF NOT EXISTS perennial;\n"
        f"CREATE USER IF NOT EXISTS perennial@'%' IDENTIFIED BY '{escaped}';\n"
        "GRANT ALL ON perennial.* TO perennial@'%';\n"
    )


def _create_postgresql(folder: Path) -> None:
    data = str(folder / "data")
    command = [_program("initdb"), "-D", data, "--username=admin", "--auth=scram-sha-256"]
    (folder / "password").write_text("of nobody's concern")
    command += ["--no-sync", f"--pwfile={folder}/password"]
    subprocess.run(command, check=True, capture_output=True, cwd="/", user=_user())
    escaped = PASSWORD.replace("'", "''")
    subprocess.run(
        [_program("postgres"), "--single", "-D", data, "postgres"],
        input=f"CREATE ROLE perennial LOGIN PASSWORD '{escaped}'\n"
        "CREATE DATABASE perennial OWNER perennial\n",
        text=True,
        check=True,
        capture_output=True,
        user=_user(),
    )


def _program(name: str) -> str:
    # Debian keeps servers where only root looks for programs, PostgreSQL's by release.
    folders = [*map(str, Path("/usr/lib/postgresql").glob("*/bin")), "/usr/sbin"]
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    if found is None:
        pytest.skip(f"{name} is not installed: make services")
    return found


def _user() -> int | None:
    """For root: somebody else to start a process as, which the servers insist upon."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
