"""The function that TFX's Trainer calls."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from components import progress, reuse, storage
from components.image_schema_gen.schema import class_names, load
from components.storage import staging
from trainer_module import (
    attention,
    checkpoint,
    devices,
    export,
    fit,
    input_pipeline,
    out_of_fold,
    recipes,
    reports,
    transform,
    warm_start,
)
from trainer_module.history import HISTORY_FILE, History
from trainer_module.input_pipeline import Split
from trainer_module.recipes.base import Phase
from trainer_module.settings import RunConfig

VERIFIED_IMAGES = 8


def run_fn(fn_args: FnArgs) -> None:
    """Train a recipe on Transform's output and export the model with the weights of its best epoch.

    `fn_args.custom_config` holds the fields of `settings.RunConfig`. `fn_args.base_model`, if set,
    is a Model's serving path to start from. With TF_CONFIG naming several workers each of them
    calls this; only the chief writes anything. A call that was cut off is continued by the next one
    with equal arguments.

    In `fn_args.model_run_dir`: history.json, with the images of each split, the model that
    was begun with, the steps and seconds of training, every epoch and which one was best (the
    mappings of `fit.FitResult`); samples.npz, see `reports.samples`; attention.npz, see
    `attention.of_mistakes`; out_of_fold.npz, see `out_of_fold.of_training`; and TensorBoard's event
    files in logs.

    Raises:
        BadDataError: a split or a class without images.
        DeviceError: TF_CONFIG cannot be used, its workers are absent, or XLA cannot compile the
            model.
        BatchNormError: a step would show batch normalization one image only.
        DivergedError: the loss became NaN or infinite.
        OutOfMemoryError: a batch does not fit.
        WarmStartError: the base model's weights do not fit.
        ExportError: the exported model does not predict what the trained one does.
    """
    settings = RunConfig.parse(fn_args.custom_config)
    strategy = devices.strategy(settings.worker_timeout)
    keras.utils.set_random_seed(settings.seed)
    if settings.deterministic:
        # Holds for the rest of the process: TensorFlow has no way back.
        tf.config.experimental.enable_op_determinism()
    with tempfile.TemporaryDirectory(prefix="perennial-") as cache:
        _run(fn_args, settings, strategy, cache)


def _run(
    fn_args: FnArgs, settings: RunConfig, strategy: tf.distribute.Strategy, cache: str
) -> None:
    recipe, config = recipes.get(settings.recipe), settings.hyperparameters
    size = settings.image_size
    classes = class_names(load(fn_args.schema_path))
    train = _training_split(fn_args, settings, classes, cache, framed=recipe.is_framed(config))
    input_pipeline.check_trainable(train, classes)
    evaluation = input_pipeline.read(
        fn_args.eval_files, size, classes, "evaluation", cache_dir=cache
    )
    checkpoints = checkpoint.Checkpoints(
        checkpoint.directory(staging.origin(fn_args.model_run_dir), _identity(fn_args))
    )
    writes = devices.is_chief(strategy)
    events = reports.EventFiles(fn_args.model_run_dir) if writes else None

    def prepare(model: keras.Model) -> None:
        if fn_args.base_model:
            text = warm_start.load(model, classes, fn_args.base_model)
            progress.report("note", text=text)

    def show(number: int, phase: Phase) -> None:
        if writes and number == 0:
            samples = reports.samples(train, phase.augment, size, settings.seed)
            _write(fn_args, reports.SAMPLES_FILE, samples)

    started = time.monotonic()
    with _dtype_policy(devices.dtype_policy(settings.precision)), _compilation_explained():
        trained = fit.fit(
            recipe,
            config,
            train=train,
            evaluation=evaluation,
            image_size=size,
            num_classes=len(classes),
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            seed=settings.seed,
            options=fit.FitOptions(
                balance=settings.balance,
                keep=settings.keep,
                gradient_accumulation=settings.gradient_accumulation,
                memory=devices.memory(),
                jit_compile=settings.jit_compile,
                strategy=strategy,
                checkpoints=checkpoints,
                prepare=prepare,
                on_phase=show,
                on_epoch=events.write if events else lambda _: None,
            ),
        )
        mixed = keras.config.dtype_policy().name != "float32"
    if not writes:
        return
    history = History(
        images={"train": train.size, "eval": evaluation.size},
        base_model=staging.origin(fn_args.base_model or ""),
        seconds=time.monotonic() - started,
        steps=trained.steps,
        best_epoch=trained.best["epoch"],
        phase_starts=trained.phase_starts,
        epochs=trained.epochs,
    )
    _write(fn_args, HISTORY_FILE, f"{history.model_dump_json(indent=2)}\n".encode())

    model = trained.model
    if mixed or strategy.num_replicas_in_sync > 1:
        # The served model must not depend on the devices of its training.
        model = trained.rebuild()
        model.set_weights(trained.model.get_weights())
    progress.stage("export the model, and compare its answers with those of the trained one")
    warm_start.save(model, classes, fn_args.serving_model_dir)
    _export(fn_args, size, model, evaluation, classes)
    progress.stage("mark where the model looks in images that it got wrong")
    # On the weights that are exported, and the images that the report shows.
    looked = attention.of_mistakes(model, fn_args.eval_files, size, settings.batch_size)
    if looked:
        _write(fn_args, attention.FILE, looked)
    # Those of a base model have seen the labels.
    if trained.features is not None and not fn_args.base_model:
        digests = input_pipeline.digests(_training_files(fn_args, settings))
        features = np.asarray(trained.features)
        if found := out_of_fold.of_training(features, train.labels, digests):
            _write(fn_args, out_of_fold.FILE, found)
    checkpoints.clear()


def _training_split(
    fn_args: FnArgs, settings: RunConfig, classes: list[str], cache: str, *, framed: bool
) -> Split:
    size, key = settings.image_size, transform.IMAGE_KEY
    if settings.train_size:
        size, key = settings.train_size, transform.TRAIN_IMAGE_KEY
    files = _training_files(fn_args, settings)
    return input_pipeline.read(files, size, classes, "training", key, cache, framed=framed)


def _training_files(fn_args: FnArgs, settings: RunConfig) -> Sequence[str]:
    return weighted(fn_args.train_files, settings.recent_weight, settings.recent_spans)


def weighted(patterns: Sequence[str], weight: int, spans: int) -> Sequence[str]:
    """Files that match `patterns`, those of the latest `spans` spans `weight` times."""
    if weight == 1:
        return patterns
    files = staging.here_all(patterns)
    numbers = sorted({span for file in files if (span := reuse.span_of(file)) is not None})
    recent = [file for file in files if reuse.span_of(file) in numbers[-spans:]]
    return files + recent * (weight - 1)


def _export(
    fn_args: FnArgs, size: int, model: keras.Model, evaluation: Split, classes: list[str]
) -> None:
    transform_output = tft.TFTransformOutput(fn_args.transform_graph_path)
    export.export(model, transform_output, size, classes, fn_args.serving_model_dir)
    images = [
        tf.io.encode_png(pixels).numpy() for pixels, _ in evaluation.images.take(VERIFIED_IMAGES)
    ]
    pixels = transform.prepare(transform_output, size, images)
    probabilities = keras.ops.softmax(model.predict_on_batch(pixels))
    export.verify(fn_args.serving_model_dir, images, np.asarray(probabilities))


def _identity(fn_args: FnArgs) -> Mapping[str, Any]:
    """Return what two calls must have in common for one to continue the other's training."""
    return {
        "custom_config": fn_args.custom_config,
        "train": [staging.origin(each) for each in fn_args.train_files],
        "eval": [staging.origin(each) for each in fn_args.eval_files],
        "schema": staging.origin(fn_args.schema_path),
        "base_model": staging.origin(fn_args.base_model or ""),
        "versions": [tf.__version__, keras.__version__],
    }


@contextlib.contextmanager
def _compilation_explained() -> Iterator[None]:
    try:
        yield
    except tf.errors.UnimplementedError as error:
        if "tf2xla" not in str(error):
            raise
        # BiT's and ResNet50V2's pooling, for one, has no deterministic gradient there.
        reason = str(error).partition("unavailable>")[2].strip().partition("\n")[0].rstrip(".")
        raise devices.DeviceError(
            f"XLA cannot compile the model ({reason}); set train.jit_compile to false, or, if a "
            "deterministic operation is missing, train.deterministic to false"
        ) from error


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _write(fn_args: FnArgs, name: str, content: bytes) -> None:
    storage.write_bytes(storage.join(fn_args.model_run_dir, name), content, durable=False)
