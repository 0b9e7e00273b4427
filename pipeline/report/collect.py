"""Collection of the facts about a run from its artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow.compute as pc
from pydantic import TypeAdapter
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from components import arrays, features, storage
from components.image_evaluator import figures
from components.image_evaluator.figures import EVAL, TEST, Figures, Verdict
from components.image_example_gen.accounting import FILE_NAME, QUARANTINE, varied
from components.image_example_validator.findings import FINDINGS_FILE, read_findings
from components.lineage import Lineage
from components.progress import report
from pipeline.report import labels as mislabelled
from pipeline.report import pictures
from pipeline.report.facts import (
    Artifact,
    Data,
    Distance,
    Facts,
    PairedOutcomes,
    Prediction,
    Predictions,
    Run,
    Sample,
    Spread,
    Suspect,
    Unusable,
)
from trainer_module import recipes
from trainer_module.history import HISTORY_FILE, History

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2

    from pipeline.workspace import Workspace

MAX_UNUSABLE = 20
MAX_PICTURES = 24  # of the grid, and again of the mistakes
TOP = 3  # classes named for an image
UNKNOWN = "a class that the model does not know"

_LONGEST_REASON = 300  # characters
_Part = TypeVar("_Part")
_TRAIN = "train"
_MEASURES = {1: "L-infinity", 2: "Jensen-Shannon"}  # DriftSkewInfo.Measurement.Type
_SPREADS = (
    features.WIDTH,
    features.HEIGHT,
    features.ASPECT,
    features.MEAN,
    features.CONTRAST,
    features.BYTES,
)


def artifacts_of(workspace: Workspace, run_id: str) -> list[Artifact]:
    """List the outputs of a run in a workspace; empty without metadata."""
    if not workspace.metadata.exists():
        return []
    return artifacts_in(workspace.connection(), run_id)


def artifacts_in(connection: metadata_store_pb2.ConnectionConfig, run_id: str) -> list[Artifact]:
    """List the outputs of a run's nodes, cached or not, from ML Metadata.

    InfraValidator's blessing is named "infra_blessing" instead of "blessing".
    """
    return [
        Artifact(
            name="infra_blessing" if each.type == "InfraBlessing" else each.key,
            uri=each.uri,
            execution=each.execution,
            fingerprint=each.fingerprint,
        )
        for each in Lineage.at(connection).outputs(run_id)
    ]


def collect(run: Run, artifacts: Sequence[Artifact]) -> Facts:
    """Read `artifacts` at paths or URIs. Missing ones are left out.

    Damaged ones are left out too, each with a finding of the run and a note.
    """
    where = {artifact.name: artifact.uri for artifact in artifacts}
    parts = _Parts()
    evaluation = parts.read("the evaluation's figures", lambda: _figures(where))
    verdict = parts.read("the verdict", lambda: _verdict(where))
    data = parts.read("what became of the data", lambda: _data(where))
    facts = Facts(
        run=run,
        data=data,
        samples=parts.read("the samples", lambda: _samples(where, run, data.classes)) or []
        if data
        else [],
        training=parts.read("the training's history", lambda: _training(where)),
        suspects=parts.read(
            "the training images' labels", lambda: _training_suspects(run, where, evaluation)
        )
        or [],
        evaluation=evaluation,
        verdict=verdict,
        predictions=parts.read(
            "the predictions", lambda: _predictions(run, where, evaluation, verdict, EVAL)
        )
        if evaluation
        else None,
        test_predictions=parts.read(
            "the test predictions", lambda: _predictions(run, where, evaluation, verdict, TEST)
        )
        if evaluation and evaluation.test
        else None,
        artifacts=list(artifacts),
    )
    for text in parts.damaged:
        report("note", text=text)
    complete = run.model_copy(update={"findings": [*run.findings, *parts.damaged]})
    return facts.model_copy(update={"run": complete})


class _Parts:
    """A reader of parts; `damaged` has a line for each unreadable one."""

    def __init__(self) -> None:
        self.damaged: list[str] = []

    def read(self, what: str, part: Callable[[], _Part]) -> _Part | None:
        """Return what `part` returns, None where it raises."""
        try:
            return part()
        # A damaged file can stop its reading in many ways, which libraries have many kinds for.
        except Exception as error:
            reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
            self.damaged.append(f"left out of the report: {what}: {reason}")
            return None


def _content(uri: str | None, *names: str) -> bytes | None:
    """Read a file below `uri`; None if it is missing."""
    if not uri:
        return None
    try:
        return storage.read_bytes(storage.join(uri, *names))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _arrays(where: Mapping[str, str], name: str, **members: str) -> dict[str, np.ndarray] | None:
    uri = where.get("model_run")
    return arrays.read(storage.join(uri, name), members) if uri else None


def _data(where: Mapping[str, str]) -> Data | None:
    accounting = _content(where.get("examples"), FILE_NAME)
    if accounting is None:
        return None
    record = json.loads(accounting)
    lines = (_content(where.get("examples"), QUARANTINE) or b"").splitlines()
    rows = varied(map(json.loads, lines), MAX_UNUSABLE)
    anomalies = where.get("anomalies")
    validated = _content(anomalies, FINDINGS_FILE) is not None
    return TypeAdapter(Data).validate_python(
        {
            **record,
            "unusable": [Unusable(input=row["path"], reason=row["reason"]) for row in rows],
            "anomalies": read_findings(anomalies) if anomalies and validated else None,
            "distances": list(_distances(anomalies, record["splits"])),
            "spreads": list(_spreads(where.get("statistics"))),
        }
    )


def _distances(uri: str | None, splits: Collection[str]) -> Iterator[Distance]:
    for split in splits:
        content = _content(uri, f"Split-{split}", "SchemaDiff.pb")
        for info in anomalies_pb2.Anomalies.FromString(content or b"").drift_skew_info:
            for compared, measurements in (
                ("skew", info.skew_measurements),
                ("drift", info.drift_measurements),
            ):
                for each in measurements:
                    yield Distance(
                        split=split,
                        feature=".".join(info.path.step),
                        compared=compared,
                        measure=_MEASURES.get(each.type, ""),
                        value=each.value,
                        bound=each.threshold,
                    )


def _spreads(uri: str | None) -> Iterator[Spread]:
    content = _content(uri, f"Split-{_TRAIN}", "FeatureStats.pb")
    statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(content or b"")
    for dataset in statistics.datasets:
        known = {".".join(each.path.step): each.num_stats for each in dataset.features}
        for name in _SPREADS:
            if name in known:
                stats = known[name]
                yield Spread(feature=name, low=stats.min, median=stats.median, high=stats.max)


def _training(where: Mapping[str, str]) -> History | None:
    history = _content(where.get("model_run"), HISTORY_FILE)
    return History.model_validate_json(history) if history else None


def _samples(where: Mapping[str, str], run: Run, classes: Sequence[str]) -> list[Sample]:
    found = _arrays(where, "samples.npz", images="u N versions height width RGB", labels="i N")
    if found is None:
        return []
    count = _patches(run)
    return [
        Sample(
            label=classes[label],
            before=pictures.encode(versions[0]),
            patches=pictures.patches(versions[0], count) if count else None,
            after=[pictures.encode(version) for version in versions[1:]],
        )
        for label, versions in zip(found["labels"], found["images"], strict=True)
    ]


def _patches(run: Run) -> int | None:
    """Return the number of patches along a side; None if not a vision transformer."""
    begin = "train.hyperparameters."
    values = {
        key.removeprefix(begin): run.value(key)
        for key in run.settings
        if key.startswith(begin) and "." not in key.removeprefix(begin)
    }
    try:
        recipe = recipes.get(run.recipe)
        return recipe.patches(recipe.Config(**values), run.value("transform.image_size", 0))
    except ValueError:  # of an earlier version
        return None


def _figures(where: Mapping[str, str]) -> Figures | None:
    uri = where.get("evaluation", "")
    return None if _content(uri, figures.FIGURES) is None else figures.read_figures(uri)


def _verdict(where: Mapping[str, str]) -> Verdict | None:
    uri = where.get("blessing", "")
    return None if _content(uri, figures.VERDICT) is None else figures.read_verdict(uri)


def _predictions(
    run: Run, where: Mapping[str, str], evaluation: Figures, verdict: Verdict | None, split: str
) -> Predictions | None:
    if _content(where["evaluation"], figures.PREDICTIONS) is None:
        return None
    table = figures.read_predictions(where["evaluation"])
    table = table.filter(pc.equal(table["split"], split)).sort_by("sha256")
    classes = evaluation.candidate.classes
    labels = table["label"].to_numpy()
    named = np.array([*classes, UNKNOWN])[labels]  # an unknown class is -1
    probabilities = _matrix(table["candidate"], len(classes))
    chosen = probabilities.argmax(axis=1)
    (wrong,) = np.nonzero(chosen != labels)
    # Stable: of equally confident ones those come first that came first in other runs, too.
    by_confidence = np.argsort(-probabilities[wrong, chosen[wrong]], kind="stable")
    mistakes = wrong[by_confidence][:MAX_PICTURES].tolist()
    grid = list(range(min(MAX_PICTURES, len(labels))))
    baseline = None
    if evaluation.baseline and split == EVAL:
        others = evaluation.baseline.classes
        best = _matrix(table["baseline"], len(others)).argmax(axis=1)
        baseline = np.array(others)[best]

    shown = sorted({*mistakes, *grid})
    best = {row: np.argsort(-probabilities[row], kind="stable")[:TOP] for row in shown}
    digests, names = table["sha256"].to_pylist(), table["filename"].to_pylist()
    images = _of_examples(
        where.get("examples"), split, features.IMAGE, {digests[row] for row in shown}
    )
    maps = _maps(where)
    known = {
        row: Prediction(
            filename=names[row],
            label=str(named[row]),
            probability=float(probabilities[row, labels[row]]) if labels[row] >= 0 else 0.0,
            top=[(classes[index], float(probabilities[row, index])) for index in best[row]],
            baseline=None if baseline is None else str(baseline[row]),
            image=images.get(digests[row], b""),
            looked=_heated(run, images.get(digests[row]), maps.get(digests[row])),
        )
        for row in shown
    }
    compared = verdict.compared_classes if verdict else ()
    return Predictions(
        grid=[known[row] for row in grid],
        mistakes=[known[row] for row in mistakes],
        wrong=len(wrong),
        suspects=[
            _suspect(run, names[row], classes, int(labels[row]), probabilities[row])
            for row in mislabelled.suspects(labels, probabilities)
            if chosen[row] != labels[row]
        ],
        paired=None if baseline is None else _paired(named, chosen == labels, baseline, compared),
    )


def _suspect(
    run: Run, name: str, classes: Sequence[str], label: int, probabilities: np.ndarray
) -> Suspect:
    chosen = int(probabilities.argmax())
    return Suspect(
        image=mislabelled.original(run.data.source, name),
        label=classes[chosen],
        given=classes[label],
        probability=(float(probabilities[chosen]), float(probabilities[label])),
    )


def _training_suspects(
    run: Run, where: Mapping[str, str], evaluation: Figures | None
) -> list[Suspect]:
    found = _arrays(
        where, "out_of_fold.npz", digests="U N", labels="i N", probabilities="f N classes"
    )
    if found is None or evaluation is None:
        return []
    digests, labels, probabilities = found.values()
    chosen = probabilities.argmax(axis=1)
    rows = [
        row for row in mislabelled.suspects(labels, probabilities) if chosen[row] != labels[row]
    ]
    wanted = {digests[row] for row in rows}
    names = _of_examples(where.get("examples"), _TRAIN, features.FILENAME, wanted)
    return [
        _suspect(
            run,
            names[digests[row]].decode(),
            evaluation.candidate.classes,
            int(labels[row]),
            probabilities[row],
        )
        for row in rows
        if digests[row] in names
    ]


def _maps(where: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Read the attention maps, uint8 [h, w] by SHA-256 of the original image."""
    found = _arrays(where, "attention.npz", digests="U N", maps="u N height width")
    return dict(zip(found["digests"].tolist(), found["maps"], strict=True)) if found else {}


def _heated(run: Run, image: bytes | None, looked: np.ndarray | None) -> bytes:
    if image is None or looked is None:
        return b""
    return pictures.heated(
        image,
        looked,
        resize_mode=run.value("transform.resize_mode", "stretch"),
        crop_fraction=run.value("transform.crop_fraction", 1.0),
    )


def _matrix(column: Any, classes: int) -> np.ndarray:
    """Convert a column of lists to float32 [N, classes]."""
    values: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, classes)


def _paired(
    labels: np.ndarray, right: np.ndarray, baseline: np.ndarray, classes: Sequence[str]
) -> PairedOutcomes:
    compared = np.isin(labels, classes) if classes else np.ones(len(labels), bool)
    other, right = (baseline == labels)[compared], right[compared]
    return PairedOutcomes(
        both=int((right & other).sum()),
        only_candidate=int((right & ~other).sum()),
        only_baseline=int((~right & other).sum()),
        neither=int((~right & ~other).sum()),
    )


def _of_examples(
    uri: str | None, split: str, feature: str, wanted: set[str]
) -> Mapping[str, bytes]:
    """Read a feature of the wanted images, as `images.read`."""
    if uri is None or not wanted:
        return {}
    from pipeline.report import images  # TensorFlow

    return images.read(storage.join(uri, f"Split-{split}"), feature, wanted)
