"""Wall time, CPU time and peak memory of a block of code."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")
_SAMPLE_S = 0.05


@dataclasses.dataclass
class Usage:
    """Measurements, filled in when the measured block ends, however it ends.

    wall_s: elapsed seconds. cpu_s: CPU seconds of this process, all threads, and of the child
    processes that ended meanwhile; the block may add what others spent. peak_mb: the most resident
    memory that this process had, in MB (10**6 bytes), what it held before the block included.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0


@contextlib.contextmanager
def measure() -> Iterator[Usage]:
    """Measure the block. Blocks must not nest: the kernel keeps one peak for each process."""
    used = Usage()
    peak = _PeakMemory()
    wall, cpu = time.perf_counter(), _cpu_seconds()
    try:
        yield used
    finally:
        used.wall_s = time.perf_counter() - wall
        used.cpu_s += _cpu_seconds() - cpu
        used.peak_mb = peak.stop() * 1024 / 1e6


def _cpu_seconds() -> float:
    counts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(count.ru_utime + count.ru_stime for count in counts)


class _PeakMemory:
    """Peak resident memory from construction to `stop`: the kernel's mark, else samples."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._sampled_kb = 0
        self._sampler: threading.Thread | None = None
        try:
            (_PROC / "clear_refs").write_text("5")
        except OSError:  # some sandboxes lack the file or forbid it
            self._sampler = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
            self._sampler.start()

    def stop(self) -> int:
        """End the measurement and return the peak in KiB."""
        if self._sampler is None:
            return _status_kb("VmHWM")
        self._stopping.set()
        self._sampler.join()
        return self._sampled_kb

    def _sample(self) -> None:
        while True:
            self._sampled_kb = max(self._sampled_kb, _status_kb("VmRSS"))
            if self._stopping.wait(_SAMPLE_S):
                return


def _status_kb(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", (_PROC / "status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
