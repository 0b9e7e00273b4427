"""FixRes: train at a low resolution, then adapt head and last normalization to a higher one.

Sources: "Fixing the train-test resolution discrepancy" (arXiv 1906.06423), and the Keras example
"FixRes" for the defaults. It reports, on the 10 % of tf_flowers held out, 75.48 % at 128 px,
75.20 % after the 224 px stage, and 71.39 % for the control that is trained at 224 px throughout
(`vanilla`).

Transform keeps images large enough for both stages, and with `transform.train_size` larger ones for
training. Random crops of these are shrunk to the low resolution; what a model is evaluated and
served with, the whole image shrunk to `low` or its centre cut to `high`, is a layer of the model,
so that the exported model of whichever stage was better takes what Transform gives.

Reached here, with the tiny BiT as base, seed 0, on 2 CPU cores:

- `perennial run --recipe fixres`: 97.3 % of 367 digits held out (docs/results.md). In an earlier
  run the second stage, at 48 px, reached 89.90 % after 98.23 % at 40 px, so it was not
  kept: digits fill their images, and random crops of them hardly look larger.
- 100 photos of each of 5 flowers (a part of tf_flowers): 64.42 % of the 104 held out, at 96 px,
  2.88 points (3 images) more than after the first stage at 64 px; `perennial run --recipe fixres
  --data DIR --epochs 70` with, by --set, train.batch_size=32, transform.image_size=110 and, below
  train.hyperparameters, base=bit, low=64, high=96, min_area=0.25 and
  settings={variant="tiny",crop=false,learning_rate=0.5,patience=0}.

ResNet50V2 was trained for single steps only, in a test: more takes a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from components import progress
from trainer_module import recipes
from trainer_module.recipes.base import (
    EpochMetrics,
    Frozen,
    Phase,
    Recipe,
    TrainingData,
    epoch_rank,
)

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from trainer_module.input_pipeline import Augment, Framed

RESNET = "resnet50v2"
EPOCHS = 30  # of the first stage, where none are given
SMALLEST = 32  # pixels: below, the last layers of ResNet50V2 see less than one


class Config(BaseModel):
    """Hyperparameters of the two stages."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    base: str = Field(
        RESNET, description="The network: resnet50v2 from scratch, or that of another recipe."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Hyperparameters of the recipe that is the base."
    )
    low: PositiveInt = Field(128, description="Pixels of a side in the first stage.")
    high: PositiveInt = Field(224, description="Pixels of a side in the second stage.")
    min_area: float = Field(
        0.05, gt=0, le=1, description="Smallest share of an image that a random crop keeps."
    )
    flip: bool = Field(True, description="Mirror images; not where left and right differ.")
    learning_rate: PositiveFloat = Field(
        1e-3, description="Of resnet50v2's first stage; another recipe brings its own."
    )
    second_learning_rate: PositiveFloat = Field(1e-4, description="Of the second stage.")
    second_epochs: PositiveInt = Field(10, description="Epochs of all that the second stage takes.")
    batch_norm: Literal["reestimate", "train"] = Field(
        "train",
        description="Statistics of a last normalization over batches: trained along with its scale "
        "and offset, as in the Keras example, or measured once at the higher resolution and then "
        "fixed with these, as in the paper.",
    )
    antialias: bool = Field(
        False, description="Smooth before random crops and images are shrunk; the example does not."
    )
    vanilla: bool = Field(
        False, description="The control: train at the higher resolution, in one stage."
    )


def image_sizes(config: Config, height: float, width: float) -> dict[str, int]:  # noqa: ARG001
    """The transform settings: the centre of `high` pixels shows what `low` pixels of all do."""
    return {"image_size": config.high * config.high // config.low}


def built_on(config: Config) -> str:
    """The recipe whose network is trained."""
    return config.base


def check(config: Config, image_size: int, train_size: int) -> None:
    """Raise ValueError where sizes do not go together, or the base is not one."""
    if not config.low < config.high <= image_size:
        raise ValueError(
            f"low {config.low}, high {config.high} and image_size {image_size} must rise in this "
            "order, the last two may be equal"
        )
    if train_size < image_size:
        raise ValueError(
            f"train_size {train_size} is below image_size {image_size}; set transform.train_size "
            "higher, for crops of sharper images, or leave it unset"
        )
    known = [RESNET, *(name for name in recipes.names() if name != "fixres")]
    if config.base not in known:
        raise ValueError(f"base {config.base!r} is none of {', '.join(known)}")
    if config.base == RESNET and config.low < SMALLEST:
        raise ValueError(f"low {config.low} is too small for {RESNET}; set {SMALLEST} or more")
    if config.base == RESNET and config.settings:
        raise ValueError(
            f"settings {config.settings} are those of a recipe, but base is {RESNET}; set "
            "train.hyperparameters.base to the recipe, or leave settings out"
        )
    try:
        base = _base(config)
        for size in (config.low, config.high):
            if base:
                base[0].check(base[1], size, size)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"settings of base {config.base}: {'; '.join(problems)}") from None
    except ValueError as error:
        raise ValueError(f"settings of base {config.base}: {error}") from None


def build_model(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Make the first stage's model."""
    from trainer_module.models.views import seen_through

    check(config, image_size, image_size)
    size = _first_size(config)
    return seen_through(
        _net(config, size, num_classes), size, crop=False, antialias=config.antialias
    )


def is_framed(config: Config) -> bool:  # noqa: ARG001
    """Random crops have the proportions that they would have in the original."""
    return True


def check_model(config: Config, model: keras.Model, epochs: int | None) -> None:
    """Raise ValueError where there cannot be a second stage; see `phases`."""
    if config.vanilla:
        return
    _split(config, epochs)
    high = _net(config, config.high, model.output_shape[-1])
    _require_same_shapes(config, _network(model), high)
    _freeze(high, config.batch_norm)


def phases(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    """The phases of the base at the low resolution, then one at the higher; tell the gain.

    Raises:
        ValueError: fewer than 2 epochs; a base whose weights depend on the size of images, or
            without a normalization.
    """
    import keras

    from trainer_module import augmentation
    from trainer_module.models.views import seen_through

    if config.vanilla:
        yield from _first_stage(config, model, data)
        return
    epochs = _split(config, data.epochs)
    num_classes = model.output_shape[-1]

    def rebuild() -> keras.Model:
        return seen_through(_net(config, config.high, num_classes), config.high, crop=True)

    # Made first, because it may turn out that there cannot be one.
    second_model = rebuild()
    low, high = _network(model), _network(second_model)
    _require_same_shapes(config, low, high)
    trained = _freeze(high, config.batch_norm)
    first = yield from _first_stage(config, model, dataclasses.replace(data, epochs=epochs[0]))

    for old, new in zip(low.variables, high.variables, strict=True):
        new.assign(old)
    size = data.image_size or data.images.element_spec.shape[0]
    if config.batch_norm == "reestimate":
        images = data.images.batch(data.batch_size).map(
            lambda images: augmentation.resize(images, size, antialias=config.antialias)
        )
        _reestimate(second_model, trained[0], images)
    optimizer = keras.optimizers.Adam(config.second_learning_rate)
    flip = augmentation.flip_turn_scale(flip=config.flip)
    augment = augmentation.resized(flip, size, antialias=config.antialias)
    second = yield Phase(epochs[1], optimizer, augment, model=second_model, rebuild=rebuild)
    gained = data.keep == "last" or epoch_rank(second) > epoch_rank(first)
    kept = config.high if gained else config.low
    gain = 100 * (second["val_accuracy"] - first["val_accuracy"])
    progress.report(
        "note",
        text=f"FixRes: accuracy {first['val_accuracy']:.2%} at {config.low} px, "
        f"{second['val_accuracy']:.2%} at {config.high} px: gain {gain:+.2f} points; the model of "
        f"{kept} px is kept",
    )


def _split(config: Config, epochs: int | None) -> tuple[int | None, int]:
    """Epochs of the first stage (None: as the base thinks right) and of the second."""
    if epochs is None:
        return None, config.second_epochs
    if epochs < 2:
        raise ValueError(f"train.epochs {epochs} is too few for two stages; set 2 or more")
    second = min(config.second_epochs, epochs - 1)
    return epochs - second, second


def _first_size(config: Config) -> int:
    return config.high if config.vanilla else config.low


def _base(config: Config) -> tuple[Recipe, BaseModel] | None:
    """The recipe that is the base and its configuration, or None for ResNet50V2."""
    if config.base == RESNET:
        return None
    recipe = recipes.get(config.base)
    return recipe, recipe.Config(**config.settings)


def _net(config: Config, size: int, num_classes: int) -> keras.Model:
    if base := _base(config):
        recipe, settings = base
        return recipe.build_model(settings, size, num_classes)
    return _resnet50v2(size, num_classes)


def _resnet50v2(size: int, num_classes: int) -> keras.Model:
    import keras
    from keras import layers

    images = keras.Input((size, size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="rescaling")(images)
    backbone = keras.applications.ResNet50V2(include_top=False, weights=None, input_tensor=x)
    x = layers.GlobalAveragePooling2D(name="pool")(backbone.output)
    logits = layers.Dense(num_classes, dtype="float32", name="head")(x)
    return keras.Model(images, logits, name=RESNET)


def _first_stage(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, EpochMetrics]:
    """The base's own phases on random crops. Returns the best epoch of them all."""
    size = _first_size(config)
    best: EpochMetrics = {}
    stage = _base_phases(config, model, data)
    phase = next(stage, None)
    while phase:
        augment = _random_crops(config, size, phase.augment)
        frozen = phase.frozen and _frozen(config, phase.frozen, size)
        row = yield dataclasses.replace(phase, augment=augment, frozen=frozen, model=model)
        if not best or epoch_rank(row) > epoch_rank(best):
            best = row
        try:
            phase = stage.send(row)
        except StopIteration:
            phase = None
    return best


def _frozen(config: Config, frozen: Frozen, size: int) -> Frozen:
    """The same for images as Transform gives them."""
    from trainer_module.models.views import seen_through

    base = seen_through(frozen.base, size, crop=False, antialias=config.antialias)
    return dataclasses.replace(frozen, base=base)


def _base_phases(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    if base := _base(config):
        from trainer_module.models.views import SquareView

        recipe, settings = base
        shrink = SquareView(_first_size(config), crop=False, antialias=config.antialias)
        images = data.images.map(lambda image: shrink(image[None])[0])
        data = dataclasses.replace(data, images=images)
        yield from recipe.phases(settings, _network(model), data)
    else:
        import keras

        from trainer_module import augmentation

        optimizer = keras.optimizers.Adam(config.learning_rate)
        flip = augmentation.flip_turn_scale(flip=config.flip)
        yield Phase(data.epochs or EPOCHS, optimizer, flip)


def _random_crops(config: Config, size: int, then: Augment | None) -> Augment:
    import tensorflow as tf

    from trainer_module import augmentation

    def augment(
        images: tf.Tensor | Framed, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        crop_seed, next_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        images = augmentation.random_resized_crop(
            images, crop_seed, size, min_area=config.min_area, antialias=config.antialias
        )
        return then(images, labels, next_seed) if then else (images, labels)

    return augment


def _network(model: keras.Model) -> keras.Model:
    """What is behind the view."""
    return model.layers[-1]


def _require_same_shapes(config: Config, low: keras.Model, high: keras.Model) -> None:
    other = [
        new.path
        for old, new in zip(low.variables, high.variables, strict=True)
        if old.shape != new.shape
    ]
    if other:
        raise ValueError(
            f"base {config.base} has weights that depend on the size of images, so it cannot "
            f"change it: {', '.join(other)}; choose another base"
        )


def _freeze(net: keras.Model, batch_norm: str) -> tuple[keras.Layer, list[keras.Layer]]:
    """Leave only the last normalization and the head behind it trainable, and return them."""
    from keras import layers

    kinds = (layers.BatchNormalization, layers.GroupNormalization, layers.LayerNormalization)
    leaves = list(_leaves(net))
    places = [place for place, layer in enumerate(leaves) if isinstance(layer, kinds)]
    if not places:
        raise ValueError(f"{net.name} has no normalization to adapt; choose another base")
    norm, head = leaves[places[-1]], leaves[places[-1] + 1 :]
    for layer in leaves:
        layer.trainable = layer in head
    norm.trainable = batch_norm == "train" or not isinstance(norm, layers.BatchNormalization)
    return norm, head


def _leaves(net: keras.Model) -> Iterator[keras.Layer]:
    """The layers of a model and of the models in it, in the order that they are run in."""
    for layer in net.layers:
        if hasattr(layer, "layers"):
            yield from _leaves(layer)
        else:
            yield layer


def _reestimate(model: keras.Model, norm: keras.Layer, batches: tf.data.Dataset) -> None:
    """Set the statistics of `norm` to those of its input over all images; others than BatchNorm
    have none.
    """
    import numpy as np
    import tensorflow as tf
    from keras import layers

    if not isinstance(norm, layers.BatchNormalization):
        return

    @tf.function
    def sums(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        seen: list[tf.Tensor] = []
        call = norm.call

        def listen(inputs: tf.Tensor, **options: Any) -> tf.Tensor:
            seen.append(tf.cast(tf.reshape(inputs, [-1, inputs.shape[-1]]), tf.float64))
            return call(inputs, **options)

        # Keras has no hooks, and the layer may be in a model in the model.
        norm.call = listen
        try:
            model(images, training=False)
        finally:
            norm.call = call
        (values,) = seen
        return tf.shape(values)[0], tf.reduce_sum(values, 0), tf.reduce_sum(values**2, 0)

    parts = [[np.asarray(part) for part in sums(images)] for images in batches]
    count, total, squares = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    mean = total / count
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(squares / count - mean**2)
