"""A page with samples of every class, before and after augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from components import features, storage
from components.image_example_gen.accounting import read_accounting
from components.storage import staging
from components.wording import counted
from pipeline.report import page
from pipeline.settings import Config
from trainer_module import recipes, transform
from trainer_module.recipes.base import TrainingData

SPLIT = "train"
SMALLEST_SHOWN = 96  # pixels on the page; smaller images are enlarged, each pixel a square


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image: its file, and PNGs of the model's input before and after augmentation."""

    name: str
    before: bytes
    after: list[bytes]


@dataclasses.dataclass(frozen=True)
class ClassSamples:
    """The samples of a class, and its number of images in the split."""

    label: str
    images: int
    samples: list[Sample]


def collect(
    config: Config, examples_uri: str, per_class: int, variants: int
) -> Iterator[ClassSamples]:
    """Yield the classes by name, each with `per_class` images in `variants` augmented versions."""
    policy = {name: getattr(config.transform, name) for name in transform.RESIZE_POLICY}
    counts = read_accounting(examples_uri).splits[SPLIT]
    chosen = _first_of_each(storage.join(examples_uri, f"Split-{SPLIT}", "*"), counts, per_class)
    names = [(label, name) for label, rows in chosen.items() for name, _ in rows]
    encoded = [data for rows in chosen.values() for _, data in rows]

    def resized(size: int) -> tf.Tensor:
        return tf.stack([transform.load_image(data, size, **policy) for data in encoded])

    before = resized(config.transform.image_size)
    after = _augmented(
        config, resized(config.transform.train_size or config.transform.image_size), variants
    )
    rendered = [
        (label, Sample(name, _png(image), [_png(changed[index]) for changed in after]))
        for index, ((label, name), image) in enumerate(zip(names, before, strict=True))
    ]
    for label, images in sorted(counts.items()):
        yield ClassSamples(label, images, [s for owner, s in rendered if owner == label])


def _first_of_each(
    pattern: str, counts: dict[str, int], per_class: int
) -> dict[str, list[tuple[str, bytes]]]:
    """Read name and bytes of the first images of each class, and stop when all are found."""
    wanted = {label: min(per_class, images) for label, images in counts.items()}
    chosen: dict[str, list[tuple[str, bytes]]] = {label: [] for label in wanted}
    spec = {
        name: tf.io.FixedLenFeature([], tf.string)
        for name in (features.LABEL_TEXT, features.FILENAME, features.IMAGE)
    }
    for row in (
        tf.data.TFRecordDataset(staging.here_all([pattern]))
        .map(lambda record: tf.io.parse_single_example(record, spec))
        .as_numpy_iterator()
    ):
        label = row[features.LABEL_TEXT].decode()
        if len(chosen[label]) < wanted[label]:
            chosen[label].append((row[features.FILENAME].decode(), row[features.IMAGE]))
            if all(len(rows) == wanted[name] for name, rows in chosen.items()):
                break
    return chosen


def _augmented(config: Config, images: tf.Tensor, variants: int) -> list[tf.Tensor]:
    """Make `variants` versions of training images by the augmentation of the first phase."""
    recipe = recipes.get(config.train.recipe)
    settings = config.train.hyperparameters
    model = recipe.build_model(settings, config.transform.image_size, 2)
    data = TrainingData(
        images=tf.data.Dataset.from_tensor_slices(images),
        size=len(images),
        batch_size=config.train.batch_size,
        epochs=config.train.epochs,
    )
    phase = next(recipe.phases(settings, model, data))
    if phase.augment is None:
        return []
    labels = tf.zeros([len(images)], tf.int64)
    return [
        phase.augment(images, labels, tf.constant([config.train.seed, step], tf.int64))[0]
        for step in range(variants)
    ]


def _png(image: tf.Tensor) -> bytes:
    return tf.io.encode_png(image).numpy()


def render(config: Config, classes: list[ClassSamples]) -> str:
    """Render the self-contained page."""
    size = config.transform.image_size
    augmented = any(sample.after for each in classes for sample in each.samples)
    facts = [
        f"{counted(len(classes), 'class')}, "
        f"{counted(sum(each.images for each in classes), 'training image')}",
        f"recipe {config.train.recipe}, {size} x {size} pixels",
        "with a frame: as evaluated and served; below it: as augmented for training"
        if augmented
        else "this recipe does not augment images",
    ]
    return page.template("samples.html").render(
        source=config.data.source, facts=facts, classes=classes, side=max(size, SMALLEST_SHOWN)
    )
