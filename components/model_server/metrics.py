"""Counters and latency histograms for Prometheus, under TensorFlow Serving's names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

REQUEST_COUNT = ":tensorflow:serving:request_count"
REQUEST_LATENCY = ":tensorflow:serving:request_latency"
RUNTIME_LATENCY = ":tensorflow:serving:runtime_latency"

# Microseconds, TensorFlow Serving's own: 10 us to about 20 minutes.
_BOUNDS = tuple(10 * 1.8**exponent for exponent in range(32))


class Metrics:
    """What one server has counted. All methods may be called from any thread."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = CollectorRegistry()
        self._count = Counter(
            REQUEST_COUNT, "Requests by status.", ["model_name", "status"], registry=self._registry
        )
        self._request, self._runtime = (
            Histogram(name, "Microseconds.", labels, registry=self._registry, buckets=_BOUNDS)
            for name, labels in (
                (REQUEST_LATENCY, ["model_name", "API", "entrypoint"]),
                (RUNTIME_LATENCY, ["model_name", "API", "runtime"]),
            )
        )

    def count(self, model: str, code: str) -> None:
        """Count a finished request."""
        self._count.labels(model, code).inc()

    def request_latency(self, model: str, api: str, entrypoint: str, seconds: float) -> None:
        """Record how long a successful request took. `entrypoint` is GRPC or REST."""
        self._request.labels(model, api, entrypoint).observe(seconds * 1e6)

    def runtime_latency(self, model: str, seconds: float) -> None:
        """Record how long TensorFlow ran for a request."""
        self._runtime.labels(model, "Predict", "TF1").observe(seconds * 1e6)

    def page(self) -> str:
        """Write everything in the text format of Prometheus."""
        text = generate_latest(self._registry).decode()
        # The library gives counters a suffix, and TensorFlow Serving does not.
        return text.replace(f"{REQUEST_COUNT}_total", REQUEST_COUNT)
