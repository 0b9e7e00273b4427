"""What the folders of published data sets, and of those that people have, are read as."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.errors import BadDataError
from components.image_example_gen.dataset import DataSet, list_data
from components.image_example_gen.options import Options
from components.image_example_gen.sources import folder_names, layout
from pipeline.config import load, parse_set
from tests.kit.cli import perennial

PNG = b"\x89PNG\r\n\x1a\n"


def paths(folders: Iterable[str], name: str = "{}.jpg", images: int = 4) -> list[str]:
    return [f"{folder}/{name.format(n)}" for folder in folders for n in range(images)]


def product(first: Iterable[str], second: Iterable[str], between: str = "") -> list[str]:
    return [f"{one}/{between}{two}" for one in first for two in second]


PETS = paths(["."], "Abyssinian_{}.jpg") + paths(["."], "american_bulldog_{}.jpg")
DOGS_AND_CATS = [*paths(["train"], "cat.{}.jpg"), *paths(["train"], "dog.{}.jpg")]
SEGS = [f"{each}/{each}" for each in ("seg_train", "seg_test")]

# What is read without asking: classes, and the splits that the source names.
READ: dict[str, tuple[list[str], set[str], set[str]]] = {
    "Keras flower_photos": (
        [*paths(["daisy", "roses"]), "LICENSE.txt"],
        {"daisy", "roses"},
        {""},
    ),
    "cats_and_dogs_filtered": (
        paths(product(["train", "validation"], ["cats", "dogs"])),
        {"cats", "dogs"},
        {"train", "eval"},
    ),
    "chest X-ray": (
        paths(product(["train", "test", "val"], ["NORMAL", "PNEUMONIA"])),
        {"NORMAL", "PNEUMONIA"},
        {"train", "test", "eval"},
    ),
    "any case": (
        paths(product(["Train", "TEST", "Val"], ["cat", "dog"])),
        {"cat", "dog"},
        {"train", "test", "eval"},
    ),
    "training and validation": (
        paths(product(["training", "validation"], ["cat", "dog"])),
        {"cat", "dog"},
        {"train", "eval"},
    ),
    "CIFAR as PNG": (
        paths(product(["train", "test"], ["airplane", "frog"]), "{}.png"),
        {"airplane", "frog"},
        {"train", "test"},
    ),
    "training_set": (
        paths(product(["training_set", "test_set"], ["cats", "dogs"])),
        {"cats", "dogs"},
        {"train", "test"},
    ),
    "seg_train": (
        paths(product(["seg_train", "seg_test"], ["sea", "street"])),
        {"sea", "street"},
        {"train", "test"},
    ),
    "year in the name": (
        paths(product(["train2017", "val2017"], ["cat", "dog"])),
        {"cat", "dog"},
        {"train", "eval"},
    ),
    "Caltech-101 below": (
        paths(["BACKGROUND_Google", "Faces"]),
        {"BACKGROUND_Google", "Faces"},
        {""},
    ),
    "Stanford Dogs below": (
        paths(["n02085620-Chihuahua", "n02085782-Japanese_spaniel"]),
        {"n02085620-Chihuahua", "n02085782-Japanese_spaniel"},
        {""},
    ),
    "a class called train": (paths(["bus", "train", "car"]), {"bus", "train", "car"}, {""}),
    "a span with that class only": (paths(["train"]), {"train"}, {""}),
    "numbers": (paths(map(str, range(10))), set("0123456789"), {""}),
    "years in a class": (paths(["cat/2023", "cat/2024", "dog/2023"]), {"cat", "dog"}, {""}),
    "one big subtree": (
        paths(["cat", "dogs", "dogs/husky", "dogs/poodle"]),
        {"cat", "dogs"},
        {""},
    ),
    "junk": (
        [
            *paths(["cat", "dog", "@eaDir", "cat/@eaDir", "__MACOSX", ".ipynb_checkpoints"]),
            *paths(["#recycle", "lost+found", "$RECYCLE.BIN", ".thumbnails", ".git/x"]),
            *paths(["System Volume Information"]),
            "cat/Thumbs.db",
            "dog/.DS_Store",
        ],
        {"cat", "dog"},
        {""},
    ),
}

# What is not: of one of the commands, the settings and the path below, and what it reads.
Reading = tuple[dict[str, Any], str, set[str]]
STOPPED: dict[str, tuple[list[str], Reading]] = {
    "Kaggle dogs-vs-cats": (
        [*DOGS_AND_CATS, *paths(["test1"])],
        ({"ignore": ("test1",)}, "", {"cat", "dog"}),
    ),
    "the same, of train only": (
        [path.removeprefix("train/") for path in DOGS_AND_CATS],
        ({}, "", {"cat", "dog"}),
    ),
    "Intel image classification": (
        [*paths(product(SEGS, ["sea", "street"])), *paths(["seg_pred/seg_pred"])],
        ({"ignore": ("seg_pred",), "depth": 2, "layout": "splits"}, "", {"sea", "street"}),
    ),
    "ImageNet": (
        [*paths(product(["train"], ["n01440764", "n01443537"])), *paths(["val"])],
        ({"ignore": ("val",)}, "", {"n01440764", "n01443537"}),
    ),
    "YOLO classification": (
        paths(product(["images"], ["cat", "dog"], "train/"))
        + paths(product(["images"], ["cat", "dog"], "val/")),
        ({}, "images", {"cat", "dog"}),
    ),
    "Food-101": (
        [*paths(["images/pie", "images/ramen"]), "meta/classes.txt"],
        ({}, "images", {"pie", "ramen"}),
    ),
    "Caltech-101": (
        paths(["101_ObjectCategories/Faces", "101_ObjectCategories/ant"]),
        ({}, "101_ObjectCategories", {"Faces", "ant"}),
    ),
    "Stanford Dogs": (
        [*paths(["Images/n02-Chihuahua", "Images/n03-Pug"]), "Annotation/n02-Chihuahua/n02"],
        ({}, "Images", {"n02-Chihuahua", "n03-Pug"}),
    ),
    "Oxford pets": (
        [*(f"images/{p}" for p in PETS), *paths(["annotations/trimaps"], "Abyssinian_{}.png")],
        ({}, "images", {"Abyssinian", "american_bulldog"}),
    ),
    "Oxford pets, images": (PETS, ({}, "", {"Abyssinian", "american_bulldog"})),
    "CIFAR, class in the name": (
        [
            *paths(["train", "test"], "{}_frog.png"),
            *paths(["train", "test"], "{}_ship.png"),
        ],
        ({}, "", {"frog", "ship"}),
    ),
    "batches": (
        paths(product(["batch1", "batch2"], ["cat", "dog"])),
        ({"depth": 2}, "", {"cat", "dog"}),
    ),
    "batches as spans": (
        paths(product(["batch1", "batch2"], ["cat", "dog"])),
        ({"spans": 2}, "batch{SPAN}", {"cat", "dog"}),
    ),
    "a forgotten {SPAN}": (
        paths(product(["1", "2", "10"], ["cat", "dog"])),
        ({"spans": 3}, "{SPAN}", {"cat", "dog"}),
    ),
    "one span": (
        paths(["7/cat", "7/dog"]),
        ({}, "{SPAN}", {"cat", "dog"}),
    ),
    "dates": (
        paths(product(["2026-01-31", "2026-02-01"], ["cat", "dog"])),
        ({"spans": 2}, "{YYYY}-{MM}-{DD}", {"cat", "dog"}),
    ),
    "years, months and days": (
        paths(product(["2026/01/31", "2026/02/01", "2025/02/01"], ["cat", "dog"])),
        ({"spans": 3}, "{YYYY}/{MM}/{DD}", {"cat", "dog"}),
    ),
    "folds": (
        paths(product([f"fold{n}" for n in range(1, 6)], ["cat", "dog"])),
        ({"train_folder": "fold[1234]", "eval_folder": "fold5"}, "", {"cat", "dog"}),
    ),
    "a holdout": (
        paths(product(["train", "holdout"], ["cat", "dog"])),
        ({"train_folder": "train", "eval_folder": "holdout"}, "", {"cat", "dog"}),
    ),
    "training_set in training_set": (
        paths(product(["training_set/training_set", "test_set/test_set"], ["cat", "dog"])),
        ({"depth": 2, "layout": "splits"}, "", {"cat", "dog"}),
    ),
    "a wrapper": (paths(["dataset/cat", "dataset/dog"]), ({}, "dataset", {"cat", "dog"})),
    "wrappers": (paths(["a/b/cat", "a/b/dog"]), ({}, "a/b", {"cat", "dog"})),
    "unlabelled images": (
        paths(["train/cat", "train/dog", "unlabeled"]),
        ({"ignore": ("unlabeled",)}, "", {"cat", "dog"}),
    ),
    "something else": (
        paths(["train/cat", "train/dog", "extras"]),
        ({"ignore": ("extras",)}, "", {"cat", "dog"}),
    ),
    "classes of classes": (
        paths(["animal/cat", "animal/dog", "vehicle/car", "vehicle/bus"]),
        ({"depth": 2}, "", {"cat", "dog", "car", "bus"}),
    ),
    "the same folders in classes": (
        paths(product(["cat", "dog"], ["indoor", "outdoor"])),
        ({"layout": "classes"}, "", {"cat", "dog"}),
    ),
    "splits in classes": (
        paths(product(["cat", "dog"], ["train", "test"])),
        ({"layout": "classes"}, "", {"cat", "dog"}),
    ),
    "flat splits": (paths(["train", "test"]), ({"layout": "classes"}, "", {"train", "test"})),
    "YOLO detection": (
        [*paths(["train/images", "val/images"]), *paths(["train/labels"], "{}.txt")],
        ({"layout": "classes"}, "", {"train", "val"}),
    ),
}


def make(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        is_image = name.endswith((".jpg", ".png"))
        (root / name).write_bytes(PNG if is_image else b"text")
    return root


def found(data: DataSet) -> tuple[set[str], set[str]]:
    items = [item for unit in data.units for item in unit.items() if not item.problem]
    return {item.label for item in items}, {item.split for item in items}


def stopped(root: Path, **options: Any) -> list[list[str]]:
    """Return the words of each suggested command."""
    with pytest.raises(BadDataError) as caught:
        list_data(str(root), Options(**options))
    commands = [finding.partition(": perennial ")[2] for finding in caught.value.findings]
    assert all(command in str(caught.value) for command in commands)
    assert all(commands), caught.value.findings
    return [shlex.split(command) for command in commands]


def test_each_command_ends_a_line_for_who_copies_it(tmp_path: Path) -> None:
    root = make(tmp_path / "data", [f"{n}/{c}/{n}{c}.png" for n in "12" for c in ("cat", "dog")])
    done = perennial("data", "check", root)
    assert done.exit_code == 3
    ends = [line.partition(": perennial ")[2] for line in done.stderr.splitlines()]
    assert [shlex.split(end) for end in ends if end] == stopped(root)


def settings(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the source and the data settings of a command."""
    assert words[:2] == ["data", "check"]
    assert set(words[3::2]) <= {"--set"}
    values = dict(map(parse_set, words[4::2]))
    data = load(None, {"data.source": words[2], **values}).config.data
    chosen = {key.removeprefix("data."): getattr(data, key[5:]) for key in values}
    return data.source, chosen


def followed(words: list[str]) -> DataSet:
    source, chosen = settings(words)
    return list_data(source, Options(**chosen))


@pytest.mark.parametrize("name", READ)
def test_is_read(name: str, tmp_path: Path) -> None:
    names, classes, splits = READ[name]
    data = list_data(str(make(tmp_path / "data", names)), Options())
    assert found(data) == (classes, splits)
    assert not any(item.problem for unit in data.units for item in unit.items())
    reading = dict(data.reading)
    assert all(label in reading["Classes"] for label in list(classes)[:3])
    assert "Splits" in reading


@pytest.mark.parametrize("name", STOPPED)
def test_is_stopped_with_commands_that_do_what_they_promise(name: str, tmp_path: Path) -> None:
    names, (wanted, below, classes) = STOPPED[name]
    root = make(tmp_path / "my data", names)
    hits = []
    for words in stopped(root):
        source, chosen = settings(words)
        data = followed(words)
        assert len(found(data)[0]) > 1 or source != str(root)
        pattern = chosen.pop("name_pattern", "")
        if source == str(root / below if below else root) and chosen == wanted:
            hits.append(words)
            assert found(data)[0] == classes
            assert bool(pattern) == any(
                "Abyssinian" in n or "frog" in n or "cat." in n for n in names
            )
    assert len(hits) == 1


def test_several_steps_down_a_published_tree(tmp_path: Path) -> None:
    place = "ILSVRC/Data/CLS-LOC"
    names = [*paths(product([f"{place}/train"], ["n01", "n02"])), *paths([f"{place}/val"])]
    (first,) = stopped(make(tmp_path, [*names, "ILSVRC/Annotations/x.xml"]))
    assert first[2] == str(tmp_path / place)
    second = stopped(Path(first[2]))[0]
    assert found(followed(second)) == ({"n01", "n02"}, {"train"})


def test_settings_that_were_given_are_kept_in_what_is_suggested(tmp_path: Path) -> None:
    root = make(tmp_path, paths(["train/cat", "train/dog", "unlabeled", "old"]))
    words = stopped(root, ignore=("old",))[0]
    assert settings(words)[1]["ignore"] == ("old", "unlabeled")


@pytest.mark.parametrize("train", ["val", "*", "v*"])
def test_a_folder_that_is_meant_to_be_of_two_splits_is_refused(tmp_path: Path, train: str) -> None:
    names = [f"{top}/{label}/1.png" for top in ("first", "val") for label in ("cat", "dog")]
    options = Options(train_folder=train, eval_folder="val")
    with pytest.raises(BadDataError, match=r"val/ .*data\.train_folder = .*data\.eval_folder"):
        layout.read(str(tmp_path), names, options)


def test_a_folder_whose_name_is_a_number_can_be_a_split(tmp_path: Path) -> None:
    root = make(tmp_path, paths(product(["1", "2"], ["cat", "dog"])))
    data = list_data(str(root), Options(train_folder="1", eval_folder="2"))
    assert found(data) == ({"cat", "dog"}, {"train", "eval"})
    with pytest.raises(BadDataError, match=r"'3' \(data\.eval_folder\)"):
        list_data(str(root), Options(train_folder="1", eval_folder="3"))
    with pytest.raises(BadDataError, match=f"^{root}: .*1, 2 .*train "):
        list_data(str(root), Options(eval_folder="1", test_folder="2"))


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"ignore": ("b*",)}, {"cat"}),
        ({"ignore": ("*.jpg",)}, set()),
        ({"ignore": ("CAT",)}, {"cat", "bad", "bird"}),
    ],
)
def test_what_is_left_out(options: Mapping[str, Any], left: set[str], tmp_path: Path) -> None:
    data = list_data(str(make(tmp_path, paths(["cat", "bad", "bird"]))), Options(**options))
    assert found(data)[0] == left
    assert data.ignored["by data.ignore"] == 4 * (3 - len(left))


def test_junk_is_counted(tmp_path: Path) -> None:
    names = [*paths(["cat", "dog", "@eaDir", "cat/@eaDir", "__MACOSX/cat"]), "dog/Thumbs.db"]
    data = list_data(str(make(tmp_path, names)), Options())
    assert data.ignored == {"in @eaDir": 8, "in __MACOSX": 4, "in Thumbs.db": 1}
    assert dict(data.reading)["Ignored"].startswith("8 in @eaDir")


def test_names_that_stand_for_no_class_are_told(tmp_path: Path) -> None:
    root = make(tmp_path, paths(["cat", "dogs", "dogs/husky", "dogs/pug", "BACKGROUND_Google"]))
    notes = list_data(str(root), Options()).notes
    assert [note for note in notes if "'BACKGROUND_Google'" in note and "data.ignore" in note]
    assert [note for note in notes if "dogs/{husky,pug}" in note]


def test_the_only_class_folder_with_numbered_folders_is_told(tmp_path: Path) -> None:
    data = list_data(str(make(tmp_path, paths([f"mnist/{n}" for n in range(10)]))), Options())
    assert found(data)[0] == {"mnist"}
    assert [note for note in data.notes if "'mnist'" in note]


def test_a_name_that_has_no_class_is_quarantined(tmp_path: Path) -> None:
    root = make(tmp_path, [*paths(["."], "cat_{}.jpg"), *paths(["."], "dog_{}.jpg"), "odd.jpg"])
    data = list_data(str(root), Options(name_pattern=r"([a-z]+)_\d+\.jpg"))
    bad = [item.name for unit in data.units for item in unit.items() if item.problem]
    assert (found(data)[0], bad) == ({"cat", "dog"}, ["odd.jpg"])


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("TrainingData", "train"),
        ("test1", "test"),
        ("images_val", "eval"),
        ("validation-set", "eval"),
        ("train station", ""),
        ("test_tube", ""),
        ("trains", ""),
        ("train_test", ""),
        ("cat", ""),
    ],
)
def test_names_like_splits(name: str, split: str) -> None:
    assert folder_names.split_like(name) == split
