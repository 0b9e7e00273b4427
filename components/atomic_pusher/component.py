"""The interface of AtomicPusher."""

from __future__ import annotations

from tfx import types
from tfx.components.pusher import component
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import pusher_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components.atomic_pusher import driver, executor


class AtomicPusherSpec(standard_component_specs.PusherSpec):
    """Pusher's interface, and what it needs to tell versions apart and to remove old ones."""

    PARAMETERS = {
        standard_component_specs.PUSH_DESTINATION_KEY: component_spec.ExecutionParameter(
            type=pusher_pb2.PushDestination
        ),
        executor.KEEP_KEY: component_spec.ExecutionParameter(type=int),
        executor.SERVED_CONFIG_KEY: component_spec.ExecutionParameter(type=str),
        executor.PRIVATE_KEY_KEY: component_spec.ExecutionParameter(type=str),
        executor.PUBLIC_KEY_KEY: component_spec.ExecutionParameter(type=str),
        executor.PROMOTE_KEY: component_spec.ExecutionParameter(type=str),
        executor.MODEL_KEY: component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        **standard_component_specs.PusherSpec.INPUTS,
        executor.EVALUATION_KEY: component_spec.ChannelParameter(
            type=standard_artifacts.ModelEvaluation
        ),
    }


class AtomicPusher(component.Pusher):
    """Pusher to a file system or object store: versions appear whole, increase, repeat no model."""

    SPEC_CLASS = AtomicPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
    DRIVER_CLASS = driver.Driver

    def __init__(
        self,
        push_directory: str,
        model_blessing: types.BaseChannel,
        evaluation: types.BaseChannel,
        model: types.BaseChannel | None = None,
        infra_blessing: types.BaseChannel | None = None,
        keep: int = 10,
        served_config: str = "",
        private_key: str = "",
        public_key: str = "",
        promote: str = "none",
        served_name: str = "",
    ) -> None:
        """Construct the component from the Evaluator's outputs and a model.

        Args:
            push_directory: path or URI of the folder of numbered versions.
            model_blessing: of the Evaluator.
            evaluation: of the Evaluator; its metrics are kept with the version.
            model: of the Trainer; leave it out to push the warmed-up model of `infra_blessing`.
            infra_blessing: of the InfraValidator.
            keep: how many of the newest versions remain.
            served_config: file, or ConfigMap as configmap://NAMESPACE/NAME, that says which
                versions are served, and so never removed; empty for models.config beside
                `push_directory`.
            private_key: file of the key that signs versions; empty to sign none.
            public_key: file of the key that servers check them with.
            promote: label that the version is given: canary, stable or none.
            served_name: of the model in `served_config`; empty for that of `push_directory`.
        """
        destination = pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=push_directory)
        )
        base_component.BaseComponent.__init__(
            self,
            spec=AtomicPusherSpec(
                model=model,
                model_blessing=model_blessing,
                infra_blessing=infra_blessing,
                evaluation=evaluation,
                push_destination=destination,
                keep=keep,
                served_config=served_config,
                private_key=private_key,
                public_key=public_key,
                promote=promote,
                served_name=served_name,
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
            ),
        )
