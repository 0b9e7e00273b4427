"""The interface of ImageExampleValidator."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.image_example_validator import executor
from components.image_example_validator.findings import Policy
from components.resolvers.previous_statistics import PREVIOUS


class ImageExampleValidatorSpec(ComponentSpec):
    """Parameters, inputs and output of ImageExampleValidator."""

    PARAMETERS = {
        executor.POLICY_KEY: ExecutionParameter(type=str),
        "code": ExecutionParameter(type=str),
    }
    INPUTS = {
        standard_component_specs.STATISTICS_KEY: ChannelParameter(
            type=standard_artifacts.ExampleStatistics
        ),
        standard_component_specs.SCHEMA_KEY: ChannelParameter(type=standard_artifacts.Schema),
        PREVIOUS: ChannelParameter(type=standard_artifacts.ExampleStatistics, optional=True),
    }
    OUTPUTS = {
        standard_component_specs.ANOMALIES_KEY: ChannelParameter(
            type=standard_artifacts.ExampleAnomalies
        ),
    }


class ImageExampleValidator(base_component.BaseComponent):
    """Validator of statistics that stops the run on findings which the policy refuses.

    TFX's ExampleValidator only sets a property on its output, and the run goes on; nor does it
    compare splits with each other or with the data before.
    """

    SPEC_CLASS = ImageExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        statistics: types.BaseChannel,
        schema: types.BaseChannel,
        previous: types.BaseChannel,
        policy: Policy,
        code: str,
    ) -> None:
        """Construct the component.

        Args:
          statistics: ImageStatisticsGen's output.
          schema: to validate against; comparators in it win over those of the policy.
          previous: statistics to measure drift against, as PreviousStatisticsStrategy finds them;
            may turn out empty.
          policy: thresholds, and what only warns.
          code: fingerprint of the executor's source, so that a change of it misses the cache.
        """
        super().__init__(
            spec=ImageExampleValidatorSpec(
                statistics=statistics,
                schema=schema,
                previous=previous,
                policy=policy.model_dump_json(),
                code=code,
                anomalies=types.Channel(type=standard_artifacts.ExampleAnomalies),
            )
        )
