"""What ML Metadata has of runs, artifacts and models: the only part that asks it.

TFX's launcher registers executions by itself; everything else is asked here, and answered by typed
records. Each question costs the same whatever is behind it, but for those of `runs` and `artifacts`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from components import storage
from components.image_example_gen.inputs import INPUTS_FILE

if TYPE_CHECKING:
    from ml_metadata import MetadataStore
    from ml_metadata.proto import metadata_store_pb2

# Types, contexts and properties, as TFX and the components name them.
RUN, PIPELINE = "pipeline_run", "pipeline"
MODEL, BLESSING, EXAMPLES, PUSHED = "Model", "ModelBlessing", "Examples", "PushedModel"
BLESSED, JUDGED_MODEL = "blessed", "current_model_id"  # of a blessing
FINGERPRINT = "input_fingerprint"  # of ingested examples; Transform's have none
DESTINATION = "pushed_destination"  # of a pushed model
_PAGE = 20


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
class Trained:
    """A model that was judged.

    Attributes:
      model: id of its artifact.
      uri: of the artifact.
      blessed: the verdict.
      made: when it was trained, UTC.
      examples: URI of the ingested examples that it was trained on.
      run: id of the run that trained it; "" where that is not known.
      blessing: id of the artifact with the verdict.
    """

    model: int
    uri: str
    blessed: bool
    made: datetime.datetime
    examples: str
    run: str = ""
    blessing: int = 0


@dataclasses.dataclass(frozen=True)
class History:
    """The last model that was judged, and the last one that was blessed: the baseline."""

    last: Trained | None = None
    baseline: Trained | None = None


class Lineage:
    """Questions to one database."""

    def __init__(self, store: MetadataStore) -> None:
        self.store = store

    @classmethod
    def at(cls, connection: metadata_store_pb2.ConnectionConfig) -> Lineage:
        """Connect to a database that is there."""
        import ml_metadata

        return cls(ml_metadata.MetadataStore(connection))

    # Artifacts

    def outputs(self, run: str) -> list[Output]:
        """What the nodes of a run that ended well put out, or took from the cache."""
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

    def newest(self, kind: str) -> metadata_store_pb2.Artifact | None:
        """The newest artifact of a type that is still there."""
        return next((each for each in self._live(f'type = "{kind}"')), None)

    def artifacts(self) -> list[metadata_store_pb2.Artifact]:
        """All artifacts there ever were."""
        return list(self.store.get_artifacts())

    def deserialized(self, artifacts: Iterable[metadata_store_pb2.Artifact]) -> list[Any]:
        """The artifacts as TFX's own types, which must have been imported."""
        from tfx.types import artifact_utils

        found = []
        for each in artifacts:
            (kind,) = self.store.get_artifact_types_by_id([each.type_id])
            found.append(artifact_utils.deserialize_artifact(kind, each))
        return found

    def delete(self, artifacts: Collection[int]) -> None:
        """Mark artifacts as deleted, so that nothing is taken from the cache that needs them."""
        found = list(self._by_id(artifacts).values())
        for each in found:
            each.state = each.DELETED
        if found:
            self.store.put_artifacts(found)

    # Where artifacts come from

    def makers(self, artifact: int) -> list[int]:
        """Executions that put out an artifact, the one that made it first; others found it."""
        events = self.store.get_events_by_artifact_ids([artifact])
        return sorted(each.execution_id for each in events if each.type == each.OUTPUT)

    def run_of(self, artifact: int) -> metadata_store_pb2.Context | None:
        """The run that made an artifact, not one that took it from the cache."""
        made = self.makers(artifact)[:1]
        contexts = self.store.get_contexts_by_execution(made[0]) if made else []
        return next((each for each in contexts if each.type == RUN), None)

    def inputs_of(self, artifact: int) -> set[int]:
        """The artifacts that the executions which put it out had read."""
        events = self._events_of(self.makers(artifact))
        return {each.artifact_id for each in events if each.type == each.INPUT}

    def ingested(self, artifact: int) -> Iterator[str]:
        """URIs of all ingested examples that an artifact comes from, its nearest first.

        Further ones are those of the model that its training began with, and of what that began
        with.
        """
        waiting, seen = [artifact], {artifact}
        while waiting:
            sources = set().union(*(self.inputs_of(each) for each in waiting))
            waiting = sorted(sources - seen)
            seen |= sources
            for found in self._by_id(waiting).values():
                if FINGERPRINT in found.custom_properties and found.type == EXAMPLES:
                    yield str(found.uri)

    # Runs

    def runs(self) -> list[metadata_store_pb2.Context]:
        """All runs, oldest first."""
        return sorted(self.store.get_contexts_by_type(RUN), key=lambda run: run.id)

    def touched(self, runs: Iterable[int]) -> set[int]:
        """The artifacts that any execution in these runs read or wrote."""
        executions = [
            each.id for run in runs for each in self.store.get_executions_by_context(run)
        ]
        return {each.artifact_id for each in self._events_of(executions)}

    def newest_executions(self, count: int) -> list[metadata_store_pb2.Execution]:
        """The executions that began last, the very last first."""
        return list(self.store.get_executions(_newest(limit=count)))

    # Models

    def pipeline_of(self, artifact: int) -> str:
        """The name of the pipeline whose artifact it is; databases may be shared."""
        contexts = self.store.get_contexts_by_artifact(artifact)
        return next((each.name for each in contexts if each.type == PIPELINE), "")

    def history(self, pipeline: str) -> History:
        """The models of the pipeline called `pipeline` that were judged."""
        context = self.store.get_context_by_type_and_name(PIPELINE, pipeline)
        if context is None:
            return History()
        last = self._last_judged(context.id)
        baseline = next(self.blessed(pipeline), None)
        return History(
            last=self._trained(*last) if last else None,
            # The latest that was trained, not that was judged: as the resolvers have it.
            baseline=self._trained(*baseline) if baseline else None,
        )

    def blessed(
        self, pipeline: str
    ) -> Iterator[tuple[metadata_store_pb2.Artifact, metadata_store_pb2.Artifact]]:
        """Models that are there and whose last verdict blessed them, newest first; with these."""
        context = self.store.get_context_by_type_and_name(PIPELINE, pipeline)
        if context is None:
            return
        for model in self._live(f'type = "{MODEL}" AND contexts_0.id = {context.id}'):
            blessing = self._verdict(model.id)
            if blessing is not None and _is_blessed(blessing):
                yield model, blessing

    def _verdict(self, model: int) -> metadata_store_pb2.Artifact | None:
        """The blessing of a model by the execution that judged it, or found its verdict, last."""
        query = (
            f'type = "{BLESSING}" AND custom_properties.{JUDGED_MODEL}.int_value = {model}'
        )
        found = {each.id: each for each in self._pages(query)}
        if len(found) < 2:
            return next(iter(found.values()), None)
        events = self.store.get_events_by_artifact_ids(list(found))
        return found[max(events, key=lambda each: each.execution_id).artifact_id]

    def _last_judged(
        self, pipeline: int
    ) -> tuple[metadata_store_pb2.Artifact, metadata_store_pb2.Artifact] | None:
        """The model that was judged last, which may be an old one, and the verdict."""
        newest: dict[int, metadata_store_pb2.Artifact] = {}
        for blessing in self._pages(f'type = "{BLESSING}" AND contexts_0.id = {pipeline}'):
            model = blessing.custom_properties[JUDGED_MODEL].int_value
            if model not in newest:
                newest[model] = blessing
            # The verdict of an older model is found again only where the settings went back to it.
            if len(newest) == _PAGE:
                break
        latest: dict[int, int] = {}
        for event in self.store.get_events_by_artifact_ids([each.id for each in newest.values()]):
            known = latest.get(event.artifact_id, 0)
            latest[event.artifact_id] = max(known, event.execution_id)
        for blessing in sorted(newest.values(), key=lambda each: latest[each.id], reverse=True):
            model = blessing.custom_properties[JUDGED_MODEL].int_value
            found = self._by_id([model]).get(model)
            if found is not None and found.state == found.LIVE:
                return found, blessing
        return None

    def _trained(
        self, model: metadata_store_pb2.Artifact, blessing: metadata_store_pb2.Artifact
    ) -> Trained:
        run = self.run_of(model.id)
        made = model.create_time_since_epoch / 1000
        return Trained(
            model=model.id,
            uri=model.uri,
            blessed=_is_blessed(blessing),
            made=datetime.datetime.fromtimestamp(made, datetime.UTC),
            examples=next(self.ingested(model.id), ""),
            run=run.name if run else "",
            blessing=blessing.id,
        )

    # Pages of answers

    def _live(self, query: str) -> Iterator[metadata_store_pb2.Artifact]:
        return (each for each in self._pages(query) if each.state == each.LIVE)

    def _pages(self, query: str) -> Iterator[metadata_store_pb2.Artifact]:
        """Artifacts, newest first, fetched as they are asked for."""
        below = ""
        while True:
            found = self.store.get_artifacts(_newest(query + below, _PAGE))
            yield from found
            if len(found) < _PAGE:
                return
            below = f" AND id < {found[-1].id}"

    def _by_id(self, artifacts: Iterable[int]) -> dict[int, metadata_store_pb2.Artifact]:
        wanted = sorted(set(artifacts))
        found = self.store.get_artifacts_by_id(wanted) if wanted else []
        return {each.id: each for each in found}

    def _events_of(self, executions: Sequence[int]) -> list[metadata_store_pb2.Event]:
        return list(self.store.get_events_by_execution_ids(sorted(executions)))


def _newest(query: str | None = None, limit: int | None = None) -> Any:
    import ml_metadata

    order = ml_metadata.OrderByField.ID
    return ml_metadata.ListOptions(
        limit=limit, order_by=order, is_asc=False, filter_query=query
    )


def _is_blessed(blessing: metadata_store_pb2.Artifact) -> bool:
    return bool(blessing.custom_properties[BLESSED].int_value == 1)


def _text(artifact: metadata_store_pb2.Artifact, name: str) -> str:
    properties = artifact.custom_properties
    return str(properties[name].string_value) if name in properties else ""


def contents(uri: str, *splits: str) -> set[str]:
    """SHA-256 of the images in these splits of ingested examples. Raises OSError without a list."""
    lines = storage.read_bytes(f"{uri}/{INPUTS_FILE}").splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["sha256"] for row in rows if row["fate"] in splits}
