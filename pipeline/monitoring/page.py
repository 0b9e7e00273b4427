"""The page of a monitoring report: one file, in the style of the pages of runs."""

from __future__ import annotations

from pipeline.monitoring.figures import Report
from pipeline.monitoring.monitor import describe
from pipeline.report.page import template


def render(name: str, report: Report) -> str:
    """Render the page of a window of traffic of the model called `name`."""
    verdicts = {
        "steady": ("pushed", "Steady", "no finding"),
        "drifted": ("rejected", "Drifted", ""),
        "little": ("interrupted", "Too little traffic to tell", ""),
    }
    style, headline, reason = verdicts[report.verdict]
    return template("monitor.html").render(
        name=name,
        report=report,
        style=style,
        headline=headline,
        reason=reason or "; ".join(map(describe, report.findings)) or "; ".join(report.notes[:1]),
        checks=sorted(report.checks, key=lambda check: (not check.found, check.p)),
    )
