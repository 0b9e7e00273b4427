"""Finds the model that a training may begin from."""

from __future__ import annotations

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2 as protos
from tfx import types
from tfx.dsl.components.common import resolver

from components import progress
from components.resolvers.baseline import MODEL, MODEL_BLESSING, blessed_models

EXAMPLES = "examples"


class WarmStartStrategy(resolver.ResolverStrategy):
    """Resolves `model` to the latest blessed Model that was not trained on `examples`.

    Were it simply the latest one, a rerun on the same data would find the model of the run before,
    so that no training was ever taken from the cache. Reports why there is none, if so.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        examples = {artifact.id for artifact in input_dict[EXAMPLES]}
        blessed, blessings = blessed_models(input_dict)
        earlier = [model for model in blessed if not examples & _trained_on(store, model.id)]
        base = max(earlier, key=lambda model: model.id, default=None)
        if base is None:
            why = (
                "every blessed model was trained on these same images"
                if blessed
                else "no model is blessed yet"
            )
            progress.report("note", text=f"train.warm_start: {why}, so training starts afresh")
        return {
            EXAMPLES: input_dict[EXAMPLES],
            MODEL: [base] if base else [],
            MODEL_BLESSING: [blessings[base.id]] if base else [],
        }


def _trained_on(store: mlmd.MetadataStore, model: int) -> set[int]:
    """The artifacts that were inputs of the execution that made the model."""
    made = [
        event.execution_id
        for event in store.get_events_by_artifact_ids([model])
        if event.type == protos.Event.OUTPUT
    ]
    events = store.get_events_by_execution_ids(made)
    return {event.artifact_id for event in events if event.type == protos.Event.INPUT}
