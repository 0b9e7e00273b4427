"""The interface of ImageExampleValidator."""

from __future__ import annotations

from tfx.components.example_validator import component
from tfx.dsl.components.base import executor_spec

from components.image_example_validator import executor


class ImageExampleValidator(component.ExampleValidator):
    """ExampleValidator that stops the run on anomalies, before anything is trained.

    TFX's own only sets a property on its output, and the run goes on.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
