"""Validation of statistics against the schema, the other splits and earlier statistics."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.components.example_validator import executor as example_validator
from tfx.components.schema_gen import executor as schema_gen
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import writer_utils

from components import features, storage
from components.errors import BadDataError
from components.image_example_validator.findings import (
    DATASET,
    Finding,
    Level,
    Policy,
    class_findings,
    removal_findings,
    write_findings,
)
from components.image_schema_gen.schema import class_counts, class_names, counted, load
from components.progress import report
from components.resolvers.previous_statistics import PREVIOUS, STATISTICS_ID
from components.wording import shortened

POLICY_KEY = "policy"
REFERENCE_SPLIT = "train"  # which the others are compared with

# Ids are positions among the classes at hand, and all change when one is added; spans only grow.
# Sizes of which most are equal are far apart by TFDV's histograms whatever the split: by up to 0.61
# between random halves of 500 photos. Their aspect is compared; a schema can ask for more.
NOT_COMPARED = (features.LABEL, features.SPAN, features.WIDTH, features.HEIGHT)

# By split name.
Statistics = Mapping[str, statistics_pb2.DatasetFeatureStatisticsList]

_LOG = logging.getLogger(__name__)


class Executor(base_executor.BaseExecutor):
    """Executor of ImageExampleValidator."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write TFDV's anomalies of each split as TFX does, and findings.json.

        Raises BadDataError where a finding blocks; the log then has all of them.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(
            input_dict[standard_component_specs.STATISTICS_KEY]
        )
        anomalies = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.ANOMALIES_KEY]
        )
        schema_uri = artifact_utils.get_single_uri(input_dict[standard_component_specs.SCHEMA_KEY])
        schema = load(storage.join(schema_uri, schema_gen.DEFAULT_FILE_NAME))
        policy = Policy.model_validate_json(exec_properties[POLICY_KEY])
        previous = [_load(each) for each in input_dict.get(PREVIOUS) or []]

        anomalies.split_names = artifact.split_names
        anomalies.span = artifact.span
        anomalies.set_int_custom_property(STATISTICS_ID, artifact.id)
        findings = []
        blessed = {}
        for split, proto, found in validate(
            _load(artifact), schema, previous[0] if previous else {}, policy
        ):
            uri = artifact_utils.get_split_uri([anomalies], split)
            writer_utils.write_anomalies(
                os.path.join(uri, example_validator.DEFAULT_FILE_NAME), proto
            )
            findings += found
            blessed[split] = int(not found)
        findings += removed(_load(artifact), artifact.span, input_dict, previous, policy)
        anomalies.set_json_value_custom_property(
            example_validator.ARTIFACT_PROPERTY_BLESSED_KEY, blessed
        )
        write_findings(findings, policy, anomalies.uri)
        _act(findings, policy)


def validate(
    statistics: Statistics, schema: schema_pb2.Schema, previous: Statistics, policy: Policy
) -> Iterator[tuple[str, anomalies_pb2.Anomalies, list[Finding]]]:
    """For each split: its name, TFDV's anomalies and the findings.

    Args:
      statistics: of every split.
      schema: with a class list.
      previous: statistics to measure drift against; a split that is not in it has none.
      policy: thresholds.
    """
    classes = class_names(schema)
    for split, own in statistics.items():
        reference = statistics.get(REFERENCE_SPLIT) if split != REFERENCE_SPLIT else None
        before = previous.get(split)
        comparing = _with_comparators(counted(schema), own, reference, before, policy)
        proto = tfdv.validate_statistics(
            own, comparing, previous_statistics=before, serving_statistics=reference
        )
        counts = class_counts(own)
        yield (
            split,
            proto,
            [
                *_tfdv_findings(split, proto),
                *class_findings(split, counts, classes, policy.max_imbalance),
            ],
        )


def removed(
    statistics: Statistics,
    span: int,
    input_dict: Mapping[str, list[types.Artifact]],
    previous: Sequence[Statistics],
    policy: Policy,
) -> Iterator[Finding]:
    """Find images that are gone since the same span was validated; another span may hold less."""
    for artifact, before in zip(input_dict.get(PREVIOUS) or [], previous, strict=True):
        if artifact.span == span:
            yield from removal_findings(_all(before), _all(statistics), policy.max_removed)


def _all(statistics: Statistics) -> dict[str, int]:
    """Count the images of each class, of all splits."""
    total: Counter[str] = Counter()
    for split in statistics.values():
        total.update(class_counts(split))
    return dict(total)


def _load(artifact: types.Artifact) -> dict[str, statistics_pb2.DatasetFeatureStatisticsList]:
    return {
        split: stats_artifact_utils.load_statistics(artifact, split).proto()
        for split in artifact_utils.decode_split_names(artifact.split_names)
    }


def _with_comparators(
    schema: schema_pb2.Schema,
    own: statistics_pb2.DatasetFeatureStatisticsList,
    reference: statistics_pb2.DatasetFeatureStatisticsList | None,
    before: statistics_pb2.DatasetFeatureStatisticsList | None,
    policy: Policy,
) -> schema_pb2.Schema:
    """Add TFDV's comparators to the features of `schema` that can be compared and have none yet."""
    comparisons = (
        ("skew_comparator", reference, policy.max_categorical_skew, policy.max_numeric_skew),
        ("drift_comparator", before, policy.max_categorical_drift, policy.max_numeric_drift),
    )
    for feature in schema.feature:
        if feature.name in NOT_COMPARED:
            continue
        for name, other, text_threshold, number_threshold in comparisons:
            both = other is not None and feature.name in _names(own) & _names(other)
            if not both or feature.HasField(name):
                continue
            comparator = getattr(feature, name)
            if feature.type == schema_pb2.BYTES:
                comparator.infinity_norm.threshold = text_threshold
            else:
                comparator.jensen_shannon_divergence.threshold = number_threshold
    return schema


def _names(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> set[str]:
    return {".".join(each.path.step) for each in statistics.datasets[0].features}


def _tfdv_findings(split: str, anomalies: anomalies_pb2.Anomalies) -> Iterator[Finding]:
    """One finding for each reason, those about all of the data first."""
    infos = [(DATASET, anomalies.dataset_anomaly_info), *sorted(anomalies.anomaly_info.items())]
    for name, info in infos:
        for reason in info.reason:
            text = f"{reason.short_description}: {reason.description}".rstrip(". \n")
            # As TFDV calls the two sides, whatever they are.
            text = text.replace("training and serving", f"{split} and {REFERENCE_SPLIT}")
            text = text.replace("current and previous", "these and the previous statistics")
            kind = anomalies_pb2.AnomalyInfo.Type.Name(reason.type)
            yield Finding(split, name, kind, " ".join(text.split()))


def _act(findings: list[Finding], policy: Policy) -> None:
    """Report warnings. Raises BadDataError where a finding blocks."""
    blocking = [each for each in findings if policy.level(each) == Level.BLOCK]
    for finding in findings:
        if finding in blocking:
            _LOG.error("blocking: %s", finding)
        else:
            report("note", text=f"warning: {finding}")
    if blocking:
        raise BadDataError(
            f"the data is not fit to train on: {shortened(blocking, '; ')}. "
            "Fix the data; or the schema (perennial schema), if this is how the data should look; "
            "or let it pass with validation.warn",
            findings=blocking,
        )
