"""Binds the schema's class list to preprocessing_fn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from tfx.components.transform import executor as transform
from tfx.components.transform import labels
from tfx.components.util import value_utils
from tfx.utils import io_utils

from components.image_schema_gen.schema import class_names


class Executor(transform.Executor):
    """Executor of ImageTransform."""

    def _GetPreprocessingFn(
        self, inputs: Mapping[str, Any], unused_outputs: Mapping[str, Any]
    ) -> Callable[..., Any]:
        bound = super()._GetPreprocessingFn(inputs, unused_outputs)
        schema_path = value_utils.GetSoleValue(inputs, labels.SCHEMA_PATH_LABEL)
        classes = class_names(io_utils.SchemaReader().read(schema_path))
        config = {**bound.keywords["custom_config"], "classes": classes}
        return functools.partial(bound.func, custom_config=config)
