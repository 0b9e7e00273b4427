"""Counters and latency histograms in Prometheus' text format, under TensorFlow Serving's names."""

from __future__ import annotations

import bisect
import itertools
import threading

REQUEST_COUNT = ":tensorflow:serving:request_count"
REQUEST_LATENCY = ":tensorflow:serving:request_latency"
RUNTIME_LATENCY = ":tensorflow:serving:runtime_latency"

# Microseconds, TensorFlow Serving's own: 10 us to about 20 minutes.
_BOUNDS = tuple(10 * 1.8**exponent for exponent in range(32))

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What one server has counted. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Labels, int] = {}
        self._latencies: dict[tuple[str, Labels], list[float]] = {}

    def count(self, model: str, code: str) -> None:
        """Count a finished request."""
        labels = (("model_name", model), ("status", code))
        with self._lock:
            self._counts[labels] = self._counts.get(labels, 0) + 1

    def request_latency(self, model: str, api: str, entrypoint: str, seconds: float) -> None:
        """Record how long a successful request took. `entrypoint` is GRPC or REST."""
        labels = (("model_name", model), ("API", api), ("entrypoint", entrypoint))
        self._observe(REQUEST_LATENCY, labels, seconds)

    def runtime_latency(self, model: str, seconds: float) -> None:
        """Record how long TensorFlow ran for a request."""
        labels = (("model_name", model), ("API", "Predict"), ("runtime", "TF1"))
        self._observe(RUNTIME_LATENCY, labels, seconds)

    def _observe(self, name: str, labels: Labels, seconds: float) -> None:
        microseconds = seconds * 1e6
        with self._lock:
            # One number for each bucket, then the sum.
            numbers = self._latencies.setdefault((name, labels), [0] * (len(_BOUNDS) + 2))
            numbers[bisect.bisect_left(_BOUNDS, microseconds)] += 1
            numbers[-1] += microseconds

    def page(self) -> str:
        """Write everything in the text format of Prometheus."""
        with self._lock:
            counts = dict(self._counts)
            latencies = {key: list(numbers) for key, numbers in self._latencies.items()}
        lines = [f"# TYPE {REQUEST_COUNT} counter"]
        lines += [f"{REQUEST_COUNT}{{{_text(labels)}}} {n}" for labels, n in counts.items()]
        for name in (REQUEST_LATENCY, RUNTIME_LATENCY):
            lines.append(f"# TYPE {name} histogram")
            for (owner, labels), (*buckets, total) in latencies.items():
                if owner == name:
                    lines += _histogram(name, _text(labels), buckets, total)
        return "\n".join(lines) + "\n"


def _histogram(name: str, labels: str, buckets: list[float], total: float) -> list[str]:
    bounds = [*(f"{bound:.6g}" for bound in _BOUNDS), "+Inf"]
    cumulated = itertools.accumulate(buckets)
    lines = [
        f'{name}_bucket{{{labels},le="{bound}"}} {int(number)}'
        for bound, number in zip(bounds, cumulated, strict=True)
    ]
    count = int(sum(buckets))
    return [*lines, f"{name}_sum{{{labels}}} {total:.0f}", f"{name}_count{{{labels}}} {count}"]


def _text(labels: Labels) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
