"""One run at a time, and every start puts right what the last one left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, WorkspaceBusy
from pipeline.workspace import Workspace

HOLD = """
import sys, time
from pathlib import Path
from pipeline.workspace import Workspace
with Workspace(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work space")


def test_the_lock_makes_the_folders(workspace: Workspace) -> None:
    with workspace.lock():
        assert workspace.artifacts.is_dir()
        assert workspace.log_path("1").parent.is_dir()
        assert workspace.run_dir("1").parent.is_dir()
        assert workspace.data.is_dir()


def test_a_second_holder_is_told_who_the_first_is(workspace: Workspace) -> None:
    with workspace.lock():
        with pytest.raises(WorkspaceBusy) as busy, Workspace(workspace.root).lock():
            pass
        assert f"{workspace.root} is in use by process {os.getpid()}" in str(busy.value)
        assert f" on {socket.gethostname()} since 2" in str(busy.value)
        with pytest.raises(WorkspaceBusy), workspace.lock():  # being refused frees nothing
            pass


def test_the_lock_is_free_after_a_failure(workspace: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), workspace.lock():
        _ = 1 / 0
    with workspace.lock():
        pass


@pytest.fixture
def holder(workspace: Workspace) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_killed_holder_blocks_nobody(workspace: Workspace, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(WorkspaceBusy, match=f"process {holder.pid} on "), workspace.lock():
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with workspace.lock():
        pass


def test_a_file_in_the_place_of_the_workspace_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(ConfigError, match=rf"workspace {root} .*--workspace"),
            Workspace(root).lock(),
        ):
            pass


@pytest.fixture
def read_only(workspace: Workspace) -> Iterator[Path]:
    with workspace.lock():
        pass
    workspace.root.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # root may write everywhere
        os.seteuid(65534)
    yield workspace.root
    os.seteuid(user)
    workspace.root.chmod(0o755)


def test_a_workspace_without_write_permission_is_named(read_only: Path) -> None:
    with (
        pytest.raises(ConfigError, match=f"workspace {read_only} .*Permission denied"),
        Workspace(read_only).lock(),
    ):
        pass


def test_artifacts_without_their_metadata_are_not_mixed_with_new_ones(
    workspace: Workspace,
) -> None:
    (workspace.artifacts / "Trainer").mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"{workspace.metadata} is missing"), workspace.lock():
        pass


def test_recovery_needs_the_lock(workspace: Workspace) -> None:
    with workspace.lock():
        assert workspace.recover() == []  # nothing has run yet
    with pytest.raises(RuntimeError, match="must be locked"):
        workspace.recover()


def test_damaged_metadata_is_named(workspace: Workspace) -> None:
    with workspace.lock():
        workspace.metadata.write_bytes(b"no database" * 1000)
        with pytest.raises(ConfigError, match=f"{workspace.metadata} cannot be read"):
            workspace.recover()
