"""Tries again, within its pod, what an accident ended.

Which pods are tried again is Argo's to decide. As Kubeflow 2.17 installs it, only those that were
deleted or lost their machine are: the failure of a container is not, whatever its exit code. So a
process that a signal ended, or that lost its database, is tried again here. Where the kernel kills
all processes of a container at once for their memory, as with cgroup v2, this one goes too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import NoReturn

from components import progress
from kubeflow import logs
from pipeline.errors import DatabaseLost

RETRIES = "PERENNIAL_RETRIES"
RETRY_DELAY = "PERENNIAL_RETRY_DELAY"
# Argo's count of pods before this one, where Kubeflow tells it.
_POD = "KFP_RETRY_INDEX"
_TOLD_TO_END = (signal.SIGTERM, signal.SIGINT)


def run(main: Callable[[], int], env: Mapping[str, str]) -> int:
    """Call `main` in a process of its own, and again after an accident.

    Call it before threads are started and before heavy imports: it forks.

    Args:
      main: returns an exit code.
      env: `PERENNIAL_RETRIES` is how often it may be tried again, by all pods of the task together;
        without it, `main` is called in this process. `PERENNIAL_RETRY_DELAY`: seconds between.
        `KFP_RETRY_INDEX`: how many pods there were before, as Kubeflow 2.17 tells.

    Returns:
      The exit code of the last try; 128 and the number of the signal where one ended it.
    """
    if RETRIES not in env:
        return main()
    pods = env.get(_POD, "")
    left = int(env[RETRIES]) - (int(pods) if pods.isdigit() else 0)
    while True:
        code, told_to_end = _once(main)
        accident = code < 0 or code == DatabaseLost.exit_code
        if not accident or told_to_end:
            return _as_of_shell(code)
        why = f"signal {-code} ended it" if code < 0 else "it lost its database"
        if -code == signal.SIGKILL:
            why += ", perhaps for its memory"
        if left <= 0:
            if code < 0:  # of all else the process itself has told
                _give_up(f"{why}; no try is left", _as_of_shell(code))
            return _as_of_shell(code)
        left -= 1
        _tell("note", text=f"{why}; trying again in this pod, {left} tries are left after that")
        time.sleep(float(env.get(RETRY_DELAY, 0)))


def _work(main: Callable[[], int]) -> NoReturn:
    """End this process with what `main` returns."""
    # What it leaves behind is found, and ended, by this group.
    os.setpgid(0, 0)
    code = 1
    try:
        code = main()
    except SystemExit as error:  # of argparse
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _as_of_shell(code: int) -> int:
    """The exit code for one that is negative for a signal."""
    return code if code >= 0 else 128 - code


def _give_up(message: str, exit_code: int) -> None:
    _tell("error", kind="Killed", message=message, exit_code=exit_code)
    logs.write_last_words(message)


def _tell(event: str, **fields: object) -> None:
    print(progress.as_line(event, fields), flush=True)


def _once(main: Callable[[], int]) -> tuple[int, bool]:
    """The exit code, negative for a signal, and whether this process was told to end meanwhile."""
    told: list[int] = []
    sys.stdout.flush()
    sys.stderr.flush()
    # Blocked until there is someone to pass them on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD_TO_END)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD_TO_END)
        _work(main)

    def pass_on(number: int, _: FrameType | None) -> None:
        told.append(number)
        os.kill(child, number)

    previous = {number: signal.signal(number, pass_on) for number in _TOLD_TO_END}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD_TO_END)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    # A model server or Beam's workers would take memory from the next try.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status), bool(told)
