"""Runs the models on the images, computes the figures, and decides by the gate."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
import tensorflow_model_analysis as tfma
from pydantic import BaseModel
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import path_utils

from components import features, storage
from components.errors import BadDataError, NotServableError
from components.image_evaluator import figures, gate
from components.image_evaluator.analysis import (
    BASELINE,
    CANDIDATE,
    analyse,
    write_table,
)
from components.image_evaluator.bounds import CLASS, Bounds
from components.image_evaluator.figures import EVAL, SLICES, TEST, TRAIN, Figures, ModelFigures
from components.image_evaluator.metrics import model_figures
from components.image_example_gen.accounting import read_accounting
from components.jobs import Job
from components.servable import CLASSES_FILE, IMAGES, read_classes
from components.storage import staging

BOUNDS_KEY = "bounds"
_LATENCY_IMAGES = 32
WARM_UP, FEWEST, MOST = 5, 20, 200  # requests
_SECONDS = 5.0  # after which FEWEST requests are enough
_SLACK = 0.05  # tolerance of a sum of probabilities


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ImageEvaluator."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write TFMA's result, figures, predictions, verdict and blessing.

        Raises:
            BadDataError: the candidate does not know the class of an image.
            NotServableError: a model's probabilities are invalid.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(
            input_dict[standard_component_specs.EXAMPLES_KEY]
        )
        artifacts = {
            CANDIDATE: artifact_utils.get_single_instance(
                input_dict[standard_component_specs.MODEL_KEY]
            )
        }
        if found := input_dict.get(standard_component_specs.BASELINE_MODEL_KEY):
            artifacts[BASELINE] = artifact_utils.get_single_instance(found)
        evaluation = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EVALUATION_KEY]
        )
        blessing = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.BLESSING_KEY]
        )
        models = {
            name: path_utils.serving_model_path(artifact.uri)
            for name, artifact in artifacts.items()
        }
        classes = {name: read_classes(path) for name, path in models.items()}

        table = self._predict(examples, models, len(classes[CANDIDATE]), evaluation)
        _check_predictions(table, classes)
        write_table(table, os.path.join(evaluation.uri, figures.PREDICTIONS))
        result = _figures(table, classes, models, _images(examples, _LATENCY_IMAGES))
        # TFMA names a model only where there are two.
        name = CANDIDATE if BASELINE in models else ""
        _check_count(evaluation.uri, name, result.candidate)
        _write_json(result, os.path.join(evaluation.uri, figures.FIGURES))

        judged = _of_split(table, EVAL)
        verdict = gate.decide(
            gate.Evidence(
                bounds=Bounds.model_validate_json(exec_properties[BOUNDS_KEY]),
                candidate=result.candidate,
                pairs=pairs(judged, classes) if BASELINE in models else None,
                train=read_accounting(examples.uri).splits.get(TRAIN, {}),
            ),
            figures.Baseline(id=artifacts[BASELINE].id, uri=staging.origin(artifacts[BASELINE].uri))
            if BASELINE in models
            else None,
        )
        _write_json(verdict, os.path.join(blessing.uri, figures.VERDICT))
        _bless(blessing, verdict, artifacts)

    def _predict(
        self,
        examples: types.Artifact,
        models: Mapping[str, str],
        classes: int,
        evaluation: types.Artifact,
    ) -> pa.Table:
        """Run all models on the eval split, and the candidate on a test split."""
        splits = artifact_utils.decode_split_names(examples.split_names)
        accounting = read_accounting(examples.uri)
        output = evaluation.uri
        parts = {EVAL: os.path.join(output, "predictions-eval.parquet")}
        if TEST in splits:
            parts[TEST] = os.path.join(output, "predictions-test.parquet")
        pipeline = self._make_beam_pipeline()
        for split, part in parts.items():
            analyse(
                pipeline,
                split,
                shards=_shards(examples, split),
                images=accounting.examples(split),
                models=models if split == EVAL else {CANDIDATE: models[CANDIDATE]},
                classes=classes,
                spans=dict(zip(accounting.spans, accounting.span_names, strict=False)),
                output=output if split == EVAL else os.path.join(output, split),
                predictions=part,
            )
        Job("evaluate", "images").run(pipeline, sum(map(accounting.examples, parts)))
        tables = [figures.read_table(part) for part in parts.values()]
        for part in parts.values():
            storage.remove(part)
        return pa.concat_tables(tables)


def pairs(table: pa.Table, classes: Mapping[str, Sequence[str]]) -> gate.Pairs:
    """Pair the predictions of candidate and baseline for images whose class both know."""
    candidate, baseline = classes[CANDIDATE], classes[BASELINE]
    shared = [name for name in candidate if name in set(baseline)]
    labels = np.array(candidate, object)[table["label"].to_numpy()]
    known = np.isin(labels, shared)

    def right(model: str) -> np.ndarray:
        predicted = np.array(classes[model], object)[_probabilities(table, model).argmax(axis=1)]
        return np.asarray(predicted == labels, bool)[known]

    values = {CLASS: labels, **_slices(table)}
    return gate.Pairs(
        classes=shared,
        added=[name for name in candidate if name not in set(shared)],
        removed=[name for name in baseline if name not in set(shared)],
        candidate=right(CANDIDATE),
        baseline=right(BASELINE),
        slices={feature: each[known] for feature, each in values.items()},
    )


def _figures(
    table: pa.Table,
    classes: Mapping[str, list[str]],
    models: Mapping[str, str],
    images: Sequence[bytes],
) -> Figures:
    judged, test = _of_split(table, EVAL), _of_split(table, TEST)
    by_model = {
        name: _model_figures(judged, name, classes, measure_latency(path, images))
        for name, path in models.items()
    }
    return Figures(
        examples=len(judged),
        classes=classes[CANDIDATE],
        candidate=by_model[CANDIDATE],
        baseline=by_model.get(BASELINE),
        test=_model_figures(test, CANDIDATE, classes) if len(test) else None,
    )


def _model_figures(
    table: pa.Table,
    model: str,
    classes: Mapping[str, list[str]],
    measured: figures.Latency | None = None,
) -> ModelFigures | None:
    """Compute the figures on the images whose class the model knows; None if there are none."""
    position = {name: index for index, name in enumerate(classes[model])}
    own = np.array([position.get(name, -1) for name in classes[CANDIDATE]])
    labels = own[table["label"].to_numpy()]
    known = labels >= 0
    if not known.any():
        return None
    return model_figures(
        classes[model],
        labels[known],
        _probabilities(table, model)[known],
        {feature: values[known] for feature, values in _slices(table).items()},
        measured,
    )


def measure_latency(model_path: str, images: Sequence[bytes]) -> figures.Latency:
    """Measure requests of one encoded image each, after some requests to warm up."""
    predict = tf.saved_model.load(model_path).signatures[IMAGES]
    taken: list[float] = []
    while len(taken) < WARM_UP + MOST:
        if len(taken) >= WARM_UP + FEWEST and sum(taken[WARM_UP:]) > _SECONDS:
            break
        image = tf.constant([images[len(taken) % len(images)]])
        started = time.perf_counter()
        predict(image)["probabilities"].numpy()
        taken.append(time.perf_counter() - started)
    p50, p95 = np.percentile(np.array(taken[WARM_UP:]) * 1000, [50, 95])
    return figures.Latency(p50_ms=float(p50), p95_ms=float(p95), requests=len(taken) - WARM_UP)


def _of_split(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))


def _probabilities(table: pa.Table, model: str) -> np.ndarray:
    """Return a model's probabilities, float32 [N, classes]."""
    column = table[model].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), -1)


def _slices(table: pa.Table) -> dict[str, np.ndarray]:
    return {feature: table[feature].to_numpy() for feature in SLICES}


def _check_predictions(table: pa.Table, classes: Mapping[str, Sequence[str]]) -> None:
    """Raise BadDataError or NotServableError, as described in `Executor.Do`."""
    unknown = np.flatnonzero(table["label"].to_numpy() < 0)
    if len(unknown):
        name, split = (table[column][int(unknown[0])].as_py() for column in ("filename", "split"))
        raise BadDataError(
            f"{len(unknown)} images, such as {name} of the {split} split, are of a class that the "
            "model does not know; correct their labels or train with images of that class"
        )
    for model, names in classes.items():
        answered = table.filter(pc.is_valid(table[model]))
        found = _probabilities(answered, model)
        if found.shape[1] != len(names):
            raise NotServableError(
                f"the {model} gives {found.shape[1]} probabilities for an image, and its "
                f"{CLASSES_FILE} names {len(names)} classes; export the two together"
            )
        _check_probabilities(model, found, answered["filename"])


def _check_probabilities(model: str, found: np.ndarray, names: pa.ChunkedArray) -> None:
    """Raise NotServableError if float32 [N, classes] are not probabilities."""
    is_number = np.isfinite(found).all(axis=1)
    # The sum of thousands of float16 values is off by some hundredths.
    is_share = (found >= -_SLACK).all(axis=1) & (np.abs(found.sum(axis=1) - 1) <= _SLACK)
    for is_good, what, advice in (
        (is_number, "no numbers", "train with a lower learning rate, or in float32"),
        (is_share, "not shares that add up to 1", "export a model that ends with a softmax"),
    ):
        bad = np.flatnonzero(~is_good)
        if len(bad):
            raise NotServableError(
                f"the {model}'s probabilities are {what} for {len(bad)} of {len(found)} "
                f"images, such as {names[int(bad[0])].as_py()}; {advice}"
            )


def _check_count(evaluation_uri: str, model_name: str, candidate: ModelFigures) -> None:
    """Raise RuntimeError if TFMA's counts differ, as an image was lost or counted twice."""
    result = tfma.load_eval_result(evaluation_uri, model_name=model_name)
    (found,) = (metrics[""][""] for key, metrics in result.slicing_metrics if key == ())
    counted = found["example_count"]["doubleValue"]
    accuracy = found["sparse_categorical_accuracy"]["doubleValue"]
    own = candidate.metrics["accuracy"].value
    assert own is not None
    if counted != candidate.examples or abs(accuracy - own) > 1e-6:
        raise RuntimeError(
            f"TFMA counts {counted:.0f} images and accuracy {accuracy}, their predictions are "
            f"{candidate.examples} with accuracy {own}"
        )


def _shards(examples: types.Artifact, split: str) -> list[str]:
    pattern = os.path.join(artifact_utils.get_split_uri([examples], split), "*")
    return staging.here_all([pattern])


def _images(examples: types.Artifact, number: int) -> list[bytes]:
    """Read the first encoded images of the eval split."""
    records = tf.data.TFRecordDataset(_shards(examples, EVAL)).take(number).as_numpy_iterator()
    return [
        tf.train.Example.FromString(record).features.feature[features.IMAGE].bytes_list.value[0]
        for record in records
    ]


def _write_json(record: BaseModel, path: str) -> None:
    storage.write_text(path, record.model_dump_json(indent=1) + "\n", durable=False)


def _bless(
    blessing: types.Artifact, verdict: figures.Verdict, artifacts: Mapping[str, types.Artifact]
) -> None:
    """Write the blessing as TFX's Evaluator does, for Pusher and resolvers."""
    name = constants.BLESSED_FILE_NAME if verdict.blessed else constants.NOT_BLESSED_FILE_NAME
    storage.write_text(storage.join(blessing.uri, name), "", durable=False)
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, int(verdict.blessed))
    keys = {
        CANDIDATE: (
            constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY,
            constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY,
        ),
        BASELINE: (
            constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY,
            constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY,
        ),
    }
    for model, artifact in artifacts.items():
        uri_key, id_key = keys[model]
        blessing.set_string_custom_property(uri_key, artifact.uri)
        blessing.set_int_custom_property(id_key, artifact.id)
