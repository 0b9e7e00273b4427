"""The DAG: every node, wired in one place, for every runner."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Collection

from tfx.components.trainer.component import Trainer
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import trainer_pb2
from tfx.types import Channel, standard_artifacts

from components.atomic_pusher.component import AtomicPusher
from components.atomic_pusher.executor import Settings
from components.image_evaluator.component import ImageEvaluator
from components.image_example_gen.component import ImageExampleGen
from components.image_example_validator.component import ImageExampleValidator
from components.image_schema_gen.component import ImageSchemaGen, ImageSchemaImport
from components.image_statistics_gen.component import ImageStatisticsGen
from components.image_transform.component import ImageTransform
from components.infra_validator.component import InfraValidator
from components.resolvers.baseline import BaselineStrategy
from components.resolvers.previous_statistics import PreviousStatisticsStrategy
from components.resolvers.warm_start import WarmStartStrategy
from pipeline.fingerprint import fingerprint
from pipeline.settings import Config
from trainer_module import recipes


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
        code=fingerprint("components.image_example_gen.component"),
    ).with_id("ImageExampleGen")

    statistics_gen = ImageStatisticsGen(
        examples=example_gen.outputs["examples"],
        code=fingerprint("components.image_statistics_gen.component"),
    ).with_id("StatisticsGen")

    if config.data.schema_file:
        schema_gen = ImageSchemaImport(
            schema_file=str(config.data.schema_file),
            digest=hashlib.sha256(config.data.schema_file.read_bytes()).hexdigest(),
            code=fingerprint("components.image_schema_gen.component"),
        ).with_id("SchemaGen")
    else:
        schema_gen = ImageSchemaGen(
            statistics=statistics_gen.outputs["statistics"],
            examples=example_gen.outputs["examples"],
            code=fingerprint("components.image_schema_gen.component"),
        ).with_id("SchemaGen")
    schema = schema_gen.outputs["schema"]

    previous_statistics = Resolver(
        strategy_class=PreviousStatisticsStrategy,
        current=statistics_gen.outputs["statistics"],
        previous=Channel(type=standard_artifacts.ExampleStatistics),
        anomalies=Channel(type=standard_artifacts.ExampleAnomalies),
    ).with_id("PreviousStatistics")

    example_validator = ImageExampleValidator(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema,
        previous=previous_statistics.outputs["previous"],
        policy=config.validation,
        code=fingerprint("components.image_example_validator.component"),
    ).with_id("ExampleValidator")

    transform = ImageTransform(
        examples=example_gen.outputs["examples"],
        schema=schema,
        preprocessing_fn="trainer_module.transform.preprocessing_fn",
        custom_config={
            **config.transform.model_dump(mode="json"),
            "code": fingerprint("trainer_module.transform", "components.image_transform.component"),
        },
    ).with_id("Transform")
    transform.add_upstream_node(example_validator)

    warm_start = Resolver(
        strategy_class=WarmStartStrategy,
        examples=transform.outputs["transformed_examples"],
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("WarmStart")
    warm = config.train.warm_start

    trainer = Trainer(
        run_fn="trainer_module.run_fn.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema,
        base_model=warm_start.outputs["model"] if warm else None,
        train_args=trainer_pb2.TrainArgs(splits=["train"]),
        eval_args=trainer_pb2.EvalArgs(splits=["eval"]),
        custom_config={
            **config.train.model_dump(mode="json"),
            "image_size": config.transform.image_size,
            "train_size": config.transform.train_size,
            "code": fingerprint(
                "trainer_module.run_fn",
                *(f"trainer_module.recipes.{name}" for name in _recipes(config)),
            ),
        },
    )

    baseline = Resolver(
        strategy_class=BaselineStrategy,
        candidate=trainer.outputs["model"],
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("Resolver")

    evaluator = ImageEvaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        bounds=config.evaluate,
        code=fingerprint("components.image_evaluator.component"),
    ).with_id("Evaluator")

    infra_validator = _infra_validator(config, trainer, example_gen)
    pusher = AtomicPusher(
        # With the infrastructure's blessing comes a copy of the model that has its warm-up.
        model=None if infra_validator else trainer.outputs["model"],
        infra_blessing=infra_validator.outputs["blessing"] if infra_validator else None,
        model_blessing=evaluator.outputs["blessing"],
        evaluation=evaluator.outputs["evaluation"],
        push_directory=locations.push_directory,
        settings=Settings(
            keep=config.push.keep,
            served_config=config.push.served_config or "",
            served_name=config.name,
            private_key=str(config.push.signing.private_key or ""),
            public_key=str(config.push.signing.public_key or ""),
            promote=config.push.promote,
        ),
    ).with_id("Pusher")

    nodes = [
        example_gen,
        statistics_gen,
        schema_gen,
        previous_statistics,
        example_validator,
        transform,
        *([warm_start] if warm else []),
        trainer,
        baseline,
        evaluator,
        *([infra_validator] if infra_validator else []),
        pusher,
    ]
    for node in nodes:
        if isinstance(node, BaseBeamComponent):
            node.with_beam_pipeline_args(config.beam.jobs[node.id].pipeline_args)
    return Pipeline(
        pipeline_name=config.name,
        pipeline_root=locations.pipeline_root,
        components=[node for node in nodes if only is None or node.id in only],
        enable_cache=True,
    )


def _recipes(config: Config) -> set[str]:
    """Return the recipe, and the one that it builds upon, if any."""
    base = recipes.get(config.train.recipe).built_on(config.train.hyperparameters)
    return {config.train.recipe, base or config.train.recipe} & set(recipes.names())


def _infra_validator(
    config: Config, trainer: Trainer, example_gen: ImageExampleGen
) -> InfraValidator | None:
    if not config.infra_validation.enabled:
        return None
    return InfraValidator(
        model=trainer.outputs["model"],
        examples=example_gen.outputs["examples"],
        code=fingerprint("components.infra_validator.component"),
        # TensorFlow Serving and its protocol's package are released under the same number.
        image_tag=importlib.metadata.version("tensorflow-serving-api"),
        num_examples=config.infra_validation.examples,
        max_load_seconds=config.infra_validation.max_load_seconds,
    ).with_id("InfraValidator")
