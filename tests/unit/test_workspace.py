"""One run at a time, and every start puts right what the last one left."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, WorkspaceBusy
from pipeline.workspace import FORMAT, Workspace

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


def test_a_second_holder_is_told_who_the_first_is(workspace: Workspace) -> None:
    with workspace.lock():
        with pytest.raises(WorkspaceBusy) as busy, Workspace(workspace.root).lock():
            pass
        holder = rf"{workspace.root} .*process {os.getpid()} on {socket.gethostname()} .*20\d\d-"
        assert re.search(holder, str(busy.value))
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


@pytest.fixture(params=["", "artifacts", "metadata.sqlite"])
def read_only(request: pytest.FixtureRequest) -> Iterator[tuple[Workspace, Path]]:
    """Create a workspace with one part that may not be written."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path is closed to all but its owner
        workspace = Workspace(Path(name) / "workspace")
        with workspace.lock():
            workspace.metadata.touch()
        for path in (workspace.root.parent, workspace.root, *workspace.root.iterdir()):
            path.chmod(0o777)
        target = workspace.root / request.param
        target.chmod(0o555)
        user = os.geteuid()
        if user == 0:  # root may write everywhere
            os.seteuid(65534)
        yield workspace, target
        os.seteuid(user)
        target.chmod(0o777)


def test_what_cannot_be_written_is_named(read_only: tuple[Workspace, Path]) -> None:
    workspace, target = read_only
    with pytest.raises(ConfigError) as refused, workspace.lock():
        pass
    root, reason = str(refused.value).split("Permission denied: ")
    assert str(workspace.root) in root
    assert str(target) in reason


@pytest.mark.parametrize("problem", [errno.ENOLCK, errno.ENOSPC])
def test_what_the_file_system_cannot_do_is_explained(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(fcntl, "flock", fail)
    expected = f"{os.strerror(problem)}: {workspace.root / 'run.lock'}; "
    with pytest.raises(ConfigError, match=expected), workspace.lock():
        pass


def test_artifacts_without_their_metadata_are_not_mixed_with_new_ones(
    workspace: Workspace,
) -> None:
    (workspace.artifacts / "Trainer").mkdir(parents=True)
    with pytest.raises(ConfigError, match=str(workspace.metadata)), workspace.lock():
        pass


def test_recovery_needs_the_lock(workspace: Workspace) -> None:
    with workspace.lock():
        assert workspace.recover() == []  # nothing has run yet
    with pytest.raises(RuntimeError, match="lock"):
        workspace.recover()


def test_damaged_metadata_is_named(workspace: Workspace) -> None:
    with workspace.lock():
        workspace.metadata.write_bytes(b"no database" * 1000)
        with pytest.raises(ConfigError, match=str(workspace.metadata)):
            workspace.recover()


def stamp(workspace: Workspace) -> dict[str, object]:
    return {"format": FORMAT, "root": str(workspace.root)}


class TestFormat:
    def test_a_new_workspace_is_stamped(self, workspace: Workspace) -> None:
        with workspace.lock():
            pass
        assert json.loads(workspace.stamp.read_text()) == stamp(workspace)

    def test_one_from_before_there_were_stamps_is_stamped(self, workspace: Workspace) -> None:
        (workspace.artifacts / "Trainer").mkdir(parents=True)
        workspace.metadata.touch()
        with workspace.lock():
            assert json.loads(workspace.stamp.read_text()) == stamp(workspace)

    def test_a_newer_one_is_refused_and_left_alone(self, workspace: Workspace) -> None:
        workspace.root.mkdir()
        workspace.stamp.write_text(json.dumps({"format": FORMAT + 1}))
        with (
            pytest.raises(
                ConfigError, match=rf"{workspace.root} .*\b{FORMAT + 1}, .*\b{FORMAT} .*--workspace"
            ),
            workspace.lock(),
        ):
            pass
        assert json.loads(workspace.stamp.read_text()) == {"format": FORMAT + 1}

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "one"}'])
    def test_a_damaged_stamp_is_named(self, workspace: Workspace, text: str) -> None:
        workspace.root.mkdir()
        workspace.stamp.write_text(text)
        with pytest.raises(ConfigError, match=str(workspace.stamp)), workspace.lock():
            pass
