"""Images that are probably mislabelled: found among others, and ready for `feedback`."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components import features
from pipeline.report import collect, page, write
from pipeline.report.facts import Suspect
from pipeline.report.labels import original, suspects
from pipeline.retraining.feedback import add
from tests.kit import report as report_kit
from tests.kit.pictures import encode
from tests.kit.transformed import run_transform
from trainer_module import out_of_fold, run_fn

LABELS = 'href="tables/labels.csv"'  # in a report, only where it tells of some


def table(images: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of three classes of four, and the outputs of a model that knows them."""
    true = np.arange(images) % 3
    probabilities = np.full((images, 4), 0.02)
    probabilities[np.arange(images), true] = 0.94
    return true, probabilities


def test_swapped_labels_are_found_and_right_ones_left() -> None:
    true, probabilities = table()
    assert suspects(true, probabilities) == []
    labels = true.copy()
    labels[[4, 9]] = (labels[[4, 9]] + 1) % 3
    labels[20] = -1  # a class that the model does not know
    # The less of the label is left, the clearer it is.
    probabilities[9] = [0.99 if column == true[9] else 0.01 / 3 for column in range(4)]
    assert suspects(labels, probabilities) == [9, 4]


def test_a_hard_image_is_no_wrong_label() -> None:
    true, probabilities = table()
    probabilities[7] = [0.24, 0.26, 0.25, 0.25]
    probabilities[8] = [0.26, 0.24, 0.25, 0.25]
    assert suspects(true, probabilities) == []


def test_a_model_that_is_often_wrong_is_no_judge() -> None:
    true, probabilities = table()
    labels = true.copy()
    for wrong, found in ((18, 18), (19, 0)):  # of 90: a fifth, and more
        labels[:wrong] = (true[:wrong] + 1) % 3
        assert len(suspects(labels, probabilities)) == found


def test_too_few_images_tell_nothing() -> None:
    assert suspects(np.array([], int), np.zeros((0, 2))) == []
    assert suspects(np.array([0, 1]), np.array([[0.1, 0.9], [0.9, 0.1]])) == []
    assert suspects(np.zeros(9, int), np.tile([0.9, 0.1], (9, 1))) == []


def test_an_image_is_named_by_its_path_where_it_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").touch()
    assert original(str(tmp_path), "cat/a.png") == str(tmp_path / "cat" / "a.png")
    assert original(str(tmp_path), "cat/gone.png") == "cat/gone.png"
    assert original("digits", "3/0001.png") == "3/0001.png"


def test_the_table_is_one_that_feedback_takes(tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "cat" / "a.png"
    photo.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photo)
    found = Suspect(image=str(photo), label="dog", given="cat", probability=(0.9, 0.05))
    facts = report_kit.facts()
    assert facts.predictions
    predictions = facts.predictions.model_copy(update={"suspects": [found]})
    facts = facts.model_copy(update={"predictions": predictions})
    text = write.write_report(facts, tmp_path / "run").read_text("utf-8")
    assert LABELS in text
    file = tmp_path / "run" / "tables" / "labels.csv"
    rows = list(csv.DictReader(io.StringIO(file.read_text("utf-8"))))
    assert [(row["image"], row["label"], row["given"]) for row in rows] == [
        (str(photo), "dog", "cat")
    ]
    (tmp_path / "spans").mkdir()
    made = add(file, str(tmp_path / "spans" / "{SPAN}"), new_classes=["dog"])
    assert (made.images, made.bad) == (1, ())
    assert [each.parent.name for each in made.span.glob("*/*.png")] == ["dog"]
    without = page.render(report_kit.facts(), [])
    assert LABELS not in without


def test_out_of_fold_confidence_of_training_images_finds_swapped_labels() -> None:
    random = np.random.default_rng(0)
    true = np.arange(120) % 3
    apart = (random.normal(size=(120, 16)) + 3 * np.eye(3, 16)[true]).astype(np.float32)
    labels = true.copy()
    labels[[7, 50]] = (labels[[7, 50]] + 1) % 3
    digests = [f"{number:064}" for number in range(120)]
    # An image that comes twice must not vouch for itself.
    again = np.r_[np.arange(120), 7]
    content = out_of_fold.of_training(apart[again], labels[again], [digests[row] for row in again])
    assert content
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert arrays["digests"].tolist() == digests
        np.testing.assert_array_equal(arrays["labels"], labels)
        probabilities = arrays["probabilities"]
    assert (probabilities.shape, probabilities.dtype) == ((120, 3), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert {7, 50} <= set(suspects(labels, probabilities))
    assert len(suspects(labels, probabilities)) <= 6


def test_too_few_or_too_many_training_images_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = np.zeros((12, 2), np.float32), np.arange(12) % 2
    digests = [str(number) for number in range(12)]
    assert out_of_fold.of_training(values, labels, digests)
    assert out_of_fold.of_training(values[:9], labels[:9], digests[:9]) is None
    assert out_of_fold.of_training(values, np.zeros(12, int), digests) is None
    monkeypatch.setattr(out_of_fold, "MOST", 12 * 2 * 2 - 1)
    assert out_of_fold.of_training(values, labels, digests) is None


def test_mislabelled_training_images_are_named_in_the_report(tmp_path: Path) -> None:
    evaluation = report_kit.facts().evaluation
    assert evaluation
    names = evaluation.candidate.classes
    labels = np.arange(60) % len(names)
    probabilities = np.full((60, len(names)), 0.01, np.float32)
    probabilities[np.arange(60), labels] = 1 - 0.01 * (len(names) - 1)
    labels[4] = (labels[4] + 1) % len(names)
    digests = [f"{number:064}" for number in range(60)]
    np.savez(
        tmp_path / "out_of_fold.npz", digests=digests, labels=labels, probabilities=probabilities
    )
    (tmp_path / "Split-train").mkdir()
    with tf.io.TFRecordWriter(str(tmp_path / "Split-train" / "data")) as writer:
        for number, digest in enumerate(digests):
            example = tf.train.Example()
            for name, value in ((features.SHA256, digest), (features.FILENAME, f"{number}.png")):
                example.features.feature[name].bytes_list.value.append(value.encode())
            writer.write(example.SerializeToString())
    where = {"model_run": str(tmp_path), "examples": str(tmp_path)}
    facts = report_kit.facts()
    (found,) = collect._training_suspects(facts.run, where, evaluation)
    assert (found.image, found.given, found.label) == (
        "4.png",
        names[labels[4]],
        names[labels[4] - 1],
    )
    text = page.render(facts.model_copy(update={"suspects": [found]}), [])
    assert LABELS in text
    assert "4.png" in text
    assert collect._training_suspects(facts.run, {}, evaluation) == []


def test_a_training_on_frozen_features_leaves_its_confidence(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [
        encode(Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))) for _ in range(12)
    ]
    images = [(picture, ["cat", "dog"][row % 2]) for row, picture in enumerate(pictures)]
    splits = {"train": images, "eval": images[:4]}
    made = run_transform(tmp_path, splits, ["cat", "dog"], image_size=32)
    settings = {"alpha": 0.35, "weights": "none"}
    run_fn.run_fn(
        made.fn_args(tmp_path / "out", recipe="mobilenet", hyperparameters=settings, batch_size=6)
    )
    with np.load(tmp_path / "out" / "run" / out_of_fold.FILE, allow_pickle=False) as arrays:
        labels = dict(zip(arrays["digests"].tolist(), arrays["labels"].tolist(), strict=True))
        assert arrays["probabilities"].shape == (12, 2)
    assert labels == {
        hashlib.sha256(picture).hexdigest(): row % 2 for row, picture in enumerate(pictures)
    }
