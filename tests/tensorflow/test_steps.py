"""One step is the same step however it is computed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.kit.resumable import split
from tests.kit.step_losses import head_losses, losses
from trainer_module import devices, fit, input_pipeline, recipes
from trainer_module.fit import FitOptions
from trainer_module.recipes.base import Module
from trainer_module.steps import Steps

# Prints the losses of a training on the devices that the environment asks for.
LOGICAL = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.kit.step_losses import head_losses, losses, masks
from trainer_module.fit import FitOptions
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
parts = FitOptions(strategy=two, gradient_accumulation=3)
print(*losses(), *losses(FitOptions(strategy=two)), *losses(parts))
print(*masks(two))
print(*masks(two))
print(*head_losses(), *head_losses(FitOptions(strategy=two)))
"""


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
    """Compute the change of a linear model's kernel by a step of SGD at rate 1."""
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
        match=r"train\.batch_size \(now 8\), .*train\.gradient_accumulation \(now 2\)",
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
