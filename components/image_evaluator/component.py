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
    """Evaluator of a candidate and the baseline on the same images.

    TFMA calls the models' exported signatures, as it does for TFX's Evaluator. That one judges by
    the plain difference, whatever chance explains, by one threshold for every slice, and passes a
    class that has no image. Here every prediction is kept, figures have intervals, and `gate` holds
    the checks. Outputs are those of TFX's Evaluator, with the files that `figures` describes.
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
            examples: ImageExampleGen's output; the eval split judges, a test split is reported.
            model: the candidate, with the signatures and classes.json of the trainer's export.
            baseline_model: the baseline; may turn out empty.
            bounds: of the gate.
            code: fingerprint of the executor's source, so that a change of it misses the cache.
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
