"""The interface of AtomicPusher."""

from __future__ import annotations

import dataclasses
import json

from tfx import types
from tfx.components.pusher import component
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import pusher_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs

from components.atomic_pusher import driver, executor


class AtomicPusherSpec(standard_component_specs.PusherSpec):
    """Pusher's interface, and the evaluation, whose metrics tell versions apart."""

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
        settings: executor.Settings,
        model: types.BaseChannel | None = None,
        infra_blessing: types.BaseChannel | None = None,
    ) -> None:
        """Construct the component from the Evaluator's outputs and a model.

        Args:
            push_directory: path or URI of the folder of numbered versions.
            model_blessing: of the Evaluator.
            evaluation: of the Evaluator; its metrics are kept with the version.
            settings: of the versions.
            model: of the Trainer; leave it out to push the warmed-up model of `infra_blessing`.
            infra_blessing: of the InfraValidator.
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
                custom_config=json.dumps(dataclasses.asdict(settings)),
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
            ),
        )
