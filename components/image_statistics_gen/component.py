"""The interface of ImageStatisticsGen."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.image_statistics_gen import executor


class ImageStatisticsGenSpec(ComponentSpec):
    """Parameters, input and output of ImageStatisticsGen."""

    PARAMETERS = {"code": ExecutionParameter(type=str)}
    INPUTS = {
        standard_component_specs.EXAMPLES_KEY: ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {
        standard_component_specs.STATISTICS_KEY: ChannelParameter(
            type=standard_artifacts.ExampleStatistics
        ),
    }


class ImageStatisticsGen(base_beam_component.BaseBeamComponent):
    """Writer of TFDV's statistics of `components.features.STATISTICS`, as TFX's StatisticsGen.

    That one puts whole records into batches of up to a thousand before it drops what it was told
    to: with phone photos, gigabytes.
    """

    SPEC_CLASS = ImageStatisticsGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(self, examples: types.BaseChannel, code: str) -> None:
        """Construct the component.

        Args:
          examples: ImageExampleGen's output.
          code: fingerprint of the executor's source, so that a change of it misses the cache.
        """
        super().__init__(
            spec=ImageStatisticsGenSpec(
                examples=examples,
                code=code,
                statistics=types.Channel(type=standard_artifacts.ExampleStatistics),
            )
        )
