"""The published vision transformers: sizes, weights and positions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from tests.kit.weights import vit_arrays
from trainer_module.models import vision_transformer as vit
from trainer_module.models.vision_transformer import VARIANTS, gelu_tanh
from trainer_module.recipes import vit_finetune
from trainer_module.recipes.base import TrainingData
from trainer_module.training import vit_finetune as training
from trainer_module.weights import WeightsError, WeightSpec

PARAMETERS = {
    "Ti/16": 5_717_416,
    "S/16": 22_050_664,
    "B/16": 86_567_656,
    "B/32": 88_224_232,
    "L/16": 304_326_632,
    # Not in the published list: L/16 with patches of 32 px has 1024 * 3 * (32**2 - 16**2) more
    # weights in its embedding and 147 positions less.
    "L/32": 304_326_632 + 1024 * 3 * (32**2 - 16**2) - 147 * 1024,
}
Arrays = dict[str, np.ndarray]


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"tiny/4"}))
def test_parameters_are_as_published(name: str) -> None:
    variant, classes = VARIANTS[name], 1000
    # Counted from the official shapes, which TestWeights shows to be the model's: the large models
    # take gigabytes. The smallest one is built.
    arrays = vit_arrays(variant, 224 // variant.patch_size, classes, shapes_only=True)
    assert sum(int(np.prod(shape.shape)) for shape in arrays.values()) == PARAMETERS[name]
    if name == "Ti/16":
        model = vit.vision_transformer(variant, image_size=224, num_classes=classes)
        assert model.count_params() == PARAMETERS[name]


def save(path: Path, arrays: Arrays) -> Path:
    np.savez(path, allow_pickle=False, **arrays)
    return path


def tiny(side: int = 2) -> keras.Model:
    return vit.vision_transformer(VARIANTS["tiny/4"], image_size=4 * side, num_classes=5)


class TestWeights:
    def test_every_array_ends_in_the_weight_of_its_name(self, tmp_path: Path) -> None:
        arrays = vit_arrays(VARIANTS["tiny/4"], 2)
        model = tiny()
        vit.load_npz(model, save(tmp_path / "vit.npz", arrays))
        assert {vit.npz_name(weight.path) for weight in model.weights} == set(arrays)
        for weight in model.weights:
            array = arrays[vit.npz_name(weight.path)].reshape(weight.shape)
            expected = np.zeros_like(array) if weight.path.startswith("head/") else array
            np.testing.assert_array_equal(weight.numpy(), expected, err_msg=weight.path)

    def test_the_forward_pass_is_that_of_an_independent_one(self, tmp_path: Path) -> None:
        arrays = vit_arrays(VARIANTS["tiny/4"], 2)
        model = tiny()
        vit.load_npz(model, save(tmp_path / "vit.npz", arrays))
        head = model.get_layer("head")
        head.set_weights([arrays["head/kernel"], arrays["head/bias"]])
        images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
        expected = [reference(arrays, image, VARIANTS["tiny/4"]) for image in images]
        np.testing.assert_allclose(model(images), expected, atol=2e-5)

    def test_an_extra_and_a_missing_array_are_both_told(self, tmp_path: Path) -> None:
        arrays = vit_arrays(VARIANTS["tiny/4"], 2)
        del arrays["cls"]
        arrays["other"] = np.zeros(1)
        model = tiny()
        before = model.get_weights()
        with pytest.raises(WeightsError, match=r"\b1 arrays .*: other; .*\b1 weights .*: cls;"):
            vit.load_npz(model, save(tmp_path / "vit.npz", arrays))
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_files_with_a_layer_before_the_head_load_too(self, tmp_path: Path) -> None:
        arrays = vit_arrays(VARIANTS["tiny/4"], 2)
        arrays |= {"pre_logits/kernel": np.zeros((24, 24)), "pre_logits/bias": np.zeros(24)}
        vit.load_npz(tiny(), save(tmp_path / "vit.npz", arrays))

    def test_another_image_size_resizes_the_positions(self, tmp_path: Path) -> None:
        arrays = vit_arrays(VARIANTS["tiny/4"], 2)
        path = save(tmp_path / "vit.npz", arrays)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        config = vit_finetune.Config(
            variant="tiny/4", weights=WeightSpec(source=str(path), sha256=digest)
        )
        model = training.build_model(config, 12, 3)
        table = model.get_layer("position").get_weights()[0]
        assert table.shape == (10, 24)
        old = arrays[vit.POSITIONS][0]
        # Class token and corners are as they were.
        np.testing.assert_allclose(table[[0, 1, 3, 7, 9]], old[[0, 1, 2, 3, 4]], rtol=1e-6)


def reference(arrays: Arrays, image: np.ndarray, variant: vit.Variant) -> np.ndarray:
    """Compute the logits of one image, in NumPy and float64."""

    def array(name: str) -> np.ndarray:
        return arrays[name].astype(np.float64)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return (x - x.mean(-1, keepdims=True)) / deviation * array(f"{name}/scale") + array(
            f"{name}/bias"
        )

    patch, side = variant.patch_size, len(image) // variant.patch_size
    pixels = image.astype(np.float64) / 127.5 - 1
    kernel = array("embedding/kernel")
    tokens = [array("cls")[0, 0]] + [
        np.tensordot(pixels[row * patch :, column * patch :][:patch, :patch], kernel, 3)
        + array("embedding/bias")
        for row in range(side)
        for column in range(side)
    ]
    x = np.stack(tokens) + array(vit.POSITIONS)[0]
    for index in range(variant.depth):
        block = f"Transformer/encoderblock_{index}"
        y = norm(x, f"{block}/LayerNorm_0")
        attention = f"{block}/MultiHeadDotProductAttention_1"
        query, key, value = (
            np.einsum("td,dhe->hte", y, array(f"{attention}/{part}/kernel"))
            + array(f"{attention}/{part}/bias")[:, None]
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hte,hed->td", shares @ value, array(f"{attention}/out/kernel"))
        x = x + mixed + array(f"{attention}/out/bias")
        y = norm(x, f"{block}/LayerNorm_2")
        mlp = f"{block}/MlpBlock_3"
        y = y @ array(f"{mlp}/Dense_0/kernel") + array(f"{mlp}/Dense_0/bias")
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + y @ array(f"{mlp}/Dense_1/kernel") + array(f"{mlp}/Dense_1/bias")
    first = norm(x, "Transformer/encoder_norm")[0]
    return first @ array("head/kernel") + array("head/bias")


class TestPositions:
    @pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (7, 12), (2, 5), (3, 1), (5, 5)])
    def test_resize_is_scipy_s(self, old: int, new: int) -> None:
        table = np.random.default_rng(0).normal(0, 1, (old**2 + 1, 6))
        resized = vit.resize_positions(table, new**2 + 1)
        grid = table[1:].reshape(old, old, 6)
        expected = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
        np.testing.assert_allclose(resized[1:].reshape(new, new, 6), expected, atol=1e-12)
        np.testing.assert_array_equal(resized[0], table[0])

    @pytest.mark.parametrize(("old", "new"), [(16, 17), (17, 16)])
    def test_what_is_no_square_is_refused(self, old: int, new: int) -> None:
        with pytest.raises(WeightsError, match=f"^{old} .*{new}: "):
            vit.resize_positions(np.zeros((old, 3)), new)


def test_gelu_is_the_tanh_approximation() -> None:
    x = tf.constant([-2.0, -0.5, 1.5])
    np.testing.assert_allclose(gelu_tanh(x), tf.nn.gelu(x, approximate=True), rtol=1e-6)
    assert not np.allclose(gelu_tanh(x), tf.nn.gelu(x, approximate=False), atol=1e-5)


class TestSchedule:
    def phase(self, epochs: int | None) -> tuple[int, keras.optimizers.Optimizer]:
        images = tf.data.Dataset.from_tensors(np.zeros((8, 8, 3), np.uint8))
        config = vit_finetune.Config(variant="tiny/4", warmup_steps=40)
        data = TrainingData(images, 80, 8, epochs)
        (phase,) = training.phases(config, tiny(), data)
        assert phase.clip == 1.0
        return phase.epochs, phase.optimizer

    def test_500_steps_where_no_epochs_are_given(self) -> None:
        epochs, _ = self.phase(None)
        assert epochs * 10 == vit_finetune.STEPS

    def test_rate_rises_linearly_and_falls_to_zero_as_a_cosine(self) -> None:
        _, optimizer = self.phase(50)
        rates = [float(optimizer._learning_rate(step)) for step in (0, 20, 40, 270, 500)]
        np.testing.assert_allclose(rates, [0, 0.015, 0.03, 0.015, 0], atol=1e-8)
        assert optimizer.weight_decay is None
