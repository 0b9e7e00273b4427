"""Facts about runs that never were, for tests of what is reported."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from PIL import Image

from components.image_evaluator.figures import (
    Baseline,
    Check,
    ClassFigures,
    Estimate,
    Figures,
    Latency,
    ModelFigures,
    ReliabilityBin,
    SliceFigures,
    Verdict,
)
from components.image_example_validator.findings import JudgedFinding, Level
from pipeline.report.facts import (
    Accuracies,
    Artifact,
    Code,
    Data,
    Distance,
    Facts,
    Node,
    PairedOutcomes,
    Prediction,
    Predictions,
    Run,
    RunData,
    Sample,
    Setting,
    Spread,
    State,
    Unusable,
)
from pipeline.workspace import Workspace
from tests.kit import image_corpus
from trainer_module.history import History

EVIL = '<script>alert("1")</script>'
NAMES = (
    EVIL,
    "$\\frac",
    "Zoë & <b>Søn</b>",
    "a'b\"c",
    "ice-cream parlour with a long name",
    "{{x}}",
)


def estimate(value: float, width: float = 0.03) -> Estimate:
    """Return an interval of a width around a share, within 0 and 1."""
    return Estimate(value=value, low=max(0.0, value - width), high=min(1.0, value + width))


def picture(seed: int, size: int = 24) -> bytes:
    """Return a picture of coloured noise as PNG."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    return image_corpus.encoded(Image.fromarray(pixels), "PNG")


def model_figures(classes: Sequence[str], right: float, seed: int = 0) -> ModelFigures:
    """Return the figures of a model that is right on the share `right` of 20 images per class."""
    random = np.random.default_rng(seed)
    confusion = np.zeros([len(classes)] * 2, int)
    for row in range(len(classes)):
        hits = random.binomial(20, right)
        confusion[row, row] += hits
        for column in random.integers(0, len(classes), 20 - hits):
            confusion[row, column] += 1
    total = int(confusion.sum())
    recall = confusion.diagonal() / 20
    return ModelFigures(
        classes=list(classes),
        examples=total,
        metrics={
            "accuracy": estimate(confusion.trace() / total),
            "balanced_accuracy": estimate(float(recall.mean())),
            "macro_f1": estimate(float(recall.mean())),
            "macro_auc": estimate(0.98, 0.01),
            "log_loss": estimate(0.31),
            "ece": estimate(0.042, 0.01),
        },
        per_class=[
            ClassFigures(
                name=name,
                support=20,
                predicted=int(confusion[:, index].sum()),
                precision=estimate(0.9),
                recall=estimate(float(recall[index]), 0.1),
                f1=estimate(float(recall[index]), 0.1),
                auc=None if index == 1 else 0.97,
            )
            for index, name in enumerate(classes)
        ],
        confusion=[
            (int(true), int(predicted), int(confusion[true, predicted]))
            for true, predicted in np.argwhere(confusion)
        ],
        reliability=[
            ReliabilityBin(
                low=low / 10,
                high=low / 10 + 0.1,
                count=low * 7,
                confidence=low / 10 + 0.05 if low else None,
                accuracy=min(1.0, low / 10 + 0.01 * seed) if low else None,
            )
            for low in range(10)
        ],
        slices=[
            SliceFigures(feature="brightness", value=value, support=40, accuracy=estimate(share))
            for value, share in (("dark", 0.8), ("bright", 0.95))
        ],
        latency=Latency(p50_ms=2.8, p95_ms=3.9, requests=50),
    )


def run(state: State = State.PUSHED, number: int = 1, accuracy: float | None = 0.9) -> Run:
    """Return the record of the run of day `number`."""
    run_id = f"202611{number:02}-041040-c1{number:02}"
    pushed = state is State.PUSHED
    settings = {
        "workspace": Setting(value="/tmp/work space", origin="command line"),
        "train.epochs": Setting(value=12, origin="preset:data-digits"),
        "train.batch_size": Setting(value=32, origin="auto: <b>few</b> images"),
        "train.hyperparameters.patch_size": Setting(value=4, origin="default"),
        "transform.image_size": Setting(value=24, origin="default"),
    }
    return Run(
        run_id=run_id,
        started=f"2026-11-{number:02}T04:10:40+00:00",
        state=state,
        wall_s=56.6,
        error=None if pushed else "accuracy 0.9000 is below evaluate.min_accuracy = 0.9500",
        findings=[f"train: {EVIL}: no image"] if state is State.FAILED else [],
        name="perennial",
        recipe="vit",
        data=RunData(source="/data/<i>photos</i>/{SPAN}"),
        settings=settings,
        code=Code(versions={"perennial": "0.1.0", "tensorflow": "2.21"}, commit="7a59f67"),
        nodes=[Node(node="Trainer", state="complete", wall_s=35.2, cpu_s=42.8, peak_mb=1260)],
        pushed=f"/tmp/work space/serving/perennial/{number}" if pushed else None,
        verdict=None
        if accuracy is None
        else Accuracies(
            accuracy=accuracy,
            interval=(accuracy - 0.03, accuracy + 0.02),
            baseline_accuracy=accuracy - 0.01 if number > 1 else None,
        ),
    )


def facts(
    state: State = State.PUSHED, classes: Sequence[str] = NAMES, *, baseline: bool = True
) -> Facts:
    """All that a report can have."""
    counts = {name: 20 + 7 * index for index, name in enumerate(classes)}
    evaluation = Figures(
        examples=20 * len(classes),
        classes=list(classes),
        candidate=model_figures(classes, 0.9, seed=1),
        baseline=model_figures(classes, 0.85, seed=2) if baseline else None,
        test=model_figures(classes, 0.8, seed=3),
    )
    shown = [_prediction(classes, number) for number in range(9)]
    wrong = [each for each in shown if not each.is_right]
    return Facts(
        run=run(state),
        data=Data(
            classes=list(classes),
            splits={"train": counts, "eval": dict.fromkeys(classes, 20)},
            inputs=sum(counts.values()) + 20 * len(classes) + 5,
            duplicates=3,
            quarantined={"not an image": 2},
            ignored={"hidden": 1},
            normalized={"orientation": 4},
            spans=[3, 4],
            near_duplicates={"pairs": 4, "across_splits": 1, "across_classes": 1},
            findings=["2 images are 8 times smaller than the others"],
            unusable=[Unusable(input=f"{EVIL}/a.png", reason="not an image")] * 2,
            anomalies=[
                JudgedFinding(
                    split="eval",
                    feature="image/class/text",
                    type="CLASS_IMBALANCE",
                    text=f"62 images of {classes[-1]!r}, 20 of {classes[0]!r}",
                    level=Level.WARN,
                )
            ],
            distances=[
                Distance(
                    split="train",
                    feature="image/mean",
                    compared="drift",
                    measure="Jensen-Shannon",
                    value=value,
                    bound=0.3,
                )
                for value in (0.02, 0.41)
            ],
            spreads=[Spread(feature="image/width", low=8, median=320, high=4032)],
        ),
        samples=[
            Sample(
                label=name,
                before=picture(index),
                patches=picture(index, 28),
                after=[picture(index + 50), picture(index + 60)],
            )
            for index, name in enumerate(classes[:8])
        ],
        training=History(
            images={"train": sum(counts.values()), "eval": 20 * len(classes)},
            seconds=30.5,
            steps=480,
            best_epoch=10,
            phase_starts=[1, 7],
            epochs=[
                {
                    "epoch": epoch,
                    "loss": 2 / epoch,
                    "accuracy": 1 - 1 / (epoch + 1),
                    "val_loss": 2.2 / epoch,
                    "val_accuracy": 0.95 - 0.8 / epoch,
                    "learning_rate": 1e-3 if epoch < 7 else 1e-4 * (13 - epoch),
                    "images_per_s": 900.0 + 10 * epoch,
                }
                for epoch in range(1, 13)
            ],
        ),
        evaluation=evaluation,
        verdict=Verdict(
            blessed=state is State.PUSHED,
            baseline=Baseline(id=7, uri="/tmp/work/artifacts/Trainer/model/7")
            if baseline
            else None,
            compared_classes=list(classes[1:]) if baseline else [],
            note="compared with model 7 over the classes that both know",
            checks=[
                Check(
                    name="accuracy",
                    passed=state is State.PUSHED,
                    value=0.9,
                    bound=0.95,
                    reason="accuracy 0.9000 is below evaluate.min_accuracy = 0.9500",
                ),
                Check(name="latency", passed=True, value=3.9, bound=None, reason="3.9 ms at p95"),
            ],
        ),
        predictions=Predictions(
            grid=shown,
            mistakes=wrong,
            wrong=40,
            paired=PairedOutcomes(both=90, only_candidate=14, only_baseline=5, neither=11)
            if baseline
            else None,
        ),
        test_predictions=Predictions(
            grid=[_prediction(classes, number, "test") for number in range(3)],
            mistakes=[_prediction(classes, 3, "test")],
            wrong=1,
        ),
        artifacts=[
            Artifact(
                name="examples",
                uri="/tmp/work/artifacts/ImageExampleGen/examples/1",
                execution=1,
                fingerprint="3ec108891fa99e76ca147af966728",
            ),
            Artifact(name="model", uri="/tmp/work/artifacts/Trainer/model/7", execution=7),
        ],
    )


def _prediction(classes: Sequence[str], number: int, split: str = "eval") -> Prediction:
    label, other = classes[number % len(classes)], classes[(number + 1) % len(classes)]
    right = number % 3 > 0
    return Prediction(
        filename=f"{label}/<img src=x onerror=alert(1)> {split} {number}.png",
        label=label,
        top=[(label if right else other, 0.8), (other if right else label, 0.15)],
        probability=0.8 if right else 0.15,
        baseline=label,
        image=picture(number + 100),
    )


def write_promotions(workspace: Workspace) -> None:
    """Return the log of a promotion, as `perennial promote` writes it."""
    entry = {
        "at": "2026-11-03T05:00:00+00:00",
        "who": "me@here",
        "model": "perennial",
        "action": "promote",
        "from": {"labels": {}, "loaded": "newest"},
        "to": {"labels": {"stable": 1, "canary": 3}, "loaded": [1, 3]},
        "result": "<i>done",
    }
    path = workspace.root / "serving" / "models.audit.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(entry) + "\n")
