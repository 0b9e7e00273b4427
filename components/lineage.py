"""Runs, artifacts and models in ML Metadata: the only module that queries it.

TFX's launcher registers executions by itself; everything else is asked here, and answered by typed
records. Each question costs the same whatever is behind it, but for those for all of a kind.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from components import storage
from components.reuse import INPUTS_FILE

if TYPE_CHECKING:
    from ml_metadata import MetadataStore
    from ml_metadata.proto import metadata_store_pb2

# Types, contexts and properties, as TFX and the components name them.
RUN, PIPELINE = "pipeline_run", "pipeline"
MODEL, BLESSING, EXAMPLES, PUSHED = "Model", "ModelBlessing", "Examples", "PushedModel"
BLESSED, JUDGED_MODEL = "blessed", "current_model_id"  # of a blessing
FINGERPRINT = "input_fingerprint"  # of ingested examples; Transform's have none
DESTINATION = "pushed_destination"  # of a pushed model
_NEWEST = 20  # models, among which the one that was judged last is


@dataclasses.dataclass(frozen=True)
class Output:
    """An artifact that an execution put out, or took from the cache.

    key: among the outputs of its node. fingerprint: of the data, of ingested examples only.
    """

    id: int
    key: str
    type: str
    uri: str
    execution: int
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True)
class TrainedModel:
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

    last: TrainedModel | None = None
    baseline: TrainedModel | None = None


class Lineage:
    """Questions to one database."""

    def __init__(self, store: MetadataStore) -> None:
        self.store = store

    @classmethod
    def at(cls, connection: metadata_store_pb2.ConnectionConfig) -> Lineage:
        """Connect to a database that is there."""
        import ml_metadata

        # ML Metadata logs with absl, which would set up a handler that prints all later records.
        if not logging.getLogger().handlers:
            logging.getLogger().addHandler(logging.NullHandler())
        return cls(ml_metadata.MetadataStore(connection))

    # Artifacts

    def outputs(self, run: str) -> list[Output]:
        """Return the outputs of a run's successful nodes, cached ones included."""
        context = self.store.get_context_by_type_and_name(RUN, run)
        if context is None:
            return []
        executions = [
            each.id
            for each in self.store.get_executions_by_context(context.id)
            if each.last_known_state in (each.COMPLETE, each.CACHED)
        ]
        events = [each for each in self._events_of(executions) if each.type == each.OUTPUT]
        artifacts = self._by_id(event.artifact_id for event in events)
        return [
            Output(
                id=event.artifact_id,
                key=event.path.steps[0].key,
                type=artifacts[event.artifact_id].type,
                uri=artifacts[event.artifact_id].uri,
                execution=event.execution_id,
                fingerprint=_text(artifacts[event.artifact_id], FINGERPRINT),
            )
            for event in events
        ]

    def of_type(self, kind: str) -> list[metadata_store_pb2.Artifact]:
        """Return the live artifacts of a type, newest first, of all pipelines."""
        found = self.store.get_artifacts_by_type(kind)
        return sorted(
            (each for each in found if each.state == each.LIVE),
            key=lambda each: each.id,
            reverse=True,
        )

    def artifacts(self) -> list[metadata_store_pb2.Artifact]:
        """Return all artifacts there ever were."""
        return list(self.store.get_artifacts())

    def delete(self, artifacts: Collection[int]) -> None:
        """Mark artifacts as deleted, so that nothing is taken from the cache that needs them."""
        found = list(self._by_id(artifacts).values())
        for each in found:
            each.state = each.DELETED
        if found:
            self.store.put_artifacts(found)

    # Where artifacts come from

    def maker(self, artifact: metadata_store_pb2.Artifact) -> int | None:
        """Return the execution that made an artifact, not one that took it from the cache."""
        # Of an artifact that many runs have used ML Metadata reads all of these; TFX ends the URI
        # with the execution.
        named = artifact.uri.rstrip("/").rpartition("/")[2]
        if re.fullmatch(r"\d{1,18}", named):
            events = self._events_of([int(named)])
            if any(each.artifact_id == artifact.id and each.type == each.OUTPUT for each in events):
                return int(named)
        events = self.store.get_events_by_artifact_ids([artifact.id])
        return min((each.execution_id for each in events if each.type == each.OUTPUT), default=None)

    def run_of(self, artifact: metadata_store_pb2.Artifact) -> metadata_store_pb2.Context | None:
        """Return the run that made an artifact, not one that took it from the cache."""
        return next((each for each in self._contexts_of(artifact) if each.type == RUN), None)

    def inputs_of(self, artifact: metadata_store_pb2.Artifact) -> set[int]:
        """Return the inputs of the execution that made an artifact.

        Those that took it from the cache have the same ones: they are part of the cache's key.
        """
        made = self.maker(artifact)
        events = [] if made is None else self._events_of([made])
        return {each.artifact_id for each in events if each.type == each.INPUT}

    def _contexts_of(
        self, artifact: metadata_store_pb2.Artifact
    ) -> list[metadata_store_pb2.Context]:
        made = self.maker(artifact)
        return [] if made is None else list(self.store.get_contexts_by_execution(made))

    def ingested(self, artifact: metadata_store_pb2.Artifact) -> Iterator[str]:
        """URIs of all ingested examples that an artifact comes from, its nearest first.

        Further ones are those of the model that its training began with, and of what that began
        with.
        """
        waiting, seen = [artifact], {artifact.id}
        while waiting:
            sources = set().union(*(self.inputs_of(each) for each in waiting))
            waiting = [each for _, each in sorted(self._by_id(sources - seen).items())]
            seen |= sources
            for found in waiting:
                if FINGERPRINT in found.custom_properties and found.type == EXAMPLES:
                    yield str(found.uri)

    # Runs

    def runs(self) -> list[metadata_store_pb2.Context]:
        """Return all runs, oldest first."""
        return sorted(self.store.get_contexts_by_type(RUN), key=lambda run: run.id)

    def touched(self, runs: Iterable[int]) -> set[int]:
        """Return the inputs and outputs of all executions in these runs."""
        executions = [each.id for run in runs for each in self.store.get_executions_by_context(run)]
        return {each.artifact_id for each in self._events_of(executions)}

    def newest_executions(self, count: int) -> list[metadata_store_pb2.Execution]:
        """Return the executions that began last, the very last first."""
        import ml_metadata

        order = ml_metadata.OrderByField.ID
        return list(
            self.store.get_executions(
                ml_metadata.ListOptions(limit=count, order_by=order, is_asc=False)
            )
        )

    # Contexts that TFX does not know

    def recall(self, kind: str, context: str, key: str) -> str:
        """Return what `remember` has kept, "" for nothing."""
        found = self.store.get_context_by_type_and_name(kind, context)
        return _text(found, key) if found else ""

    def remember(self, context: metadata_store_pb2.Context, key: str, text: str) -> None:
        """Keep a text in a context."""
        context.custom_properties[key].string_value = text
        self.store.put_contexts([context])

    def executions_in(self, kind: str, context: str) -> set[int]:
        """Return the ids of the executions in a context; none where there is none."""
        found = self.store.get_context_by_type_and_name(kind, context)
        executions = self.store.get_executions_by_context(found.id) if found else ()
        return {each.id for each in executions}

    def fail(self, execution: metadata_store_pb2.Execution) -> None:
        """Mark an execution as failed."""
        execution.last_known_state = execution.FAILED
        self.store.put_executions([execution])

    # Models

    def of_pipeline(
        self, artifacts: Iterable[metadata_store_pb2.Artifact], pipeline: str
    ) -> Iterator[metadata_store_pb2.Artifact]:
        """Yield the artifacts of a pipeline: databases may be shared."""
        for each in artifacts:
            contexts = self._contexts_of(each)
            if any(found.type == PIPELINE and found.name == pipeline for found in contexts):
                yield each

    def history(self, pipeline: str) -> History:
        """Return the last live model that was judged, and the baseline, of a pipeline."""
        models = {each.id: each for each in self.of_type(MODEL)}
        verdicts: dict[int, list[metadata_store_pb2.Artifact]] = {}
        for blessing in self.of_type(BLESSING):
            if JUDGED_MODEL in blessing.custom_properties:
                model = blessing.custom_properties[JUDGED_MODEL].int_value
                verdicts.setdefault(model, []).append(blessing)
        judged = [model for model in models if model in verdicts]
        own = (each.id for each in self.of_pipeline((models[each] for each in judged), pipeline))

        last: tuple[int, int] | None = None
        baseline = None
        # A model that is judged once more is taken from the cache: a new execution, the same
        # verdict. The newest execution is that of one of the newest models, or of the baseline.
        for model in itertools.islice(own, _NEWEST):
            told, is_blessed = self._verdict(verdicts[model])
            last = max(last or (told, model), (told, model))
            # As the resolvers have it: the latest that was trained, not that was judged.
            baseline = model if is_blessed and baseline is None else baseline
        for model in own if baseline is None else ():
            if self._verdict(verdicts[model])[1]:
                baseline = model
                break
        return History(
            last=self._trained(models[last[1]], self._verdict(verdicts[last[1]])[1])
            if last
            else None,
            baseline=self._trained(models[baseline], True) if baseline else None,
        )

    def _verdict(self, blessings: Sequence[metadata_store_pb2.Artifact]) -> tuple[int, bool]:
        """Return the last execution that judged a model, also from the cache, and its verdict."""
        found = {each.id: each for each in blessings}
        events = self.store.get_events_by_artifact_ids(list(found))
        return max((each.execution_id, _is_blessed(found[each.artifact_id])) for each in events)

    def _trained(self, model: metadata_store_pb2.Artifact, blessed: bool) -> TrainedModel:
        run = self.run_of(model)
        made = model.create_time_since_epoch / 1000
        return TrainedModel(
            model=model.id,
            uri=model.uri,
            blessed=blessed,
            made=datetime.datetime.fromtimestamp(made, datetime.UTC),
            examples=next(self.ingested(model), ""),
            run=run.name if run else "",
        )

    def _by_id(self, artifacts: Iterable[int]) -> dict[int, metadata_store_pb2.Artifact]:
        wanted = sorted(set(artifacts))
        found = self.store.get_artifacts_by_id(wanted) if wanted else []
        return {each.id: each for each in found}

    def _events_of(self, executions: Sequence[int]) -> list[metadata_store_pb2.Event]:
        return list(self.store.get_events_by_execution_ids(sorted(executions)))


def _is_blessed(blessing: metadata_store_pb2.Artifact) -> bool:
    return bool(blessing.custom_properties[BLESSED].int_value == 1)


def _text(found: metadata_store_pb2.Artifact | metadata_store_pb2.Context, name: str) -> str:
    properties = found.custom_properties
    return str(properties[name].string_value) if name in properties else ""


def contents(uri: str, *splits: str) -> set[str]:
    """SHA-256 of the images in these splits of ingested examples. Raises OSError without a list."""
    with storage.opened(f"{uri}/{INPUTS_FILE}") as file:
        rows = map(json.loads, file)
        return {row["sha256"] for row in rows if row["fate"] in splits}
