"""One step is the same step however it is computed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.kit.resumable import split
from trainer_module import devices, fit, input_pipeline, recipes
from trainer_module.fit import FitOptions
from trainer_module.input_pipeline import Split
from trainer_module.recipes.base import EpochMetrics, Frozen, Module, Phase, TrainingData
from trainer_module.steps import Steps

# Prints the losses of a training on the devices that the environment asks for.
LOGICAL = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.tensorflow.test_steps import head_losses, losses, masks
from trainer_module.fit import How
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
print(*losses(), *losses(How(strategy=two)), *losses(How(strategy=two, gradient_accumulation=3)))
print(*masks(two))
print(*masks(two))
print(*head_losses(), *head_losses(How(strategy=two)))
"""


def losses(options: FitOptions | None = None, **settings: Any) -> list[float]:
    """Losses of two epochs of 42 images, the last batch of which holds two."""
    keras.utils.set_random_seed(0)
    recipe = recipes.get("vit")
    tiny = {"patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "key_dim": 4, "mlp_dim": 8}
    config = recipe.Config(
        **tiny, head_dims=[8], dropout=0, head_dropout=0, rotation=0, zoom=0, flip=False, **settings
    )
    trained = fit.fit(
        recipe,
        config,
        train=split(42, 0),
        evaluation=split(21, 1),
        image_size=8,
        num_classes=3,
        batch_size=8,
        epochs=2,
        seed=0,
        options=options,
    )
    return [row[key] for row in trained.epochs for key in ("loss", "val_loss")]


def head_losses(options: FitOptions | None = None) -> list[float]:
    """Losses of three epochs of a head on features of 17 images, the last batch of which is one."""

    class Recipe:
        @staticmethod
        def build_model(config: object, image_size: int, classes: int) -> keras.Model:
            images = keras.Input((image_size, image_size, 3), dtype="uint8")
            x = keras.layers.Flatten(name="flat")(keras.layers.Rescaling(1 / 255)(images))
            return keras.Model(images, keras.layers.Dense(classes, name="logits")(x))

        @staticmethod
        def phases(
            config: object, model: keras.Model, data: TrainingData
        ) -> Generator[Phase, EpochMetrics, None]:
            features = model.get_layer("flat").output
            start = keras.Input(features.shape[1:])
            head = keras.Model(start, model.get_layer("logits")(start))
            frozen = Frozen(keras.Model(model.input, features), head)
            yield Phase(3, keras.optimizers.SGD(0.1), None, frozen=frozen)

    keras.utils.set_random_seed(0)
    trained = fit.fit(
        Module(Recipe()),
        recipes.get("vit").Config(),  # not looked at
        train=split(17, 0),
        evaluation=split(5, 1),
        image_size=8,
        num_classes=3,
        batch_size=8,
        epochs=3,
        seed=0,
        options=options,
    )
    return [row[key] for row in trained.epochs for key in ("loss", "val_loss")]


@pytest.fixture(scope="module")
def plain() -> list[float]:
    return losses()


@pytest.mark.parametrize(
    "options",
    [
        FitOptions(gradient_accumulation=3),
        FitOptions(gradient_accumulation=8),
        FitOptions(jit_compile=True),
    ],
)
def test_parts_of_a_batch_and_xla_give_the_same_training(
    plain: list[float], options: FitOptions
) -> None:
    np.testing.assert_allclose(losses(options), plain, rtol=1e-4)


def test_two_devices_give_the_same_training_with_and_without_parts() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LOGICAL], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    first, *dropped, heads = result.stdout.splitlines()
    one, two, parts = np.reshape([float(value) for value in first.split()], (3, 4))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    np.testing.assert_allclose(parts, one, rtol=1e-4)
    one, two = np.reshape([float(value) for value in heads.split()], (2, 6))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    # Each device keeps half of the inputs. Were they the same ones, none would be kept by one only.
    assert dropped[0] == dropped[1]
    assert {float(value) for value in dropped[0].split()} == {0, 1, 2}


def masks(strategy: tf.distribute.Strategy) -> list[float]:
    """For each of 192 inputs how many devices kept it, in the second phase's second step."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        images = keras.Input((8, 8, 3), dtype="uint8")
        x = keras.layers.Flatten()(keras.layers.Rescaling(0.0, 1.0)(images))
        head = keras.layers.Dense(2, kernel_initializer="zeros", use_bias=False)
        model = keras.Model(images, head(keras.layers.Dropout(0.5)(x)))
        optimizer = keras.optimizers.SGD(2.0)
        optimizer.build(model.trainable_variables)
    pixels, labels = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64)
    data = Split(tf.data.Dataset.from_tensor_slices((pixels, labels)), labels, 2)
    replicas = devices.replicas(strategy)
    batches = input_pipeline.training_batches(data, 2, 0, None, epochs=range(1), replicas=replicas)
    for _ in range(2):
        steps = Steps(model, optimizer, strategy)
        for _ in range(2):
            head.kernel.assign(np.zeros((192, 2)))
            distributed = strategy.distribute_datasets_from_function(lambda _: batches)
            steps.train(iter(distributed))
    # A half is the gradient of an even guess, times 2 for what dropout keeps, over 2 images.
    return [float(value) for value in np.round(np.asarray(head.kernel)[:, 0], 5)]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_learns_and_keeps_float32_weights(policy: str, plain: list[float]) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        np.testing.assert_allclose(losses(), plain, rtol=0.05)
        optimizer = devices.scaled(keras.optimizers.SGD())
        is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        assert is_scaled == (policy == "mixed_float16")
    finally:
        keras.config.set_dtype_policy(before)


def test_several_steps_in_one_call_are_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    train = Steps.train

    def counted(self: Steps, batches: Any, count: int) -> Any:
        calls.append(count)
        return train(self, batches, count)

    monkeypatch.setattr(Steps, "train", counted)
    monkeypatch.setattr(fit, "CALL_SECONDS", 0)
    one_by_one = losses(), head_losses()
    assert set(calls) == {1}
    monkeypatch.setattr(fit, "CALL_SECONDS", 1e9)
    assert (losses(), head_losses()) == one_by_one
    assert 6 in calls
    assert 3 in calls


def one_step(clip: float | None = None, accumulation: int = 1, factor: float = 1.0) -> np.ndarray:
    """The change of a linear model's kernel by a step of SGD at rate 1."""
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Rescaling(factor / 255)(images)
    head = keras.layers.Dense(3, kernel_initializer="zeros")
    model = keras.Model(images, head(keras.layers.Flatten()(x)))
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(model.trainable_variables)
    strategy = tf.distribute.get_strategy()
    steps = Steps(model, optimizer, strategy, accumulation=accumulation, clip=clip)
    batches = input_pipeline.training_batches(split(7, 0), 7, 0, None, epochs=range(1))
    loss, _, count = np.asarray(steps.train(iter(batches)))
    assert count == 7
    assert loss == pytest.approx(7 * np.log(3), rel=1e-5)
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()])


def test_clipping_bounds_the_norm_of_the_whole_gradient() -> None:
    free = one_step()
    assert np.linalg.norm(free) > 0.5
    for accumulation in (1, 3):
        clipped = one_step(clip=0.1, accumulation=accumulation)
        assert np.linalg.norm(clipped) == pytest.approx(0.1, rel=1e-5)
        np.testing.assert_allclose(clipped, 0.1 * free / np.linalg.norm(free), rtol=1e-4, atol=1e-8)


def test_a_step_that_does_not_fit_into_memory_says_what_to_change() -> None:
    class Huge(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            count = tf.shape(x)[0]
            # More than any machine has, but only known when it is run.
            return x + tf.reduce_sum(tf.random.stateless_uniform([count, 1 << 30, 1 << 20], [0, 0]))

    class Recipe:
        @staticmethod
        def build_model(config: object, image_size: int, classes: int) -> keras.Model:
            images = keras.Input((image_size, image_size, 3), dtype="uint8")
            x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
            return keras.Model(images, keras.layers.Dense(classes)(Huge()(x)))

        phases = staticmethod(recipes.get("vit_finetune").phases)

    with pytest.raises(
        fit.OutOfMemoryError,
        match=r"lower train\.batch_size \(now 8\), or raise train\.gradient_accumulation \(now 2\)",
    ):
        fit.fit(
            Module(Recipe()),
            recipes.get("vit_finetune").Config(),
            train=split(16, 0),
            evaluation=split(8, 1),
            image_size=8,
            num_classes=3,
            batch_size=8,
            epochs=1,
            seed=0,
            options=FitOptions(gradient_accumulation=2),
        )
