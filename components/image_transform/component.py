"""The interface of ImageTransform."""

from __future__ import annotations

from tfx.components.transform import component
from tfx.dsl.components.base import executor_spec

from components.image_transform import executor


class ImageTransform(component.Transform):
    """Transform whose preprocessing_fn finds the class names in custom_config["classes"].

    A vocabulary computed from the data would order the classes by how often they occur, so that
    label ids would change as data arrives.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
