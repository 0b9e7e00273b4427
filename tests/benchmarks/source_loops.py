"""The training loops of the published documents that presets are named for, in plain Keras.

Each takes a task and its document's numbers, and gives a label for every test image, int64 [N].
They are the controls of tests/benchmarks/sources.py: written from the documents' facts, with
nothing of the recipes but BiT's network, as the module of TensorFlow Hub is not at hand.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.src.applications import resnet

from trainer_module.models.bit_resnet import VARIANTS, bit_resnet

AUTO = tf.data.AUTOTUNE
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Images:
    """Files and their labels, int64 [N]."""

    files: list[str]
    labels: np.ndarray

    def decoded(self) -> tf.data.Dataset:
        """Pixels, uint8 [H, W, 3], read anew by every pass, as the documents do, and labels."""
        pairs = tf.data.Dataset.from_tensor_slices((self.files, self.labels))
        return pairs.map(lambda file, label: (_pixels(file), label), AUTO)


@dataclasses.dataclass(frozen=True)
class Task:
    """Images of the three splits, and how many classes there are."""

    train: Images
    evaluation: Images
    test: Images
    classes: int


def _pixels(file: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(tf.io.read_file(file), 3, expand_animations=False)


def answers(model: keras.Model, batches: tf.data.Dataset) -> np.ndarray:
    """Predict the most probable label of each image, int64 [N]."""
    return np.argmax(model.predict(batches, verbose=0), axis=-1)


def keras_bit(task: Task, values: Values) -> np.ndarray:
    """Run the Keras example: boundaries as printed, whatever the batch; patience of two epochs."""
    boundaries = [values["schedule"] * share // 5 for share in (2, 3, 4)]
    stop = keras.callbacks.EarlyStopping("val_accuracy", patience=2, restore_best_weights=True)
    return _bit(task, values, boundaries, (1, 0.1, 0.01, 0.001), [stop])


def tensorflow_bit(task: Task, values: Values) -> np.ndarray:
    """Run the blog's notebook: its printed factors of the rate, no early stop."""
    # As printed for 512 images a step.
    boundaries = [_steps(values) * share // 5 for share in (2, 3, 4)]
    return _bit(task, values, boundaries, (1, 0.1, 0.001, 0.0001), [])


def _steps(values: Values) -> int:
    return values["schedule"] * 512 // values["batch"]


def _bit(
    task: Task,
    values: Values,
    boundaries: list[int],
    factors: tuple[float, ...],
    callbacks: list[keras.callbacks.Callback],
) -> np.ndarray:
    batch, resize, crop = (values[name] for name in ("batch", "resize", "crop"))

    def prepared(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.image.random_flip_left_right(image)
        return tf.image.random_crop(_shrunk(image, resize), (crop, crop, 3)), label

    def tests(images: Images) -> tf.data.Dataset:
        resized = images.decoded().map(lambda image, label: (_shrunk(image, resize), label), AUTO)
        return resized.batch(batch).prefetch(AUTO)

    # In place of the module of TensorFlow Hub, whose weights are not at hand.
    network = bit_resnet(VARIANTS[values["variant"]], image_size=None, num_classes=task.classes)
    model = keras.Model(network.get_layer("rescaling").output, network.output)
    rate = values["rate"] * batch / 512
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        boundaries, [rate * factor for factor in factors]
    )
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9), LOSS, metrics=["accuracy"])
    train = task.train.decoded().shuffle(10_000).repeat().map(prepared, AUTO).batch(batch)
    model.fit(
        train.prefetch(AUTO),
        epochs=max(1, _steps(values) // 10),
        steps_per_epoch=10,
        validation_data=tests(task.evaluation),
        callbacks=callbacks,
        verbose=0,
    )
    return answers(model, tests(task.test))


def keras_fixres(task: Task, values: Values) -> np.ndarray:
    """Run the Keras example's first experiment."""
    low, high = values["low"], values["high"]
    model, network = _resnet(task.classes)
    _fit_resnet(model, 1e-3, values["epochs"], *_crops(task, values, low))
    for layer in network.layers:
        layer.trainable = layer.name == "post_bn"
    central, before = layers.CenterCrop(high, high), int(high / low * high)

    def centre(*, flip: bool) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
        def prepared(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image = tf.image.resize(image, (before, before))
            image = tf.image.random_flip_left_right(image) if flip else image
            return (central(image[None])[0] - 127.5) / 127.5, label

        return prepared

    batch = values["batch"]
    train = task.train.decoded().shuffle(10 * batch).map(centre(flip=True), AUTO).batch(batch)
    tests = [
        images.decoded().map(centre(flip=False), AUTO).batch(batch).prefetch(AUTO)
        for images in (task.evaluation, task.test)
    ]
    _fit_resnet(model, 1e-4, values["second_epochs"], train.prefetch(AUTO), tests[0])
    return answers(model, tests[1])


def keras_fixres_control(task: Task, values: Values) -> np.ndarray:
    """Run the Keras example's second experiment."""
    model, _ = _resnet(task.classes)
    _fit_resnet(model, 1e-3, values["epochs"], *_crops(task, values, values["high"]))
    size = values["high"]
    tests = task.test.decoded().map(lambda image, label: (_shrunk(image, size), label), AUTO)
    return answers(model, tests.batch(values["batch"]))


def _shrunk(image: tf.Tensor, size: int) -> tf.Tensor:
    return (tf.image.resize(image, (size, size)) - 127.5) / 127.5


def _crops(task: Task, values: Values, size: int) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    batch = values["batch"]

    def cropped(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([0, 0, 4]),
            area_range=(0.05, 1.0),
            min_object_covered=0,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.ensure_shape(tf.slice(image, begin, extent), [None, None, 3])
        return tf.image.random_flip_left_right(_shrunk(image, size)), label

    train = task.train.decoded().shuffle(10 * batch).map(cropped, AUTO).batch(batch)
    tests = task.evaluation.decoded().map(lambda image, label: (_shrunk(image, size), label), AUTO)
    return train.prefetch(AUTO), tests.batch(batch).prefetch(AUTO)


def _resnet(classes: int) -> tuple[keras.Model, keras.Model]:
    network = keras.applications.ResNet50V2(include_top=False, weights=None, pooling="avg")
    images = layers.Input((None, None, 3))
    return keras.Model(images, layers.Dense(classes, "softmax")(network(images))), network


def thin_resnet50v2(**options: Any) -> keras.Model:
    """Make ResNet50V2 with two blocks in each group, and with a quarter of the channels."""

    def groups(x: Any) -> Any:
        for number, filters in enumerate((16, 32, 64, 128), 2):
            stride = 1 if number == 5 else 2
            x = resnet.stack_residual_blocks_v2(x, filters, 2, stride, f"conv{number}")
        return x

    return resnet.ResNet(groups, True, True, name="resnet50v2", **options)


def _fit_resnet(
    model: keras.Model, rate: float, epochs: int, train: tf.data.Dataset, tests: tf.data.Dataset
) -> None:
    adam = keras.optimizers.Adam(rate)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train, validation_data=tests, epochs=epochs, verbose=0)


def article_vit(task: Task, values: Values) -> np.ndarray:
    """Run the article's loop: the network augments, and the best epoch is loaded at the end."""
    arrays = [
        (np.stack([image.numpy() for image, _ in images.decoded()]), images.labels)
        for images in (task.train, task.evaluation, task.test)
    ]
    size = values["size"]
    augmentation = keras.Sequential(
        [
            layers.Normalization(),
            layers.Resizing(size, size),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.02),
            layers.RandomZoom(0.2, 0.2),
        ]
    )
    augmentation.layers[0].adapt(arrays[0][0])
    model = _article_network(augmentation, arrays[0][0].shape[1:], task.classes, values)
    # The 0.0001 of tensorflow-addons, which did not multiply it by the rate.
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.1), LOSS, metrics=["accuracy"])
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/best.weights.h5"
        best = keras.callbacks.ModelCheckpoint(
            file, monitor="val_accuracy", save_best_only=True, save_weights_only=True
        )
        model.fit(
            *arrays[0],
            batch_size=values["batch"],
            epochs=values["epochs"],
            validation_data=arrays[1],
            callbacks=[best],
            verbose=0,
        )
        model.load_weights(file)
    return np.argmax(model.predict(arrays[2][0], verbose=0), axis=-1)


def _article_network(
    augmentation: keras.Model, shape: tuple[int, ...], classes: int, values: Values
) -> keras.Model:
    patch, dim = 6, 64
    count = (values["size"] // patch) ** 2
    images = keras.Input(shape)
    x = keras.ops.image.extract_patches(augmentation(images), size=patch)
    x = layers.Dense(dim)(layers.Reshape((count, patch * patch * 3))(x))
    x += layers.Embedding(count, dim)(keras.ops.arange(count)[None])
    for _ in range(values["depth"]):
        normed = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([layers.MultiHeadAttention(4, dim, dropout=0.1)(normed, normed), x])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([_mlp(y, (2 * dim, dim), 0.1), x])
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    x = _mlp(layers.Dropout(0.5)(x), (2048, 1024), 0.5)
    return keras.Model(images, layers.Dense(classes)(x))


def _mlp(x: Any, units: tuple[int, ...], dropout: float) -> Any:
    for count in units:
        x = layers.Dropout(dropout)(layers.Dense(count, activation="gelu")(x))
    return x


def tensorflow_transfer(task: Task, values: Values) -> np.ndarray:
    """Run the tutorial's two phases."""
    size, batch = values["size"], values["batch"]

    def batches(images: Images) -> tf.data.Dataset:
        resized = images.decoded().map(
            lambda image, label: (tf.image.resize(image, (size, size)), label), AUTO
        )
        return resized.batch(batch).prefetch(AUTO)

    training = task.train.decoded().shuffle(8 * batch)
    training = training.map(
        lambda image, label: (tf.image.resize(image, (size, size)), label), AUTO
    )
    training = training.batch(batch).prefetch(AUTO)
    augmentation = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)])
    base = keras.applications.MobileNetV2(
        input_shape=(size, size, 3),
        include_top=False,
        weights=values["weights"],
        alpha=values["alpha"],
    )
    base.trainable = False
    images = keras.Input((size, size, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(augmentation(images))
    x = layers.GlobalAveragePooling2D()(base(x, training=False))
    logits = layers.Dense(1 if task.classes == 2 else task.classes)(layers.Dropout(0.2)(x))
    model = keras.Model(images, logits)
    binary = task.classes == 2
    loss = keras.losses.BinaryCrossentropy(from_logits=True) if binary else LOSS
    tests = batches(task.evaluation)
    first, epochs = values["head_epochs"], values["epochs"]
    model.compile(keras.optimizers.Adam(1e-4), loss, metrics=["accuracy"])
    model.fit(training, epochs=first, validation_data=tests, verbose=0)
    base.trainable = True
    for layer in base.layers[:100]:
        layer.trainable = False
    model.compile(keras.optimizers.RMSprop(1e-5), loss, metrics=["accuracy"])
    model.fit(training, epochs=epochs, initial_epoch=first, validation_data=tests, verbose=0)
    found = model.predict(batches(task.test), verbose=0)
    return (found[:, 0] > 0).astype(np.int64) if binary else np.argmax(found, axis=-1)
