"""The interface of ImageEvaluator."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.image_evaluator import executor
from components.image_evaluator.bounds import Bounds


class ImageEvaluatorSpec(ComponentSpec):
    """Parameters, inputs and outputs of ImageEvaluator."""

    PARAMETERS = {
        executor.BOUNDS_KEY: ExecutionParameter(type=str),
        "code": ExecutionParameter(type=str),
    }
    INPUTS = {
        standard_component_specs.EXAMPLES_KEY: ChannelParameter(type=standard_artifacts.Examples),
        standard_component_specs.MODEL_KEY: ChannelParameter(type=standard_artifacts.Model),
        standard_component_specs.BASELINE_MODEL_KEY: ChannelParameter(
            type=standard_artifacts.Model, optional=True
        ),
    }
    OUTPUTS = {
        standard_component_specs.EVALUATION_KEY: ChannelParameter(
            type=standard_artifacts.ModelEvaluation
        ),
        standard_component_specs.BLESSING_KEY: ChannelParameter(
            type=standard_artifacts.ModelBlessing
        ),
    }


class ImageEvaluator(base_beam_component.BaseBeamComponent):
    """Evaluates a candidate and the baseline on the same images, and blesses the candidate or not.

    As in TFX's Evaluator, TFMA calls the exported signatures, and the outputs have the same types.
    TFX's Evaluator compares plain differences without a test of significance, has one threshold for
    all slices, and passes a class without images. Here every prediction is kept, figures have
    intervals, and the checks are those in `gate`. `figures` describes the files.
    """

    SPEC_CLASS = ImageEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        bounds: Bounds,
        code: str,
    ) -> None:
        """Construct the component.

        Args:
            examples: ImageExampleGen's output; models are compared on eval, test is only reported.
            model: the candidate, with the signatures and classes.json of the trainer's export.
            baseline_model: the model to compare with; may be empty.
            bounds: of the gate.
            code: fingerprint of the executor's source, as a part of the cache key.
        """
        super().__init__(
            spec=ImageEvaluatorSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                bounds=bounds.model_dump_json(),
                code=code,
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
            )
        )
