"""Prometheus gauges of the last monitored window."""

from __future__ import annotations

import datetime

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from pipeline.monitoring.figures import DRIFTED, LITTLE, STEADY, Report

FILE = "monitor.prom"  # in the folder of the logs, from where the recorder serves it


class _Gauges:
    """Gauges of one model, each made with its first value."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._made: dict[str, Gauge] = {}

    def set(self, name: str, about: str, value: float | None, /, **labels: str) -> None:
        """Set a value, unless it is None."""
        if value is None:
            return
        labels = {"model_name": self._model, **labels}
        if name not in self._made:
            full = f"perennial_monitor_{name}"
            self._made[name] = Gauge(full, about, list(labels), registry=self.registry)
        self._made[name].labels(**labels).set(value)


def render(model: str, report: Report) -> str:
    """Format the gauges of a report for Prometheus."""
    gauges = _Gauges(model)
    until = datetime.datetime.fromisoformat(report.until).timestamp()
    gauges.set("until_seconds", "End of the window, seconds since 1970.", until)
    gauges.set("images", "Different images of the window.", report.images)
    for verdict in (STEADY, DRIFTED, LITTLE):
        is_it = report.verdict == verdict
        gauges.set("verdict", "1 for the verdict on the window.", is_it, verdict=verdict)
    for check in report.checks:
        labels = {"check": check.name, "about": check.about}
        gauges.set("effect", "Distance from the baseline, 0 to 1.", check.effect, **labels)
        gauges.set("limit", "Distance from which an effect counts.", check.limit, **labels)
        gauges.set("found", "1 for a finding.", check.found, **labels)
    for group in report.groups:
        labels = {"version": str(group.version), "label": group.label}
        gauges.set("group_images", "Images that were answered.", group.images, **labels)
        gauges.set("refused_images", "Images that were refused.", group.refused, **labels)
        for name, about in (
            ("confidence", "Mean confidence, and its 95% interval."),
            ("entropy", "Mean entropy, and its 95% interval."),
            ("accuracy", "Accuracy estimated from the confidence, and its 95% interval."),
        ):
            estimate = getattr(group, name)
            for end in ("value", "low", "high") if estimate else ():
                gauges.set(name, about, getattr(estimate, end), end=end, **labels)
        for class_name, (share, _) in group.shares.items():
            about = "Share of the predictions."
            gauges.set("class_share", about, share.value, class_name=class_name, **labels)
    for pair in report.pairs:
        labels = {"first": pair.first, "second": pair.second}
        about = "Share of the images that two versions answer differently."
        gauges.set("disagreement", about, pair.disagree.value, **labels)
    return generate_latest(gauges.registry).decode()
