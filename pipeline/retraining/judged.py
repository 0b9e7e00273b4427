"""The models that were judged before, here or on a cluster, as ML Metadata has them."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING

from components import lineage

if TYPE_CHECKING:
    from ml_metadata import MetadataStore
    from ml_metadata.proto import metadata_store_pb2

# What the Evaluator writes on a blessing.
BLESSED, MODEL = "blessed", "current_model_id"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model that was judged.

    Attributes:
      model: id of its artifact.
      uri: of the artifact.
      blessed: the verdict.
      made: when it was trained, UTC.
      examples: URI of the ingested examples that it was trained on.
      run: id of the run that trained it; "" where that is not known.
    """

    model: int
    uri: str
    blessed: bool
    made: datetime.datetime
    examples: str
    run: str = ""


@dataclasses.dataclass(frozen=True)
class History:
    """The last model that was judged, and the last one that was blessed: the baseline."""

    last: Trained | None = None
    baseline: Trained | None = None


def read(connection: metadata_store_pb2.ConnectionConfig, pipeline: str) -> History:
    """Look at the models of the pipeline called `pipeline`."""
    import ml_metadata

    store = ml_metadata.MetadataStore(connection)
    context = store.get_context_by_type_and_name("pipeline", pipeline)
    if context is None:
        return History()
    types = {kind.id: kind.name for kind in store.get_artifact_types()}
    artifacts = store.get_artifacts_by_context(context.id)
    models = {each.id: each for each in artifacts if types[each.type_id] == "Model"}
    blessings = {
        each.id: each
        for each in artifacts
        if types[each.type_id] == "ModelBlessing" and MODEL in each.custom_properties
    }
    # A model that is judged once more is taken from the cache: a new execution, the same blessing.
    judged: dict[int, tuple[int, bool]] = {}
    for event in store.get_events_by_artifact_ids(list(blessings)):
        properties = blessings[event.artifact_id].custom_properties
        model = properties[MODEL].int_value
        if model in models and models[model].state == models[model].LIVE:
            told = (event.execution_id, properties[BLESSED].int_value == 1)
            judged[model] = max(judged.get(model, told), told)
    blessed = [model for model, (_, is_blessed) in judged.items() if is_blessed]

    def trained(model: int) -> Trained:
        artifact = models[model]
        return Trained(
            model=model,
            uri=artifact.uri,
            blessed=judged[model][1],
            made=datetime.datetime.fromtimestamp(
                artifact.create_time_since_epoch / 1000, datetime.UTC
            ),
            examples=next(lineage.ingested(store, model), ""),
            run=_run(store, model),
        )

    return History(
        last=trained(max(judged, key=lambda model: judged[model])) if judged else None,
        # As the Resolver has it: the latest that was trained, not that was judged.
        baseline=trained(max(blessed)) if blessed else None,
    )


def _run(store: MetadataStore, artifact: int) -> str:
    """The run that made an artifact, not one that took it from the cache; "" without one."""
    from ml_metadata.proto import metadata_store_pb2

    made = [
        event.execution_id
        for event in store.get_events_by_artifact_ids([artifact])
        if event.type == metadata_store_pb2.Event.OUTPUT
    ]
    contexts = store.get_contexts_by_execution(min(made)) if made else []
    return next((each.name for each in contexts if each.type == "pipeline_run"), "")
