"""Queries of TFX to ML Metadata whose cost grows with every run, replaced by others.

For each input of a node, and to register an execution, TFX 1.21 reads all executions of the
pipeline (channel_resolver.py:31, mlmd/execution_lib.py:629, whose query ML Metadata 1.21 no
longer has), and all that ever had a node's cache key (cache_utils.py:147). These read only
what is needed, with the same results.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterable
from typing import Any

import ml_metadata
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.portable import cache_utils
from tfx.orchestration.portable.input_resolution import channel_resolver
from tfx.orchestration.portable.mlmd import execution_lib
from tfx.types import artifact_utils

from components.lineage import BLESSED, BLESSING, JUDGED_MODEL, MODEL, PIPELINE, RUN, Lineage

# Of a type: resolvers look for one, which is among the newest, or the newest that are blessed.
_NEWEST = 50
_EXECUTIONS = 10
_resolve_single_channel = channel_resolver.resolve_single_channel
_get_cache_context = cache_utils.get_cache_context


def install() -> None:
    """Replace the queries of TFX in this process."""
    channel_resolver._get_executions_by_all_contexts = executions_in
    channel_resolver.resolve_single_channel = _resolve
    execution_lib.get_executions_associated_with_all_contexts = _executions_of_handle
    cache_utils.get_cached_outputs = _cached_outputs
    cache_utils.get_cache_context = _cache_context


def executions_in(
    store: ml_metadata.MetadataStore, contexts: Iterable[metadata_store_pb2.Context]
) -> list[metadata_store_pb2.Execution]:
    """Return the executions that are in all of these contexts, the first one first."""
    # Those of a run are few, those of a pipeline are all that there are.
    smallest, *others = sorted(contexts, key=lambda each: (each.type == PIPELINE, each.type != RUN))
    wanted = {each.id for each in others}
    found = store.get_executions_by_context(smallest.id)
    return sorted(
        (
            each
            for each in found
            if not wanted
            or wanted <= {context.id for context in store.get_contexts_by_execution(each.id)}
        ),
        key=lambda each: each.id,
    )


def _executions_of_handle(
    metadata_handle: Any, contexts: Iterable[metadata_store_pb2.Context]
) -> list[metadata_store_pb2.Execution]:
    return executions_in(metadata_handle.store, contexts)


def _cache_context(*args: Any, **kwargs: Any) -> metadata_store_pb2.Context:
    """Return the cache key, which stays the same where the folder of all artifacts is moved."""
    inputs = copy.deepcopy(dict(kwargs["input_artifacts"]))
    for artifact in itertools.chain(*inputs.values()):
        artifact.uri = "/".join(artifact.uri.rstrip("/").rsplit("/", 3)[1:])
        artifact.mlmd_artifact.ClearField("last_update_time_since_epoch")
    return _get_cache_context(*args, **{**kwargs, "input_artifacts": inputs})


def _cached_outputs(
    metadata_handle: Any, cache_context: metadata_store_pb2.Context
) -> dict[str, list[Any]] | None:
    """Return the outputs of the newest execution with this cache key whose outputs all exist.

    Older ones have the same outputs: each has taken them from the one before.
    """
    options = ml_metadata.ListOptions(
        limit=_EXECUTIONS, order_by=ml_metadata.OrderByField.ID, is_asc=False
    )
    for execution in metadata_handle.store.get_executions_by_context(cache_context.id, options):
        if execution_lib.is_execution_successful(execution):
            outputs = cache_utils._get_outputs_of_execution(metadata_handle, execution.id)
            if outputs is not None:
                with contextlib.suppress(RuntimeError):  # what is not there any more
                    artifact_utils.verify_artifacts(outputs)
                    return dict(outputs)
    return None


def _resolve(handle_like: Any, channel: Any) -> list[Any]:
    """Return the artifacts of a channel; of one of all nodes of a pipeline, by their type."""
    if channel.output_key or [each.type.name for each in channel.context_queries] != [PIPELINE]:
        return list(_resolve_single_channel(handle_like, channel))
    known = Lineage(channel_resolver.mlmd_cm.get_handle(handle_like).store)
    kind = channel.artifact_query.type.name
    found = known.of_type(kind)
    if kind in (MODEL, BLESSING):
        blessed = _blessed(known)
        found.sort(key=lambda each: each.id in blessed, reverse=True)
    name = channel.context_queries[0].name.field_value.string_value
    newest = list(itertools.islice(known.of_pipeline(found, name), _NEWEST))
    types = known.store.get_artifact_types_by_id(sorted({each.type_id for each in newest}))
    return list(artifact_utils.deserialize_artifacts(types[0], newest)) if types else []


def _blessed(known: Lineage) -> set[int]:
    """Return the ids of blessed models, and of their blessings."""
    found = [each for each in known.of_type(BLESSING) if each.custom_properties[BLESSED].int_value]
    return {
        number
        for each in found
        for number in (each.id, each.custom_properties[JUDGED_MODEL].int_value)
    }
