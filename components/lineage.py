"""The ingested examples that an artifact comes from, by ML Metadata, and what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from components.image_example_gen.inputs import INPUTS_FILE

if TYPE_CHECKING:
    from ml_metadata import MetadataStore

# What ImageExampleGen's driver writes on its output, and Transform does not on its own.
_FINGERPRINT = "input_fingerprint"


def ingested(store: MetadataStore, artifact: int) -> Iterator[str]:
    """URIs of all ingested examples that an artifact comes from, its nearest first.

    Further ones are those of the model that its training began with, and of what that began with.
    """
    from ml_metadata.proto import metadata_store_pb2

    event = metadata_store_pb2.Event
    waiting, seen = [artifact], {artifact}
    while waiting:
        made = [
            each.execution_id
            for each in store.get_events_by_artifact_ids(waiting)
            if each.type == event.OUTPUT
        ]
        sources = {
            each.artifact_id
            for each in store.get_events_by_execution_ids(made)
            if each.type == event.INPUT
        }
        waiting = sorted(sources - seen)
        seen |= sources
        for found in store.get_artifacts_by_id(waiting):
            if _FINGERPRINT in found.custom_properties and found.type == "Examples":
                yield str(found.uri)


def contents(uri: str, *splits: str) -> set[str]:
    """SHA-256 of the images in these splits of ingested examples. Raises OSError without a list."""
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(f"{uri}/{INPUTS_FILE}") as file:
            rows = map(json.loads, file)
            return {row["sha256"] for row in rows if row["fate"] in splits}
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
