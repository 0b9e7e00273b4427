"""The interface of ImageExampleGen."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.image_example_gen import driver, executor
from components.image_example_gen.options import Options


class ImageExampleGenSpec(ComponentSpec):
    """Parameters and output of ImageExampleGen."""

    PARAMETERS = {
        standard_component_specs.INPUT_BASE_KEY: ExecutionParameter(type=str),
        executor.SPLITS_KEY: ExecutionParameter(type=str),
        executor.OPTIONS_KEY: ExecutionParameter(type=str),
        "code": ExecutionParameter(type=str),
    }
    INPUTS: dict[str, ChannelParameter] = {}
    OUTPUTS = {
        standard_component_specs.EXAMPLES_KEY: ChannelParameter(type=standard_artifacts.Examples),
    }


class ImageExampleGen(base_beam_component.BaseBeamComponent):
    """Ingests labelled images from any of the sources in `sources`.

    Output `examples` holds uncompressed TFRecords of tf.Examples with the features named in
    `components.features`, a split for each entry of `splits` and for each that the source names;
    `accounting.json`, and the lists `quarantine.jsonl`, `duplicates.jsonl` and
    `near_duplicates.jsonl`.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
    DRIVER_CLASS = driver.Driver

    def __init__(
        self,
        input_base: str,
        splits: Mapping[str, int],
        code: str,
        options: Options | None = None,
    ) -> None:
        """Construct the component.

        Args:
          input_base: the source: see `source_name`.
          splits: split name to its share, a positive number of hash buckets: see `splitting`.
          code: fingerprint of the executor's source, as a part of the cache key.
          options: how the source is read, and which data is rejected.
        """
        if not splits or any(share < 1 for share in splits.values()):
            raise ValueError(f"every split needs at least one hash bucket, got {dict(splits)}")
        super().__init__(
            spec=ImageExampleGenSpec(
                input_base=input_base,
                splits=json.dumps(dict(splits)),
                options=(options or Options()).to_json(),
                code=code,
                examples=types.Channel(type=standard_artifacts.Examples),
            )
        )
