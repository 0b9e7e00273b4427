"""Each published document's own training loop, in plain Keras, against the preset named for it.

    python -m tests.benchmarks.sources PRESET FOLDER --seeds 3 --set NUMBER=VALUE ...

FOLDER has one folder of images per class, perhaps below `train` and `test` (or `validation`).
Without these, a third of each class is tested with each seed, so that with three seeds every image
is. One in ten of the other images evaluates; it chooses the epoch where the document has one
chosen.

Both sides have the same images, the same budget and networks of the same size. The control is what
its document does, from the reading of files on, also where the preset differs for a reason (see
docs/results.md). As two cores do not train the published sizes, `SOURCES` makes some numbers
smaller, on both sides alike; --published leaves them, and --set changes them.

Prints the accuracy of both on the test images, the difference with its 95 % intervals by images
(as if no training were chance) and by trainings (Student's t), McNemar's exact test, and the CPU
time of both, with reading, building and compiling. That of a whole run is
more: it also looks at the images, judges the model and tries it in a server.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from components.image_evaluator import chance
from pipeline import config as configuration
from tests.benchmarks import source_loops
from tests.benchmarks.accuracy import by_class
from tests.benchmarks.source_loops import AUTO, Images, Task, Values
from trainer_module import fit, recipes, transform
from trainer_module.input_pipeline import Framed, Split

HYPER = "train.hyperparameters."
SIDES = ("control", "preset")
PARTS = 3  # of a folder without a split of its own: each is tested once in as many seeds


@dataclasses.dataclass(frozen=True)
class Source:
    """A document.

    Attributes:
        control: its loop, by its numbers; gives a label for each test image, int64 [N].
        published: its numbers.
        small: those that are made smaller.
        settings: what is compared with it, by these numbers.
    """

    control: Callable[[Task, Values], np.ndarray]
    published: Values
    small: Values
    settings: Callable[[Values], Values]


def _of_bit(name: str, values: Values, size: int, train_size: int | None) -> Values:
    # A schedule of so many steps of 512, boundaries in proportion: that of the rule, made shorter.
    steps = [0, *(values["schedule"] * share // 5 for share in (2, 3, 4, 5))]
    return {
        "train.preset": name,
        "transform.image_size": size,
        **({"transform.train_size": train_size} if train_size else {}),
        "train.batch_size": values["batch"],
        f"{HYPER}variant": values["variant"],
        f"{HYPER}weights.source": "",
        f"{HYPER}learning_rate": values["rate"],
        f"{HYPER}schedule": steps,
    }


def _of_fixres(name: str, values: Values) -> Values:
    low, high, second = values["low"], values["high"], values.get("second_epochs", 0)
    return {
        "train.preset": name,
        "transform.image_size": int(high / low * high),
        # As many times as much as in the preset.
        "transform.train_size": int(high / low * high * 500 / 392),
        "train.batch_size": values["batch"],
        "train.epochs": values["epochs"] + second,
        f"{HYPER}low": low,
        f"{HYPER}high": high,
        **({f"{HYPER}second_epochs": second} if second else {}),
    }


def _of_transfer(values: Values) -> Values:
    return {
        "train.preset": "tensorflow-transfer",
        "transform.image_size": values["size"],
        "train.batch_size": values["batch"],
        "train.epochs": values["epochs"],
        f"{HYPER}head_epochs": values["head_epochs"],
        f"{HYPER}weights": values["weights"],
        f"{HYPER}alpha": values["alpha"],
    }


_TRANSFER = {
    "size": 160,
    "batch": 32,
    "head_epochs": 10,
    "epochs": 20,
    "weights": "imagenet",
    "alpha": 1.0,
}
_FIXRES = {"low": 128, "high": 224, "batch": 32, "epochs": 30, "network": "ResNet50V2"}
# With few images, as many steps take more epochs; fewer do not fill the moving statistics.
_SMALL_FIXRES = {"low": 64, "high": 112, "epochs": 70, "network": "thin"}
_BIT = {"variant": "R50x1", "rate": 0.003, "schedule": 500}
# From scratch, with a head of zeros, nothing is learned at the published rate.
_SMALL_BIT = {"variant": "tiny", "rate": 0.5, "batch": 64}

SOURCES = {
    "keras-bit": Source(
        source_loops.keras_bit,
        {**_BIT, "batch": 64, "resize": 384, "crop": 224},
        {**_SMALL_BIT, "resize": 96, "crop": 56, "schedule": 15},
        lambda values: {
            **_of_bit("keras-bit", values, values["resize"], None),
            f"{HYPER}crop_size": values["crop"],
        },
    ),
    "tensorflow-bit": Source(
        source_loops.tensorflow_bit,
        {**_BIT, "batch": 512, "resize": 448, "crop": 384},
        {**_SMALL_BIT, "resize": 84, "crop": 72, "schedule": 15},
        lambda values: _of_bit("tensorflow-bit", values, values["crop"], values["resize"]),
    ),
    "keras-fixres": Source(
        source_loops.keras_fixres,
        {**_FIXRES, "second_epochs": 10},
        _SMALL_FIXRES,
        functools.partial(_of_fixres, "keras-fixres"),
    ),
    "keras-fixres-control": Source(
        source_loops.keras_fixres_control,
        _FIXRES,
        _SMALL_FIXRES,
        functools.partial(_of_fixres, "keras-fixres-control"),
    ),
    "article-vit": Source(
        source_loops.article_vit,
        {"size": 72, "depth": 8, "batch": 256, "epochs": 10},
        {"depth": 2, "batch": 64},
        lambda values: {
            "train.preset": "article-vit",
            f"{HYPER}resize": values["size"],
            f"{HYPER}depth": values["depth"],
            "train.batch_size": values["batch"],
            "train.epochs": values["epochs"],
        },
    ),
    "tensorflow-transfer": Source(
        source_loops.tensorflow_transfer, _TRANSFER, {"head_epochs": 5, "epochs": 10}, _of_transfer
    ),
    # No document: what the recipe does by itself, against its document's values.
    "mobilenet": Source(
        lambda task, values: trained(task, _of_transfer(values), values["seed"]),
        _TRANSFER,
        {"head_epochs": 5, "epochs": 10},
        lambda values: {
            "train.recipe": "mobilenet",
            f"{HYPER}weights": values["weights"],
            f"{HYPER}alpha": values["alpha"],
        },
    ),
}


def trained(task: Task, settings: Values, seed: int) -> np.ndarray:
    """Train by the settings and classify the test images, int64 [N]."""
    config = configuration.load(overrides={"data.source": "/photos", **settings}).config
    train, shape = config.train, config.transform
    recipe = recipes.get(train.recipe)
    framed = recipe.is_framed(train.hyperparameters)
    policy = {each: getattr(shape, each) for each in transform.RESIZE_POLICY}

    def split(images: Images, size: int, *, framed: bool = False) -> Split:
        def prepared(image: tf.Tensor) -> Any:
            pixels = transform.resize_image(image, size, **policy)
            shown = transform.shown(image, policy["resize_mode"], policy["crop_fraction"])
            return Framed(pixels, shown) if framed else pixels

        ready = images.decoded().map(lambda image, label: (prepared(image), label), AUTO).cache()
        known = ready.apply(tf.data.experimental.assert_cardinality(len(images.files)))
        return Split(known, images.labels, task.classes)

    result = fit.fit(
        recipe,
        train.hyperparameters,
        train=split(task.train, shape.train_size or shape.image_size, framed=framed),
        evaluation=split(task.evaluation, shape.image_size),
        image_size=shape.image_size,
        num_classes=task.classes,
        batch_size=train.batch_size,
        epochs=train.epochs,
        seed=seed,
        options=fit.FitOptions(keep=train.keep),
    )
    return source_loops.answers(
        result.model, split(task.test, shape.image_size).images.batch(train.batch_size)
    )


def divided(root: Path, seed: int, limit: int | None, classes: Sequence[str]) -> Task:
    """Make the task of a seed; `limit`: images of a class that train and evaluate at most."""
    sorts: dict[str, list[tuple[str, int]]] = {"train": [], "evaluation": [], "test": []}
    found = by_class(root)
    names = sorted(classes or found)
    for label, paths in enumerate(found[name] for name in names):
        given = [path for path in paths if {"test", "validation"} & set(path.parts)]
        others = [path for path in paths if path not in set(given)]
        # One order for all seeds: their parts must not overlap.
        places = np.random.default_rng(0).permutation(len(others))
        tested = given or [others[place] for place in places[seed % PARTS :: PARTS]]
        left = [others[place] for place in places if others[place] not in set(tested)]
        random = np.random.default_rng(seed).permutation(len(left))[:limit]
        used = [left[place] for place in random]
        tenth = max(1, len(used) // 10)
        for name, chosen in (
            ("test", tested),
            ("evaluation", used[:tenth]),
            ("train", used[tenth:]),
        ):
            sorts[name] += [(str(path), label) for path in chosen]
    # As the documents' data sets are, whose windows of shuffling do not reach from class to class.
    np.random.default_rng(seed).shuffle(sorts["train"])
    splits = {
        name: Images([file for file, _ in pairs], np.array([label for _, label in pairs], np.int64))
        for name, pairs in sorts.items()
    }
    return Task(**splits, classes=len(names))


def told(rows: list[dict[str, Any]]) -> str:
    """Both sides' accuracy over all seeds, and their difference, from `rows` of main."""
    right = {side: [np.array(row[side]["right"]) for row in rows] for side in ("control", "preset")}
    each = {
        side: ", ".join(f"{100 * seed.mean():.2f}" for seed in seeds)
        for side, seeds in right.items()
    }
    # The answers for an image with several seeds are not independent: they count as one.
    images: dict[str, list[float]] = {}
    for row, control, ours in zip(rows, right["control"], right["preset"], strict=True):
        for file, change in zip(row["files"], ours.astype(float) - control, strict=True):
            images.setdefault(file, []).append(change)
    changes = np.array([np.mean(each) for each in images.values()])
    mean, error = changes.mean(), 1.96 * changes.std(ddof=1) / len(changes) ** 0.5
    gains = [100 * (b.mean() - a.mean()) for a, b in zip(*right.values(), strict=True)]
    half = 0.0
    if len(gains) > 1:
        half = stats.t.ppf(0.975, len(gains) - 1) * np.std(gains, ddof=1) / len(gains) ** 0.5
    flat = {side: np.concatenate(seeds) for side, seeds in right.items()}
    lost = int((flat["control"] & ~flat["preset"]).sum())
    gained = int((~flat["control"] & flat["preset"]).sum())
    cpu = {side: sum(row[side]["cpu_s"] for row in rows) for side in right}
    return (
        f"control {each['control']} %, preset {each['preset']} %; preset minus control "
        f"{100 * mean:+.2f} points, 95 % interval {100 * (mean - error):+.2f} to "
        f"{100 * (mean + error):+.2f} by {len(changes)} images, {np.mean(gains) - half:+.2f} to "
        f"{np.mean(gains) + half:+.2f} by {len(gains)} trainings; lost {lost}, gained "
        f"{gained}, p = {chance.mcnemar(lost, gained, len(flat['control'])):.2f}; CPU "
        f"{cpu['preset']:.0f} s of the control's {cpu['control']:.0f} s, "
        f"{cpu['preset'] / cpu['control']:.2f} times"
    )


def measured(work: Callable[[], np.ndarray], truth: np.ndarray, seed: int) -> dict[str, Any]:
    """Which answers are right, and the seconds that they took."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    cpu, wall = time.process_time(), time.perf_counter()
    right = work() == truth
    seconds = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    return {"right": right.tolist(), **seconds}


def compared(
    name: str, task: Task, values: Values, seed: int, sides: Sequence[str]
) -> dict[str, Any]:
    """Train the sides with one seed, print and return their answers."""
    source = SOURCES[name]
    row: dict[str, Any] = {"preset": name, "seed": seed, "files": task.test.files}
    works = {
        "control": lambda: source.control(task, {**values, "seed": seed}),
        "preset": lambda: trained(task, source.settings(values), seed),
    }
    for side in sides:
        row[side] = measured(works[side], task.test.labels, seed)
        print(
            f"seed {seed}, {side}: {np.mean(row[side]['right']):.2%} of {len(task.test.files)} "
            f"test images, CPU {row[side]['cpu_s']:.0f} s, wall {row[side]['wall_s']:.0f} s",
            flush=True,
        )
    return row


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("preset", choices=SOURCES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="images of a class that train and evaluate")
    parser.add_argument("--classes", nargs="+", default=[], help="some of the folder's classes")
    parser.add_argument("--set", action="append", default=[], metavar="NUMBER=VALUE")
    parser.add_argument("--only", choices=SIDES, help="one of the sides")
    parser.add_argument("--published", action="store_true", help="make no number smaller")
    parser.add_argument("--log", type=Path, help="append a line of JSON for each seed")
    options = parser.parse_args()
    source = SOURCES[options.preset]
    changed = dict(pair.split("=", 1) for pair in options.set)
    values = {**source.published, **({} if options.published else source.small)}
    values |= {name: type(values[name])(value) for name, value in changed.items()}
    print(f"{options.preset}: {values}", flush=True)
    if values.get("network") == "thin":
        keras.applications.ResNet50V2 = source_loops.thin_resnet50v2
    rows = []
    for seed in range(options.seeds):
        sides = [options.only] if options.only else SIDES
        task = divided(options.folder, seed, options.limit, options.classes)
        rows.append(compared(options.preset, task, values, seed, sides))
        if options.log:
            with options.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    if not options.only:
        print(told(rows))


if __name__ == "__main__":
    main()
