"""The BiT network against published figures and a NumPy forward pass written from the paper."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from trainer_module.models.bit_resnet import VARIANTS, StdConv2D, Variant, bit_resnet

SMALL = Variant((2, 1, 1, 1), 32)


def randomised(variant: Variant, image_size: int, seed: int = 0) -> keras.Model:
    model = bit_resnet(variant, image_size=image_size, num_classes=5)
    random = np.random.default_rng(seed)
    for variable in model.variables:
        variable.assign(random.normal(0.1, 0.5, variable.shape))
    return model


@pytest.mark.parametrize(
    ("name", "thousand_classes"),
    [
        ("R50x1", 25_549_352),
        ("R50x3", 217_319_080),
        ("R101x1", 44_541_480),
        ("R101x3", 387_934_888),
        ("R152x2", 236_335_208),
        ("R152x4", 936_533_224),
    ],
)
def test_published_variants_have_their_number_of_parameters(
    name: str, thousand_classes: int
) -> None:
    depth, factor = name.removeprefix("R").split("x")
    units = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}[depth]
    width = 64 * int(factor)
    count, channels = 3 * 7 * 7 * width, width
    for block, repeats in enumerate(units):
        middle = width * 2**block
        for unit in range(repeats):
            count += channels * middle + 9 * middle**2 + 4 * middle**2
            count += 2 * (channels + middle + middle)
            count += channels * 4 * middle if unit == 0 else 0
            channels = 4 * middle
    count += 2 * channels
    with_head = count + 1000 * (channels + 1)
    assert with_head == thousand_classes

    # Symbolic variables: the largest would take 3.7 GB.
    with keras.StatelessScope(initialize_variables=False):
        model = bit_resnet(VARIANTS[name], image_size=None, num_classes=1000)
        assert model.count_params() == with_head
    # Keras would make them real at the end of the next scope, whoever enters it.
    keras.utils.clear_session()


def test_r50x1_agrees_with_the_published_backbone_and_21k_head() -> None:
    with keras.StatelessScope(initialize_variables=False):
        model = bit_resnet(VARIANTS["R50x1"], image_size=None, num_classes=21_843)
        assert model.count_params() == 68_256_659
        assert sum(int(np.prod(v.shape)) for v in model.variables[:-2]) == 23_500_352
        assert len(model.variables) == 153


@pytest.mark.parametrize("image_size", [32, 37])
def test_forward_pass_equals_numpy(image_size: int) -> None:
    model = randomised(SMALL, image_size)
    images = np.random.default_rng(1).integers(0, 256, (3, image_size, image_size, 3), np.uint8)
    expected = numpy_bit(model, SMALL, images)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model(images), expected, rtol=1e-3, atol=1e-4)


def test_forward_pass_equals_numpy_where_the_padded_pool_sees_only_negatives() -> None:
    model = randomised(SMALL, 32)
    root = model.get_layer("root_conv").output
    negative = -np.random.default_rng(1).uniform(0.1, 5, (2, *root.shape[1:])).astype(np.float32)
    pooled = np.asarray(keras.Model(root, model.get_layer("root_pool").output)(negative))
    # The first row and column see the padding, and zero is the largest there.
    assert (pooled[:, 0] == 0).all()
    assert (pooled[:, :, 0] == 0).all()
    assert (pooled[:, 1:-1, 1:-1] < 0).all()
    expected = numpy_after_root(model, SMALL, negative)
    np.testing.assert_allclose(
        keras.Model(root, model.output)(negative), expected, rtol=1e-3, atol=1e-4
    )


def test_a_new_head_gives_zero_logits() -> None:
    model = bit_resnet(VARIANTS["tiny"], image_size=32, num_classes=7)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(model(images), np.zeros((2, 7)))


def test_kernels_are_standardised_in_float32_under_mixed_precision() -> None:
    layer = StdConv2D(4, 3, dtype="mixed_float16")
    layer.build((None, 8, 8, 2))
    kernel = np.random.default_rng(0).normal(0, 1e-4, layer.kernel.shape)
    layer.kernel.assign(kernel)
    x = np.random.default_rng(1).normal(0, 1, (1, 8, 8, 2)).astype(np.float32)
    result = layer(x)
    assert keras.backend.standardize_dtype(result.dtype) == "float16"
    # In float16 a variance of 1e-8 would be lost.
    np.testing.assert_allclose(result, conv(x, standardised(kernel), 1, 0), atol=0.05)


def test_model_survives_a_round_trip_through_its_config_and_weights(tmp_path: Any) -> None:
    model = randomised(VARIANTS["tiny"], 32)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(images), model(images))


def numpy_bit(model: keras.Model, variant: Variant, images: np.ndarray) -> np.ndarray:
    """Forward pass with `model`'s weights, in float64."""
    kernel = standardised(np.asarray(model.get_layer("root_conv").kernel, np.float64))
    return numpy_after_root(model, variant, conv(images / 127.5 - 1.0, kernel, 2, 3))


def numpy_after_root(model: keras.Model, variant: Variant, x: np.ndarray) -> np.ndarray:
    weights = {v.path: np.asarray(v, np.float64) for v in model.variables}

    def std_conv(x: np.ndarray, name: str, stride: int = 1, pad: int = 0) -> np.ndarray:
        return conv(x, standardised(weights[f"{name}_conv/kernel"]), stride, pad)

    def norm_relu(x: np.ndarray, name: str) -> np.ndarray:
        grouped = x.reshape(*x.shape[:3], variant.groups, -1)
        mean = grouped.mean((1, 2, 4), keepdims=True)
        variance = grouped.var((1, 2, 4), keepdims=True)
        x = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
        gamma, beta = (weights[f"{name}_norm/{part}"] for part in ("gamma", "beta"))
        return np.maximum(x * gamma + beta, 0)

    x = patches(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2).max((3, 4))
    for block, units in enumerate(variant.units, 1):
        for unit in range(1, units + 1):
            name = f"block{block}_unit{unit:02}"
            stride = 2 if block > 1 and unit == 1 else 1
            y = norm_relu(x, f"{name}_a")
            if f"{name}_proj_conv/kernel" in weights:
                x = std_conv(y, f"{name}_proj", stride)
            y = norm_relu(std_conv(y, f"{name}_a"), f"{name}_b")
            y = norm_relu(std_conv(y, f"{name}_b", stride, 1), f"{name}_c")
            x = x + std_conv(y, f"{name}_c")
    x = norm_relu(x, "final")
    return x.mean((1, 2)) @ weights["head/kernel"] + weights["head/bias"]


def standardised(kernel: np.ndarray) -> np.ndarray:
    return (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-10)


def patches(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Windows [B, H', W', size, size, C] of [B, H, W, C]."""
    views = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.moveaxis(views[:, ::stride, ::stride], 3, -1)


def conv(x: np.ndarray, kernel: np.ndarray, stride: int, pad: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return np.tensordot(patches(x, kernel.shape[0], stride), kernel, axes=3)
