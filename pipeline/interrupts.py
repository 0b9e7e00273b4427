"""Signals and timeouts, which end a node in order, or the process where the node does not react."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn

import psutil

from components import progress
from pipeline.errors import INTERRUPTED, NodeFailed

_GRACE_S = 60.0  # for a node that takes too long to end after a signal
_LOG_DESCRIPTOR = 2  # where `noise.redirect_output` sends it


class Interrupts:
    """Handlers that turn SIGINT and SIGTERM into KeyboardInterrupt, and remember the signals.

    Beam and TensorFlow catch everything, KeyboardInterrupt included, and raise an error of their
    own, which would make an interrupted node look like a failed one. A node that takes longer than
    `node_timeout` seconds is sent a SIGTERM.

    A second signal ends the process at once, whatever it does, and so does the first one after
    _GRACE_S: Python's handlers do not run while the main thread waits in native code. Where that
    code blocks all of Python, the kernel ends the process.
    """

    def __init__(self, node_timeout: float | None) -> None:
        self.node_timeout = node_timeout
        self.seen = False
        self.timed_out = False
        self._previous: dict[signal.Signals, Any] = {}
        self._actions: dict[int, _Action] = {}
        self._node = "the run"
        self._wakeup = -1

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        for number in (signal.SIGINT, signal.SIGTERM):
            # Ignored signals stay so: a shell ignores SIGINT for its background jobs.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._interrupt)
                self._actions[number] = _handle_once(number)
        reading, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        # The signal's number is written as it comes, whatever the main thread is doing.
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(reading,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        if self._wakeup >= 0:
            signal.set_wakeup_fd(-1)
            os.close(self._wakeup)  # which ends the listening
            self._wakeup = -1
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def within_time(self, node: str) -> Iterator[None]:
        """Interrupt the block where it takes too long."""
        ended = threading.Event()
        self._node = node
        if self.node_timeout is not None:
            watch = threading.Thread(target=self._watch, args=(node, ended), daemon=True)
            watch.start()
        try:
            yield
        finally:
            ended.set()

    def _watch(self, node: str, ended: threading.Event) -> None:
        if ended.wait(self.node_timeout):
            return
        faulthandler.dump_traceback(_LOG_DESCRIPTOR)
        self.timed_out = True
        text = f"{node} has taken longer than node_timeout = {self.node_timeout:g} s: stopping it"
        progress.report("note", text=text)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)
        if ended.wait(_GRACE_S):
            return
        # It waits in native code, which no signal ends. The next run recovers, as after a kill.
        _end_process(f"{node} does not react", NodeFailed.exit_code)

    def _listen(self, reading: int) -> None:
        """Count the signals that come until the other end of the pipe is closed."""
        count, deadline = 0, float("inf")
        with open(reading, "rb", buffering=0) as signals:
            while True:
                waiting = None if count == 0 else max(0.0, deadline - time.monotonic())
                ready, _, _ = select.select([signals], [], [], waiting)
                if not ready:
                    _end_process(f"{self._node} does not react to being interrupted", INTERRUPTED)
                number = signals.read(1)
                if not number:
                    return
                if number[0] not in self._previous or self.timed_out:
                    continue
                count += 1
                _handle_again(self._actions)
                if count > 1:
                    _end_process(f"interrupted again during {self._node}", INTERRUPTED)
                deadline = time.monotonic() + _GRACE_S
                progress.report(
                    "note", text=f"interrupted: stopping {self._node}; a second signal ends it now"
                )

    def check(self) -> None:
        """Raise KeyboardInterrupt if a library swallowed one."""
        if self.seen:
            raise KeyboardInterrupt

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt


class _Action(ctypes.Structure):
    """sigaction of glibc on x86_64."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_RESET_HANDLER = -0x80000000  # SA_RESETHAND as an int


def _handle_once(number: int) -> _Action:
    """Let the kernel end the process at the second signal, should Python not run after the first.

    Returns what has to be set again for Python to handle the second one too.
    """
    own, once = _Action(), _Action()
    for action in (own, once):
        ctypes.CDLL(None).sigaction(number, None, ctypes.byref(action))
    once.flags |= _RESET_HANDLER
    ctypes.CDLL(None).sigaction(number, ctypes.byref(once), None)
    return own


def _handle_again(actions: Mapping[int, _Action]) -> None:
    for number, action in actions.items():
        ctypes.CDLL(None).sigaction(number, ctypes.byref(action), None)


def _end_process(why: str, exit_code: int) -> NoReturn:
    """End this process and those that it has started. The next run recovers, as after a kill."""
    progress.report("note", text=f"{why}: ending the process")
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(exit_code)
