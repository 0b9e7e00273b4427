"""The one channel on which components and the trainer say how far they are.

Events are ordinary log records, so any runner shows them the way that fits it: bars on a terminal,
plain lines in a log, JSON in a pod.
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("perennial.progress")


def report(event: str, **fields: object) -> None:
    """Emit `event` with JSON-able `fields`, carried on the record as `record.fields`.

    Events: `step` (what, unit, total or None, extras such as loss, and either `done` so far or,
    from workers that do not know of each other, `advance` since their last), `epoch` (epoch,
    epochs, metrics) and `note` (text). A runner adds those of the run and its nodes.
    """
    LOGGER.info(event, extra={"fields": fields})
