"""Ingest, statistics and Transform of one workspace, without a DAG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tfx.types import standard_artifacts

from components.image_example_gen.accounting import read_accounting
from components.image_statistics_gen import executor as statistics_gen
from components.image_transform import executor as image_transform
from tests.kit.ingested import BEAM_ARGS, execute
from tests.kit.transformed import schema_of

TRANSFORM = {
    "image_size": 8,
    "train_size": None,
    "interpolation": "bilinear",
    "antialias": True,
    "resize_mode": "stretch",
    "crop_fraction": 1.0,
}


class Stage:
    """Ingest, statistics and Transform, as executions of one workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self._executions = 0

    def ingest(self, **options: Any) -> standard_artifacts.Examples:
        self._executions += 1
        return execute(
            f"{self.data}/{{SPAN}}",
            self.root / "examples" / str(self._executions),
            **{"spans": 99, **options},
        )

    def run(self, **options: Any) -> dict[str, Any]:
        examples = self.ingest(**options)
        number = str(self._executions)
        statistics = standard_artifacts.ExampleStatistics()
        statistics.uri = str(self.root / "statistics" / number)
        statistics_gen.Executor(self._context(statistics_gen.Executor)).Do(
            {"examples": [examples]}, {"statistics": [statistics]}, {}
        )
        schema = standard_artifacts.Schema()
        schema.uri = str(self.root / "schema" / number)
        Path(schema.uri).mkdir(parents=True)
        classes = read_accounting(examples.uri).classes
        text = text_format.MessageToString(schema_of(classes))
        Path(schema.uri, "schema.pbtxt").write_text(text)
        graph = standard_artifacts.TransformGraph()
        graph.uri = str(self.root / "graph" / number)
        transformed = standard_artifacts.Examples()
        transformed.uri = str(self.root / "transformed" / number)
        image_transform.Executor(self._context(image_transform.Executor)).Do(
            {"examples": [examples], "schema": [schema]},
            {"transform_graph": [graph], "transformed_examples": [transformed]},
            {
                "preprocessing_fn": "trainer_module.transform.preprocessing_fn",
                "custom_config": json.dumps(TRANSFORM),
            },
        )
        return {"examples": examples, "statistics": statistics, "transformed": transformed}

    def _context(self, executor: Any) -> Any:
        return executor.Context(beam_pipeline_args=BEAM_ARGS, tmp_dir=str(self.root / "tmp"))
