"""The resolver strategy for the statistics that new ones are compared with."""

from __future__ import annotations

import ml_metadata as mlmd
from tfx import types
from tfx.dsl.components.common import resolver

CURRENT = "current"
PREVIOUS = "previous"
ANOMALIES = "anomalies"
STATISTICS_ID = "statistics_id"  # property of an anomalies artifact: the statistics that passed


class PreviousStatisticsStrategy(resolver.ResolverStrategy):
    """A strategy that resolves `previous` to the last valid statistics before `current`.

    Those of an earlier span where there are any, else those of the same span as it was before. A
    data set that was refused is not a standard for the next one. Whatever is ingested later, the
    answer for the same `current` stays, so that validating it again is served from the cache.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        (current,) = input_dict[CURRENT]
        passed = {
            anomalies.get_int_custom_property(STATISTICS_ID) for anomalies in input_dict[ANOMALIES]
        }
        earlier = [
            statistics
            for statistics in input_dict[PREVIOUS]
            if statistics.id in passed
            and statistics.id < current.id
            and statistics.span <= current.span
        ]
        previous = max(
            earlier,
            key=lambda statistics: (
                statistics.span < current.span,
                statistics.span,
                statistics.id,
            ),
            default=None,
        )
        return {
            CURRENT: input_dict[CURRENT],
            PREVIOUS: [previous] if previous else [],
            ANOMALIES: [],
        }
