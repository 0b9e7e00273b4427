"""The folder that holds everything runs make: metadata, artifacts, reports and logs."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from components import progress, storage
from components.lineage import Lineage
from components.wording import counted
from pipeline import relocation
from pipeline.errors import ConfigError, WorkspaceBusy

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2

# A run that dies leaves one execution behind and the next start recovers it, so what was abandoned
# is always among the newest; reading all of them would slow down every start as history grows.
_RECENT_EXECUTIONS = 100
# Of the folder. After a change, `_check_format` converts older ones or refuses them.
FORMAT = 1


class Workspace:
    """Paths below one root, the lock that makes a run its only user, and recovery after a crash.

    metadata: SQLite file of ML Metadata. artifacts: the pipeline root of TFX. runs: reports. logs:
    output of libraries. serving: pushed models, and the configuration of their servers. stamp: file
    with the format of the folder.
    """

    def __init__(self, root: Path) -> None:
        # Not resolved: artifacts are found again by the very path under which they were made.
        self.root = root.absolute()
        self.metadata = self.root / "metadata.sqlite"
        self.artifacts = self.root / "artifacts"
        self.runs = self.root / "runs"
        self.logs = self.root / "logs"
        self.serving = self.root / "serving"
        self.stamp = self.root / "workspace.json"
        self._locked = False

    @classmethod
    def open(cls, root: Path) -> Workspace:
        """Open a workspace to look at it; to change it, `lock` it.

        Corrects paths where the folder was moved or copied since it was used last, and can be
        written. Raises what `lock` raises.
        """
        place = cls(root)
        moved = relocation.has_moved(place._read_stamp().root, place.root)
        if moved and os.access(place.root, os.W_OK, effective_ids=True):
            with place.lock():
                pass
        return place

    def run_dir(self, run_id: str) -> Path:
        """Folder for the reports of one run."""
        return self.runs / run_id

    def log_path(self, run_id: str) -> Path:
        """File for everything that libraries say during one run."""
        return self.logs / f"{run_id}.log"

    def connection(self) -> metadata_store_pb2.ConnectionConfig:
        """Return the connection to `metadata`, which only `recover` creates."""
        from ml_metadata.proto import metadata_store_pb2

        source = metadata_store_pb2.SqliteMetadataSourceConfig
        # A file that vanishes in the middle of a run must not be made anew: its executions would
        # be numbered from one again, and write into the folders of earlier ones.
        return metadata_store_pb2.ConnectionConfig(
            sqlite=source(filename_uri=str(self.metadata), connection_mode=source.READWRITE)
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace, creating its folders first. A killed holder's lock is gone with it.

        Raises:
            WorkspaceBusy: another run holds it; names its process, host and start.
            ConfigError: the workspace cannot be written, has lost its metadata, or is a newer
                version's.
        """
        with contextlib.ExitStack() as stack:
            lock_file = self.root / "run.lock"
            try:
                self._prepare()
                # Unbuffered: on a full disk nothing is left to be written, and to fail, at the end.
                file = stack.enter_context(open(lock_file, "ab+", buffering=0))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)
                file.write(json.dumps(_this_process()).encode())
                self._check_format()
            except BlockingIOError:
                raise WorkspaceBusy(
                    self._describe_holder(lock_file.read_text(errors="replace"))
                ) from None
            except OSError as error:
                raise ConfigError(
                    f"workspace {self.root} cannot be used: {error.strerror}: "
                    f"{error.filename or lock_file}; put that right or choose another with "
                    "--workspace"
                ) from error
            self._locked = True
            try:
                yield
            finally:
                self._locked = False
                file.truncate(0)

    def is_busy(self) -> bool:
        """Tell whether another run holds the workspace."""
        try:
            with open(self.root / "run.lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return not self._locked
        except OSError:
            pass  # nothing has run here
        return False

    def recover(self) -> list[str]:
        """Undo what killed runs left half-done, and return one line about each such execution.

        Makes the metadata file where nothing has run yet, and updates one of an older ML Metadata.

        Their executions become FAILED, so that nothing waits for them or takes them from the
        cache. Output and temporary folders of executions that did not succeed are removed, but not
        their stateful working folders, which hold what a node can resume from.

        Raises:
            RuntimeError: the workspace is not locked, so its executions may be alive.
            ConfigError: the metadata file is damaged, or is not that of these artifacts.
        """
        if not self._locked:
            raise RuntimeError(f"{self.root} must be locked while it is recovered")
        import ml_metadata

        states = ml_metadata.proto.metadata_store_pb2.Execution
        try:
            if not self.metadata.exists() and not any(self.artifacts.iterdir()):
                self.metadata.touch()
            store = ml_metadata.MetadataStore(self.connection(), enable_upgrade_migration=True)
            executions = Lineage(store).newest_executions(_RECENT_EXECUTIONS)
        except (ml_metadata.errors.StatusError, RuntimeError) as error:
            raise ConfigError(
                f"{self.metadata} cannot be read ({error}); put back a good copy, or move "
                f"{self.root} away to start over"
            ) from error
        self._check_outputs_known(max((execution.id for execution in executions), default=0))
        unsuccessful = [
            execution
            for execution in executions
            if execution.last_known_state not in (states.COMPLETE, states.CACHED)
        ]
        # Folders first: should this be killed too, the next start finds the same executions.
        self._remove_outputs({str(execution.id) for execution in unsuccessful})
        abandoned = [e for e in unsuccessful if e.last_known_state != states.FAILED]
        for execution in abandoned:
            execution.last_known_state = states.FAILED
        if abandoned:
            store.put_executions(abandoned)
        return [
            f"{execution.type.rpartition('.')[2]} was cut off in an earlier run (execution "
            f"{execution.id}); its partial output is removed; if the system ended it for want of "
            "memory, make train.batch_size or transform.image_size smaller, or raise "
            "train.gradient_accumulation"
            for execution in abandoned
        ]

    def _prepare(self) -> None:
        for folder in (self.root, self.artifacts, self.runs, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
            _check_writable(folder)
        if self.metadata.exists():
            _check_writable(self.metadata)
        elif any(self.artifacts.iterdir()):
            # Execution ids would start over and new outputs mix with the old ones.
            raise ConfigError(
                f"{self.metadata} is missing although {self.artifacts} holds its artifacts; "
                "put the file back, or remove the folder to start over"
            )

    def _read_stamp(self) -> _Stamp:
        """Read the stamp; a workspace without one is of format 0."""
        text = storage.read_text(str(self.stamp))
        try:
            return _Stamp.model_validate_json(text) if text else _Stamp(format=0)
        except ValueError as error:
            raise ConfigError(
                f"{self.stamp} is damaged: it must say {json.dumps({'format': FORMAT})}"
            ) from error

    def _check_format(self) -> None:
        """Refuse a newer format, and bring what was moved to where it is."""
        found = self._read_stamp()
        if found.format > FORMAT:
            raise ConfigError(
                f"workspace {self.root} was made by a newer version of perennial: its format is "
                f"{found.format}, and this version reads {FORMAT} and older ones; use that "
                "version, or choose another workspace with --workspace"
            )
        if relocation.has_moved(found.root, self.root):
            known = Lineage.at(self.connection()) if self.metadata.exists() else None
            moved = relocation.relocate(known, self.serving, found.root, str(self.root))
            artifacts = counted(moved, "artifact")
            text = f"workspace {self.root} was at {found.root}: {artifacts} moved with it"
            progress.report("note", text=text)
        wanted = _Stamp(format=FORMAT, root=str(self.root))
        if found != wanted:
            storage.write_text(str(self.stamp), wanted.model_dump_json() + "\n")

    def _check_outputs_known(self, newest: int) -> None:
        """Refuse metadata that is younger or older than what lies in `artifacts`.

        Its next executions would write into folders that are full already.
        """
        for path in self.artifacts.glob("*/*/*"):  # <node>/<output>/<execution id>
            if path.name.isdecimal() and int(path.name) > newest:
                raise ConfigError(
                    f"{self.metadata} does not know {path}, so it is not the file of these "
                    f"artifacts; put the right one back, or remove {self.artifacts} to start over"
                )

    def _describe_holder(self, text: str) -> str:
        try:
            holder = json.loads(text)
            who = f"process {holder['pid']} on {holder['host']} since {holder['started']}"
        except (ValueError, KeyError, TypeError, RecursionError):  # read while it was being written
            who = "another run"
        return (
            f"workspace {self.root} is in use by {who}; "
            "wait for it to end or choose another with --workspace"
        )

    def _remove_outputs(self, execution_ids: Collection[str]) -> None:
        # <node>/<output>/<execution id>, and <node>/.system/executor_execution/<execution id>.
        for pattern in ("*/*", "*/.system/executor_execution"):
            for parent in self.artifacts.glob(pattern):
                for execution_id in execution_ids:
                    if (parent / execution_id).exists():
                        shutil.rmtree(parent / execution_id)


class _Stamp(BaseModel):
    """The format of a workspace, and the folder in which it was used last."""

    format: int
    root: str = ""


def _check_writable(path: Path) -> None:
    if not os.access(path, os.W_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _this_process() -> dict[str, str | int]:
    started = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
