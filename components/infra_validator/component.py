"""The interface of InfraValidator."""

from __future__ import annotations

from tfx import types
from tfx.components.infra_validator import component
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import infra_validator_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components import servable
from components.infra_validator import executor


class InfraValidatorSpec(standard_component_specs.InfraValidatorSpec):
    """TFX's interface, with the digest of the code."""

    PARAMETERS = {
        **standard_component_specs.InfraValidatorSpec.PARAMETERS,
        "code": component_spec.ExecutionParameter(type=str),
    }


class InfraValidator(component.InfraValidator):
    """InfraValidator that serves the candidate, and compares its answers to real images.

    TFX's own needs Docker or Kubernetes; without either the model is not blessed and the run
    succeeds. It also ignores the answers. This one needs a server process only, and a candidate
    that is not served as it should be fails the node.
    """

    SPEC_CLASS = InfraValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        examples: types.BaseChannel,
        code: str,
        image_tag: str,
        split: str = "eval",
        num_examples: int = 8,
        max_load_seconds: int = 300,
    ) -> None:
        """Construct the component.

        Args:
            model: the Trainer's; its signatures are those of trainer_module.export.
            examples: raw ones, with encoded images.
            code: digest of the sources.
            image_tag: of tensorflow/serving, for the pod that TFX starts in Kubeflow Pipelines (by
                KFP_POD_NAME and KFP_NAMESPACE in the environment).
            split: of `examples`.
            num_examples: how many of them to send; each is 2 requests, of at most 1,000.
            max_load_seconds: for the server to start and load.
        """
        base_component.BaseComponent.__init__(
            self,
            spec=InfraValidatorSpec(
                model=model,
                examples=examples,
                blessing=types.Channel(type=standard_artifacts.InfraBlessing),
                serving_spec=infra_validator_pb2.ServingSpec(
                    tensorflow_serving=infra_validator_pb2.TensorFlowServing(tags=[image_tag]),
                    kubernetes=infra_validator_pb2.KubernetesConfig(),
                    model_name="candidate",
                ),
                validation_spec=infra_validator_pb2.ValidationSpec(
                    max_loading_time_seconds=max_load_seconds, num_tries=2
                ),
                request_spec=infra_validator_pb2.RequestSpec(
                    tensorflow_serving=infra_validator_pb2.TensorFlowServingRequestSpec(
                        signature_names=[servable.IMAGES, servable.EXAMPLES]
                    ),
                    split_name=split,
                    num_examples=num_examples,
                    make_warmup=True,
                ),
                code=code,
            ),
        )
