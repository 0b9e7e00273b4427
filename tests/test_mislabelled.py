"""Images that are probably mislabelled: found among others, and ready for `feedback`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.report import page, write
from pipeline.report.facts import Suspect
from pipeline.report.labels import original, suspects
from pipeline.retraining.feedback import add
from tests import report_kit


def table(images: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """True labels of three classes of four, and what a model that knows them says."""
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
    assert "Probably mislabelled" in text
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
    assert "Probably mislabelled" not in without
