"""The DAG: every node, wired in one place, for every runner."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from typing import Any

from tensorflow_model_analysis.proto import config_pb2 as tfma
from tfx.components.evaluator.component import Evaluator
from tfx.components.trainer.component import Trainer
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import pusher_pb2, trainer_pb2
from tfx.types import Channel, standard_artifacts

from components import features
from components.atomic_pusher.component import AtomicPusher
from components.baseline_resolver.strategy import BaselineStrategy
from components.image_example_gen.component import ImageExampleGen
from components.image_example_validator.component import ImageExampleValidator
from components.image_example_validator.findings import Policy
from components.image_example_validator.previous import (
    ANOMALIES,
    CURRENT,
    PREVIOUS,
    PreviousStatisticsStrategy,
)
from components.image_schema_gen.component import ImageSchemaGen, ImageSchemaImport
from components.image_statistics_gen.component import ImageStatisticsGen
from components.image_transform.component import ImageTransform
from pipeline import fingerprint
from pipeline.settings import Config


@dataclasses.dataclass(frozen=True)
class Locations:
    """Where a run reads and writes: paths or URIs."""

    pipeline_root: str
    push_directory: str


def create_pipeline(
    config: Config, locations: Locations, only: Collection[str] | None = None
) -> Pipeline:
    """Wire the nodes, or `only` those with the given ids, which need no others. Nothing runs here.

    Raises OSError where a curated schema cannot be read.
    """
    example_gen = ImageExampleGen(
        input_base=config.data.source,
        splits=config.data.splits,
        options=config.data.options,
        code=fingerprint.of("components.image_example_gen.component"),
    ).with_id("ImageExampleGen")

    statistics_gen = ImageStatisticsGen(
        examples=example_gen.outputs["examples"],
        code=fingerprint.of("components.image_statistics_gen.component"),
    ).with_id("StatisticsGen")

    if config.data.schema_file:
        schema_gen = ImageSchemaImport(
            schema_file=str(config.data.schema_file),
            digest=hashlib.sha256(config.data.schema_file.read_bytes()).hexdigest(),
            code=fingerprint.of("components.image_schema_gen.component"),
        ).with_id("SchemaGen")
    else:
        schema_gen = ImageSchemaGen(
            statistics=statistics_gen.outputs["statistics"],
            examples=example_gen.outputs["examples"],
            code=fingerprint.of("components.image_schema_gen.component"),
        ).with_id("SchemaGen")
    schema = schema_gen.outputs["schema"]

    previous_statistics = Resolver(
        strategy_class=PreviousStatisticsStrategy,
        **{
            CURRENT: statistics_gen.outputs["statistics"],
            PREVIOUS: Channel(type=standard_artifacts.ExampleStatistics),
            ANOMALIES: Channel(type=standard_artifacts.ExampleAnomalies),
        },
    ).with_id("PreviousStatistics")

    example_validator = ImageExampleValidator(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema,
        previous=previous_statistics.outputs[PREVIOUS],
        policy=Policy(**config.validation.model_dump()),
        code=fingerprint.of("components.image_example_validator.component"),
    ).with_id("ExampleValidator")

    transform = ImageTransform(
        examples=example_gen.outputs["examples"],
        schema=schema,
        preprocessing_fn="trainer_module.transform.preprocessing_fn",
        custom_config={
            **config.transform.model_dump(mode="json"),
            "code": fingerprint.of(
                "trainer_module.transform", "components.image_transform.component"
            ),
        },
    ).with_id("Transform")
    transform.add_upstream_node(example_validator)

    trainer = Trainer(
        run_fn="trainer_module.run_fn.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema,
        train_args=trainer_pb2.TrainArgs(splits=["train"]),
        eval_args=trainer_pb2.EvalArgs(splits=["eval"]),
        custom_config={
            **config.train.model_dump(mode="json"),
            "image_size": config.transform.image_size,
            "code": fingerprint.of(
                "trainer_module.run_fn", f"trainer_module.recipes.{config.train.recipe}"
            ),
        },
    )

    baseline = Resolver(
        strategy_class=BaselineStrategy,
        candidate=trainer.outputs["model"],
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("Resolver")

    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        schema=schema,
        eval_config=evaluation(config),
    )

    pusher = AtomicPusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(
                base_directory=locations.push_directory
            )
        ),
    ).with_id("Pusher")

    nodes = [
        example_gen,
        statistics_gen,
        schema_gen,
        previous_statistics,
        example_validator,
        transform,
        trainer,
        baseline,
        evaluator,
        pusher,
    ]
    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=locations.pipeline_root,
        components=[node for node in nodes if only is None or node.id in only],
        enable_cache=True,
        beam_pipeline_args=config.beam.pipeline_args,
    )


def evaluation(config: Config) -> tfma.EvalConfig:
    """TFMA's configuration: accuracy overall and by class, bounded overall only.

    The exported signatures are evaluated on the raw examples, as a server would be asked.
    """
    overall = [tfma.SlicingSpec()]
    threshold = tfma.PerSliceMetricThreshold(
        slicing_specs=overall,
        threshold=tfma.MetricThreshold(
            value_threshold=tfma.GenericValueThreshold(
                lower_bound={"value": config.evaluate.min_accuracy}
            ),
            change_threshold=tfma.GenericChangeThreshold(
                direction=tfma.MetricDirection.HIGHER_IS_BETTER,
                absolute={"value": -config.evaluate.max_accuracy_drop},
            ),
        ),
    )
    spec: dict[str, Any] = {
        "signature_name": "serving_examples",
        "prediction_key": "probabilities",
        "preprocessing_function_names": ["transform_labels"],
        "label_key": "label",
    }
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(name="candidate", **spec),
            tfma.ModelSpec(name="baseline", is_baseline=True, **spec),
        ],
        slicing_specs=[*overall, tfma.SlicingSpec(feature_keys=[features.LABEL_TEXT])],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[
                    tfma.MetricConfig(class_name="ExampleCount"),
                    tfma.MetricConfig(
                        class_name="SparseCategoricalAccuracy", per_slice_thresholds=[threshold]
                    ),
                ]
            )
        ],
    )
