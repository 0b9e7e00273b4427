"""Push in a process that kills itself before its n-th look at or change of the disk.

    python -m tests.kit.push_until_killed MODEL BASE N

Ends with SIGKILL, or with 0 where the push has fewer steps. Before each step it looks at BASE as a
server would, and ends with 3 if it finds a version that is not whole.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from components.model_registry import versions

if TYPE_CHECKING:
    from _typeshed import HasFileno

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime", "os.chmod"}


def main(model: Path, base: Path, last: int) -> None:
    steps = 0
    looking = False

    def step() -> None:
        nonlocal steps, looking
        if looking:
            return
        looking = True
        check_whole(base)
        looking = False
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in STEPS and str(base) in str(arguments[0]):
            step()

    fsync = os.fsync

    def counted(fd: int | HasFileno) -> None:
        step()
        fsync(fd)

    os.fsync = counted
    sys.addaudithook(hook)
    versions.push(model, base, {"run": "killed"}, 2, lambda: {1})


def check_whole(base: Path) -> None:
    """Check that all versions which a server would find are complete."""
    for number in (int(entry.name) for entry in base.iterdir() if entry.name.isdecimal()):
        manifest = versions.read_manifest(str(base), number)
        if manifest is None or versions.damaged_files(str(base), number, manifest):
            os._exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
