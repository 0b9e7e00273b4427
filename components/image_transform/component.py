"""The interface of ImageTransform."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.image_transform import executor


class ImageTransformSpec(ComponentSpec):
    """Parameters, inputs and outputs of ImageTransform."""

    PARAMETERS = {
        standard_component_specs.PREPROCESSING_FN_KEY: ExecutionParameter(type=str),
        standard_component_specs.CUSTOM_CONFIG_KEY: ExecutionParameter(type=str),
    }
    INPUTS = {
        standard_component_specs.EXAMPLES_KEY: ChannelParameter(type=standard_artifacts.Examples),
        standard_component_specs.SCHEMA_KEY: ChannelParameter(type=standard_artifacts.Schema),
    }
    OUTPUTS = {
        standard_component_specs.TRANSFORM_GRAPH_KEY: ChannelParameter(
            type=standard_artifacts.TransformGraph
        ),
        standard_component_specs.TRANSFORMED_EXAMPLES_KEY: ChannelParameter(
            type=standard_artifacts.Examples
        ),
    }


class ImageTransform(base_beam_component.BaseBeamComponent):
    """Transform for a preprocessing_fn that needs no pass over the data: a tenth of the fixed cost.

    Outputs are those of TFX's Transform: `transform_graph`, for tft.TFTransformOutput, and
    `transformed_examples`, here as uncompressed TFRecords. preprocessing_fn finds the schema's
    class names under custom_config["classes"]: a vocabulary computed from the data would order the
    classes by how often they occur, so that label ids would change as data arrives.
    """

    SPEC_CLASS = ImageTransformSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        schema: types.BaseChannel,
        preprocessing_fn: str,
        custom_config: Mapping[str, Any],
    ) -> None:
        """Construct the component.

        Args:
          examples: ImageExampleGen's output.
          schema: whose label domain is the class list.
          preprocessing_fn: dotted name of a function (inputs, custom_config) -> outputs. Each value
            is a tensor with one scalar an example.
          custom_config: JSON-able. Anything that changes the outputs must be in it, the source
            code's fingerprint included, because the cache looks at nothing else.
        """
        super().__init__(
            spec=ImageTransformSpec(
                examples=examples,
                schema=schema,
                preprocessing_fn=preprocessing_fn,
                custom_config=json.dumps(dict(custom_config)),
                transform_graph=types.Channel(type=standard_artifacts.TransformGraph),
                transformed_examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
