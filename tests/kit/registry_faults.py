"""Push, promote, roll back and retrain, killed or with failing writes at every step.

    python -m tests.kit.registry_faults kill|EIO|ENOSPC|EROFS|short|strace-EIO|... FOLDER [POINTS]

Each point is a process of its own, forked, in a registry of its own that holds three versions, with
version 1 stable. At its n-th look at or change of the disk it is killed; or its n-th write fails,
once or, as on a disk that has become read-only, with all that follow. By strace it is the kernel
that fails the n-th system call which changes a disk, whoever makes it. Afterwards everything is
read as the commands read it, and the next command has to work. Prints a JSON object: `points`, how
many were reached, and `problems`, a line each.

In `retrain` the DAG is a stand-in that only pushes. Servers that follow are one that follows at
once: what they do is tested with real ones in tests/serving/test_promotion.py.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image

from components import records, storage
from components.model_registry import CANARY, STABLE, Registry, Serving, configuration, versions
from components.model_registry.followers import Named
from components.model_server import client  # noqa: F401 - once, and not in every child
from pipeline import config, run
from pipeline.errors import PromotionFailed, UserError
from pipeline.retraining import journal, retrain
from pipeline.settings import Config
from pipeline.workspace import Workspace

_KILL = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
_SEED = 18
_CALLS = (
    "write,pwrite64,sendfile,copy_file_range,fsync,ftruncate,"
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir"
)

_FIRED: list[int] = []  # in a child: the steps that failed


class _Server(Named):
    """Follows at once."""

    def wait(self, *_: object) -> None:
        """As soon as it is asked."""


def _promote(target: Registry, version: int, to: str, servers: bool) -> None:
    follower = _Server(["localhost:1"] if servers else [])
    with mock.patch.object(Registry, "followers", return_value=follower):
        target.promote(version, to)


# By name: what is done, and what is configured when it is.
ACTIONS: dict[str, tuple[Callable[[Registry], object], Serving]] = {
    "canary": (
        lambda target: _promote(target, 2, CANARY, False),
        Serving.of({STABLE: 1, CANARY: 2}),
    ),
    "canary, followed": (
        lambda target: _promote(target, 3, CANARY, True),
        Serving.of({STABLE: 1, CANARY: 3}),
    ),
    "stable, in two steps": (
        lambda target: _promote(target, 3, STABLE, True),
        Serving.of({STABLE: 3, "previous": 1}),
    ),
    "rollback": (Registry.rollback, Serving.of({STABLE: 1})),
    "push": (
        lambda target: target.push(_model(target, 4), {}, 2),
        Serving.of({STABLE: 1}),
    ),
    "retrain": (lambda target: _retrain(target), Serving.of({STABLE: 1, CANARY: 4})),
}


def _retrain(target: Registry) -> None:
    folder = Path(str(target.base)).parent.parent
    settings = {
        "name": target.name,
        "workspace": str(folder),
        "data.source": str(folder / "data"),
        "retrain.promote": CANARY,
    }
    loaded = config.load(None, settings, scheduled=True)
    with mock.patch.object(retrain, "run_locked", _run_locked), mock.patch("builtins.print"):
        retrain.retrain(loaded.config, loaded.origins, "json", force=True)


def _run_locked(
    settings: Config,
    origins: Mapping[str, str],
    _log_format: str,
    workspace: Workspace,
    run_id: str,
    command: str,
) -> dict[str, Any]:
    """Write what a run writes, and push."""
    folder = workspace.run_dir(run_id)
    folder.mkdir(parents=True)
    record = run.beginning(settings, origins, run_id)
    run._write(folder, record)
    model = _model(settings.registry, 4)
    version = settings.registry.push(model, {"run": run_id}, settings.push.keep)
    pushed = f"{settings.push_directory}/{version}"
    run._write(folder, record | {"state": "pushed", "pushed": pushed, "version": version})
    return {"version": version, "pushed": pushed}


def _model(target: Registry, number: int) -> Path:
    folder = Path(str(target.base)).parent.parent / f"model-{number}"
    if not folder.exists():
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(bytes([number]) * 50)
        (folder / "variables" / "variables.index").write_bytes(bytes([number]) * 5000)
    return folder


def make_registry(folder: Path, action: str) -> Registry:
    """Three versions; the first is stable, or the second where that is to be undone."""
    shutil.rmtree(folder, ignore_errors=True)
    base = folder / "serving" / "m"
    target = Registry(str(base), str(base.parent / "models.config"), "m")
    for number in (4, 5):
        _model(target, number)
    for number in (1, 2, 3):
        target.push(_model(target, number), {}, 10)
    target.promote(1, STABLE)
    image = folder / "data" / "cat" / "0.png"
    image.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(image)
    if action == "rollback":
        target.promote(2, CANARY)
        target.promote(2, STABLE)
    return target


def child(
    target: Registry,
    action: str,
    prepare: Callable[[], None],
    traced: Sequence[str] = (),
) -> tuple[int, str, bool]:
    """Do it in a process of its own, `traced` by strace with these arguments.

    Returns its wait status, what it told of a failure, and whether the point was reached.
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        code = 70
        try:
            prepare()
            ACTIONS[action][0](target)
            code, text = 0, ""
        except UserError as error:
            code, text = error.exit_code, f"{type(error).__name__}: {error}"
        except BaseException as error:
            text = f"unexpected {type(error).__name__}: {error}"
        finally:
            os.writev(write, [b"!" if _FIRED else b"-", text.encode()])
            os._exit(code)
    os.close(write)
    strace = _attach(pid, traced) if traced else None
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    is_injected = strace is not None and "(INJECTED)" in strace.communicate()[1]
    return status, told[1:], os.WIFSIGNALED(status) or told[:1] == "!" or is_injected


def _attach(pid: int, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Let a process go on that has stopped itself, once it is traced."""
    os.waitpid(pid, os.WUNTRACED)
    command = ["strace", "-qq", "-p", str(pid), *arguments]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text():
        if strace.poll() is not None:
            os.kill(pid, signal.SIGKILL)
            raise RuntimeError(strace.communicate()[1])
        time.sleep(0.005)
    os.kill(pid, signal.SIGCONT)
    return strace


def killing(folder: Path, last: int) -> Callable[[], None]:
    """Prepare to be killed before the `last` step."""
    count = itertools.count(1)

    def step(*_: object) -> None:
        if next(count) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _KILL and str(folder) in str(arguments[0]):
            step()

    def prepare() -> None:
        for name in ("write", "fsync"):
            _wrap(name, step)
        sys.addaudithook(hook)

    return prepare


def _wrap(name: str, step: Callable[..., object]) -> None:
    real = getattr(os, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        step(*arguments)
        return real(*arguments, **options)

    setattr(os, name, wrapped)


def failing(folder: Path, last: int, number: int, onwards: bool) -> Callable[[], None]:
    """Prepare to fail with `number` at the `last` write; 0 stands for a write that is short."""
    count = itertools.count(1)

    def fails() -> bool:
        reached = next(count)
        _FIRED.extend([reached] if reached >= last else [])
        return reached == last or (onwards and reached > last)

    def step(*arguments: Any) -> None:
        if fails():
            raise OSError(number, os.strerror(number), str(arguments[0]))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if str(folder) not in str(arguments[0] if arguments else ""):
            return
        is_written = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if is_written or event in _KILL[1:-1]:
            step(str(arguments[0]))

    def prepare() -> None:
        if number:
            sys.addaudithook(hook)
            for name in ("write", "fsync"):
                _wrap(name, step)
            return
        real = os.write

        def short(descriptor: int, content: bytes) -> int:
            if fails():
                if len(content) < 2:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(descriptor, content[: len(content) // 2])
            return real(descriptor, content)

        os.write = short  # type: ignore[assignment]

    return prepare


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


# What a failure is: a push and the records of a retraining give the disk's own error.
_FAILURES = (PromotionFailed.__name__, "ConfigError")
_TOLD_OF = dict.fromkeys(ACTIONS, _FAILURES) | dict.fromkeys(
    ("push", "retrain"), (*_FAILURES, "unexpected OSError: ")
)


def check(target: Registry, action: str, status: int, told: str, before: Serving) -> Iterator[str]:
    """Yield what is not as it should be after a process with that status and message."""
    folder = Path(str(target.base)).parent.parent
    after = ACTIONS[action][1]
    ended = os.waitstatus_to_exitcode(status)
    found = target.serving()
    is_fine = [after] if ended == 0 else [before]
    if told.startswith(PromotionFailed.__name__) and "In force: " in told:
        if f"In force: {found}" not in told:
            yield f"told {told!r}, and it is {found}"
    elif ended > 0 and not told.startswith(_TOLD_OF[action]):
        yield f"ended with {ended}: {told}"
    elif ended >= 0 and action != "push" and found not in is_fine:
        yield f"ended with {ended}, told {told!r}, and it is {found}"
    target.recover()
    found = target.serving()
    if found not in (before, after):
        yield f"after the next command it is {found}"
    if Path(configuration.change_location(target.config)).exists():
        yield "a change is left unfinished"
    log = records.read(str(Path(target.config).with_name(configuration.AUDIT_FILE)))
    nights = records.read(str(folder / journal.FILE), journal._check)
    if log.damaged or nights.damaged:
        yield f"damaged: {log.damaged} {nights.damaged}"
    for record in (folder / "runs").glob("*/run.json"):
        json.loads(record.read_bytes())
    for number in versions.find(str(target.base)):
        manifest = versions.read_manifest(str(target.base), number)
        if manifest is None or versions.damaged_files(str(target.base), number, manifest):
            yield f"version {number} is not whole"
    try:
        if action == "retrain":
            _retrain(target)
            if target.serving() != after:
                yield f"after the next retraining it is {target.serving()}"
        target.push(_model(target, 5), {}, 10)
        newest = versions.find(str(target.base))[-1]
        if CANARY in target.serving().labels:
            target.rollback()
        target.promote(newest, CANARY)
    except Exception as error:
        yield f"the next commands: {type(error).__name__}: {error}"
        return
    if storage.read_text(configuration.change_location(target.config)) is not None:
        yield "the next commands left a change unfinished"


def _points(kind: str, is_drawn: bool) -> Iterator[tuple[str, int, bool]]:
    """Yield action, step, and whether all later ones fail too."""
    steps = [(a, n, o) for a in ACTIONS for n in range(1, 400) for o in (False, True)]
    if kind == "kill":
        steps = [(a, n, False) for a in ACTIONS for n in range(1, 200)]
    if is_drawn:
        random.Random(_SEED).shuffle(steps)
    yield from steps


def main(kind: str, folder: Path, most: int = 0) -> None:
    """Go through all points, or until `most` were reached; print what came of them."""
    problems: list[str] = []
    reached: dict[str, int] = {}
    over: dict[tuple[str, bool], int] = {}
    for action, number, onwards in _points(kind, kind == "kill" or most > 0):
        if number >= over.get((action, onwards), 1 << 30):
            continue
        if most and sum(reached.values()) >= most:
            break
        target = make_registry(folder, action)
        before = target.serving()
        traced: list[str] = []
        if kind == "kill":
            prepare = killing(folder, number)
        elif kind.startswith("strace-"):
            error = kind.removeprefix("strace-")
            fault = f"inject={_CALLS}:error={error}:when={number}{'+' * onwards}"
            traced, prepare = ["-e", f"trace={_CALLS}", "-e", fault], _stop
        else:
            code = 0 if kind == "short" else getattr(errno, kind)
            prepare = failing(folder, number, code, onwards)
        status, told, is_reached = child(target, action, prepare, traced)
        if not is_reached:  # and neither are later ones
            over[action, onwards] = min(number, over.get((action, onwards), number))
            continue
        reached[action] = reached.get(action, 0) + 1
        found = check(target, action, status, told, before)
        problems += [f"{action}, {kind} at {number}{'+' * onwards}: {each}" for each in found]
    print(json.dumps({"points": sum(reached.values()), "by": reached, "problems": problems}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
