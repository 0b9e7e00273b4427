"""The function that TFX's Trainer calls."""

from __future__ import annotations

import json
import os
import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.utils import io_utils

from components.image_schema_gen.schema import class_names
from trainer_module import export, fit, input_pipeline, recipes, transform
from trainer_module.input_pipeline import Split

HISTORY_FILE = "history.json"
VERIFIED_IMAGES = 8


def run_fn(fn_args: FnArgs) -> None:
    """Train a recipe on Transform's output and export the model with the weights of its best epoch.

    `fn_args.custom_config` holds recipe, hyperparameters (fields of its `Config`), image_size,
    train_size (or None), batch_size, epochs (or None), seed and deterministic. history.json, in
    `fn_args.model_run_dir`, tells the images of each split, the seconds of training, every epoch
    and which one was best (the mappings of `fit.Trained`).

    Raises:
        BadDataError: a split or a class without images.
        DivergedError: the loss became NaN or infinite.
        ExportError: the exported model does not predict what the trained one does.
    """
    settings = fn_args.custom_config
    size = settings["image_size"]
    keras.utils.set_random_seed(settings["seed"])
    if settings["deterministic"]:
        # Holds for the rest of the process: TensorFlow has no way back.
        tf.config.experimental.enable_op_determinism()
    recipe = recipes.get(settings["recipe"])
    classes = class_names(io_utils.parse_pbtxt_file(fn_args.schema_path, schema_pb2.Schema()))
    train = _training_split(fn_args, classes)
    input_pipeline.check_trainable(train, classes)
    evaluation = input_pipeline.read(fn_args.eval_files, size, classes, "evaluation")

    started = time.monotonic()
    trained = fit.fit(
        recipe,
        recipe.Config(**settings["hyperparameters"]),
        train=train,
        evaluation=evaluation,
        image_size=size,
        num_classes=len(classes),
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        seed=settings["seed"],
    )
    history = {
        "images": {"train": train.size, "eval": evaluation.size},
        "seconds": time.monotonic() - started,
        "best_epoch": trained.best["epoch"],
        "epochs": trained.epochs,
    }
    io_utils.write_string_file(
        os.path.join(fn_args.model_run_dir, HISTORY_FILE), json.dumps(history, indent=2) + "\n"
    )

    transform_output = tft.TFTransformOutput(fn_args.transform_graph_path)
    export.export(trained.model, transform_output, size, classes, fn_args.serving_model_dir)
    images = [
        tf.io.encode_png(pixels).numpy() for pixels, _ in evaluation.images.take(VERIFIED_IMAGES)
    ]
    pixels = transform.prepare(transform_output, size, images)
    probabilities = keras.ops.softmax(trained.model.predict_on_batch(pixels))
    export.verify(fn_args.serving_model_dir, images, np.asarray(probabilities))


def _training_split(fn_args: FnArgs, classes: list[str]) -> Split:
    size, key = fn_args.custom_config["image_size"], transform.IMAGE_KEY
    if train_size := fn_args.custom_config["train_size"]:
        size, key = train_size, transform.TRAIN_IMAGE_KEY
    return input_pipeline.read(fn_args.train_files, size, classes, "training", key)
