"""A fortnight of traffic of real photographs, undisturbed windows, and labels that were asked for.

    python -m tests.benchmarks.fortnight FLOWERS OTHERS WEIGHTS [--windows 200] [--seeds 3]

FLOWERS has one folder of photographs a class, OTHERS holds photographs of something else at any
depth, WEIGHTS is an .h5 file of MobileNetV2, alpha 0.35. The model is a logistic regression on its
frozen features, trained on 40 images a class. All else are held out: of those each window draws
100, and the others are the baseline, so that undisturbed windows and baseline are of the same
images. What `perennial monitor` and `perennial ask` call is called here: the same statistics of the
decoded images, the same tests and the same choice.
"""

from __future__ import annotations

import argparse
import datetime
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from components import features
from components.image_example_gen.images import Picture, read_image
from pipeline.monitoring import compare as comparing
from pipeline.monitoring import rows as recorded
from pipeline.monitoring.ask import Candidates, choose
from pipeline.monitoring.baseline import Answers, Images, Space
from pipeline.monitoring.compare import compare
from pipeline.monitoring.figures import DRIFTED, Report
from pipeline.monitoring.rows import Row
from pipeline.settings.retraining import MonitorConfig

SIDE = 160
WINDOW = 100
TRAINED = 40  # images of a class
REPEATS = 40  # splits of each seed
MAX_PIXELS = 100_000_000
NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
Floats = npt.NDArray[np.float64]
Chosen = Sequence[int] | npt.NDArray[np.int64]


class Photos(NamedTuple):
    """Encoded images, what is known of each, their features and labels."""

    pictures: list[Picture]
    embeddings: Floats
    labels: npt.NDArray[np.int64]


class World:
    """A network without its head."""

    def __init__(self, weights: Path) -> None:
        import keras

        self._network = keras.applications.MobileNetV2(
            (SIDE, SIDE, 3), alpha=0.35, include_top=False, pooling="avg", weights=str(weights)
        )

    def photos(self, images: Sequence[bytes], labels: Sequence[int]) -> Photos:
        def pixels(image: bytes) -> npt.NDArray[np.float32]:
            opened = Image.open(io.BytesIO(image)).convert("RGB").resize((SIDE, SIDE))
            return np.asarray(opened, np.float32) / 127.5 - 1

        parts = [
            self._network(np.stack([pixels(image) for image in images[start : start + 32]])).numpy()
            for start in range(0, len(images), 32)
        ]
        pictures = [read_image(image, MAX_PIXELS) for image in images]
        return Photos(pictures, np.concatenate(parts).astype(np.float64), np.array(labels))


def take(photos: Photos, chosen: Chosen) -> Photos:
    return Photos(
        [photos.pictures[n] for n in chosen], photos.embeddings[chosen], photos.labels[chosen]
    )


def joined(first: Photos, second: Photos) -> Photos:
    return Photos(
        first.pictures + second.pictures,
        np.concatenate([first.embeddings, second.embeddings]),
        np.concatenate([first.labels, second.labels]),
    )


class Judge:
    """The head, and a look at a window of traffic."""

    def __init__(self, photos: Photos, trained: Chosen, classes: Sequence[str]) -> None:
        self._classes = list(classes)
        self._training = photos.embeddings[trained]
        self.head = head().fit(self._training, photos.labels[trained])

    def look(self, window: Photos, held_out: Photos) -> Report:
        columns = {
            features.HEIGHT: [picture.height for picture in held_out.pictures],
            features.WIDTH: [picture.width for picture in held_out.pictures],
            features.ASPECT: [picture.width / picture.height for picture in held_out.pictures],
            features.MEAN: [picture.mean for picture in held_out.pictures],
            features.CONTRAST: [picture.contrast for picture in held_out.pictures],
            features.BYTES: [len(picture.encoded) for picture in held_out.pictures],
            features.FORMAT: [picture.format for picture in held_out.pictures],
            features.CHANNELS: [str(picture.channels) for picture in held_out.pictures],
        }
        probabilities = self.head.predict_proba(held_out.embeddings)
        answers = Answers(
            self._classes,
            probabilities,
            probabilities.argmax(axis=1) == held_out.labels,
            self._training,
            held_out.embeddings,
        )
        answered = self.head.predict_proba(window.embeddings)
        rows = [
            Row(
                request=str(n),
                position=0,
                time=0,
                protocol="rest",
                model="flowers",
                version=1,
                sha256=str(n),
                size=len(picture.encoded),
                predicted=self._classes[int(answered[n].argmax())],
                probabilities=answered[n],
                embedding=window.embeddings[n],
                **recorded.pictured(picture),
            )
            for n, picture in enumerate(window.pictures)
        ]

        def embed(_: int, found: Sequence[Row]) -> np.ndarray:
            return np.stack([np.asarray(row.embedding) for row in found])

        images = Images({name: np.array(values) for name, values in columns.items()})
        return compare(rows, NOW, NOW, images, {1: answers}, embed, MonitorConfig())


def head() -> LogisticRegression:
    # All principal components: the same solution, in no more dimensions than images.
    return make_pipeline(StandardScaler(), PCA(), LogisticRegression(C=0.01, max_iter=1000))


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def darker(image: Image.Image) -> Image.Image:
    return image.point(lambda value: int(value * 0.6))


def turned(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_90)


def thumbnail(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((64, 64))
    return small


# What happens on which day, to which share of the traffic; all other days are undisturbed.
CHANGES: dict[int, tuple[str, float, Callable[[Image.Image], Image.Image]]] = {
    5: ("darker, by 40 %", 1.0, darker),
    9: ("the camera is turned", 1.0, turned),
    11: ("a client sends thumbnails", 0.2, thumbnail),
}
NEW_CLASS = 7


def fortnight(
    world: World, judge: Judge, photos: Photos, others: Photos, held_out: Chosen, seed: int
) -> Iterator[tuple[int, str, Report]]:
    random = np.random.default_rng(seed)
    for day in range(1, 15):
        drawn = random.permutation(held_out)
        inside, outside = drawn[:WINDOW], drawn[WINDOW:]
        window, told = take(photos, inside), "undisturbed"
        if day in CHANGES:
            told, share, change = CHANGES[day]
            count = int(share * WINDOW)
            images = [
                encoded(change(Image.open(io.BytesIO(picture.encoded)).convert("RGB")))
                for picture in window.pictures[:count]
            ]
            changed = world.photos(images, list(window.labels[:count]))
            window = joined(changed, take(window, range(count, WINDOW)))
        elif day == NEW_CLASS:
            told = "30 % are of a new class"
            mixed = take(others, random.choice(len(others.pictures), 30, replace=False))
            window = joined(take(window, range(WINDOW - 30)), mixed)
        yield day, told, judge.look(window, take(photos, outside))


def asked(photos: Photos, seed: int, labels: int) -> tuple[float, float, float]:
    """Measure the accuracy of the next model with chosen labels, and with as many drawn at random.

    Means of REPEATS splits, and the standard error of the mean difference. A first model of 15
    images a class, five more of each held out; the traffic is skewed, as it is: two of the classes
    are nearly four fifths of it.
    """
    random = np.random.default_rng(seed)
    pairs = np.array([_asked_once(photos, random, labels) for _ in range(REPEATS)])
    chosen, at_random = pairs.mean(axis=0)
    error = (pairs[:, 0] - pairs[:, 1]).std(ddof=1) / REPEATS**0.5
    return float(chosen), float(at_random), float(error)


def _asked_once(photos: Photos, random: np.random.Generator, labels: int) -> tuple[float, float]:
    order = random.permutation(len(photos.labels))
    test, rest = order[:150], order[150:]
    kinds = random.permutation(np.unique(photos.labels))
    of_kind = [rest[photos.labels[rest] == kind] for kind in kinds]
    first = np.concatenate([found[:15] for found in of_kind])
    held_out = np.concatenate([found[15:20] for found in of_kind])
    sizes = [50, 50, *[9] * (len(kinds) - 2)]
    pool = np.concatenate([found[20:][:size] for found, size in zip(of_kind, sizes, strict=True)])

    def accuracy(chosen: Chosen) -> float:
        together = np.concatenate([first, chosen])
        model = head().fit(photos.embeddings[together], photos.labels[together])
        return float(model.score(photos.embeddings[test], photos.labels[test]))

    model = head().fit(photos.embeddings[first], photos.labels[first])
    space = Space(photos.embeddings[first])
    limit = np.quantile(space.distances(photos.embeddings[held_out]), 0.99)
    candidates = Candidates(
        model.predict_proba(photos.embeddings[pool]),
        space.project(photos.embeddings[pool]),
        space.distances(photos.embeddings[pool]) > limit,
        np.zeros(len(pool), bool),
    )
    chosen = pool[[index for index, _ in choose(candidates, labels)]]
    drawn = [accuracy(random.choice(pool, labels, replace=False)) for _ in range(3)]
    return accuracy(chosen), float(np.mean(drawn))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("flowers", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, nargs="+", default=[20, 40])
    parser.add_argument("--parts", nargs="+", default=["fortnight", "windows", "labels"])
    options = parser.parse_args()
    classes = sorted(path.name for path in options.flowers.iterdir() if path.is_dir())
    files = [
        (n, file)
        for n, name in enumerate(classes)
        for file in sorted((options.flowers / name).iterdir())
    ]
    world = World(options.weights)
    photos = world.photos([file.read_bytes() for _, file in files], [n for n, _ in files])
    strangers = sorted(options.others.rglob("*.jpg"))[:100]
    others = world.photos([file.read_bytes() for file in strangers], [-1] * len(strangers))
    random = np.random.default_rng(0)
    order = random.permutation(len(photos.labels))
    trained = np.concatenate(
        [order[photos.labels[order] == n][:TRAINED] for n in range(len(classes))]
    )
    held_out = np.setdiff1d(order, trained)
    judge = Judge(photos, trained, classes)
    for seed in range(options.seeds if "fortnight" in options.parts else 0):
        for day, told, report in fortnight(world, judge, photos, others, held_out, seed):
            found = ", ".join(f"{each.name} (p = {each.p:.1g})" for each in report.findings)
            print(f"fortnight {seed}, day {day:2}: {told:26} {report.verdict}: {found}", flush=True)
    for labels in options.labels if "labels" in options.parts else ():
        for seed in range(options.seeds):
            chosen, drawn_at_random, error = asked(photos, seed, labels)
            print(
                f"{labels} labels, seed {seed}: accuracy {chosen:.1%} with those asked for, "
                f"{drawn_at_random:.1%} at random, standard error {100 * error:.2f} points",
                flush=True,
            )
    alarms = 0
    comparing._divergences = lambda *_: {}  # which decide nothing, and take most of the time
    for _ in range(options.windows if "windows" in options.parts else 0):
        drawn = random.permutation(held_out)
        report = judge.look(take(photos, drawn[:WINDOW]), take(photos, drawn[WINDOW:]))
        alarms += report.verdict == DRIFTED
    print(f"{alarms} of {options.windows} undisturbed windows have a finding", flush=True)


if __name__ == "__main__":
    main()
