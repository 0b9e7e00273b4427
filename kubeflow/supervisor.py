"""Retry a process in its pod after a signal or the loss of its database.

Argo decides which pods are retried. As installed by Kubeflow 2.17, it retries pods that were
deleted or lost their machine, but no pod whose container failed. With cgroup v2, the kernel may
kill all processes of a container at once for their memory, including this one.
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
# Argo's count of earlier pods, which Kubeflow passes since 2.17.
_POD = "KFP_RETRY_INDEX"
_TOLD_TO_END = (signal.SIGTERM, signal.SIGINT)


def run(main: Callable[[], int], env: Mapping[str, str]) -> int:
    """Call `main` in a child process, and again after an accident.

    It forks: call it before threads are started and before heavy imports.

    Args:
      main: returns an exit code.
      env: `PERENNIAL_RETRIES` is the number of retries over all pods of the task; without it,
        `main` runs in this process. `PERENNIAL_RETRY_DELAY` is the delay in seconds.
        `KFP_RETRY_INDEX` is the number of earlier pods.

    Returns:
      The exit code of the last attempt; 128 plus the number of the signal that ended it.
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
            if code < 0:  # the process has reported everything else itself
                _give_up(f"{why}; no try is left", _as_of_shell(code))
            return _as_of_shell(code)
        left -= 1
        _tell("note", text=f"{why}; trying again in this pod, {left} tries are left after that")
        time.sleep(float(env.get(RETRY_DELAY, 0)))


def _work(main: Callable[[], int]) -> NoReturn:
    """End this process with what `main` returns."""
    # The group is used to end the processes that it leaves behind.
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
    """Convert an exit code that is negative for a signal to that of a shell."""
    return code if code >= 0 else 128 - code


def _give_up(message: str, exit_code: int) -> None:
    _tell("error", kind="Killed", message=message, exit_code=exit_code)
    logs.write_last_words(message)


def _tell(event: str, **fields: object) -> None:
    print(progress.as_line(event, fields), flush=True)


def _once(main: Callable[[], int]) -> tuple[int, bool]:
    """Return the exit code, negative for a signal, and whether this process got a signal."""
    told: list[int] = []
    sys.stdout.flush()
    sys.stderr.flush()
    # Blocked until the child exists.
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
    # A model server or Beam's workers would use memory of the next attempt.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(status), bool(told)
