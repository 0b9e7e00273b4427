"""Pretrained weights: found, confirmed by their digest, and loaded whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.kit.cli import perennial
from tests.kit.recorder import Recorder
from tests.kit.weights import Backbone, bit_arrays, save_arrays, saved_model
from trainer_module import warm_start, weights
from trainer_module.models.bit_resnet import VARIANTS, bit_resnet
from trainer_module.models.bit_weights import (
    load_bit_npz,
    npz_name,
    pretrained_bit,
    pretrained_classifier,
)
from trainer_module.pretrained import classifier
from trainer_module.weights import WeightsError, WeightSpec

IMAGES = np.random.default_rng(5).integers(0, 256, (2, 32, 32, 3), np.uint8)


def tiny() -> keras.Model:
    return bit_resnet(VARIANTS["tiny"], image_size=32, num_classes=7)


def test_every_array_of_an_official_file_ends_in_the_weight_of_its_name(tmp_path: Path) -> None:
    arrays = bit_arrays()
    spec = save_arrays(tmp_path / "bit.npz", arrays)
    model = tiny()
    load_bit_npz(model, spec.fetch(), head=True)
    assert len(arrays) == len(model.variables)
    for variable in model.variables:
        array = arrays[npz_name(variable.path)]
        np.testing.assert_allclose(variable, array.reshape(variable.shape), rtol=1e-6)


def test_names_of_the_published_variant_are_those_of_its_file() -> None:
    with keras.StatelessScope(initialize_variables=False):
        model = bit_resnet(VARIANTS["R50x1"], image_size=None, num_classes=1000)
        names = {npz_name(variable.path) for variable in model.variables}
    assert len(names) == 153
    assert {
        "resnet/root_block/standardized_conv2d/kernel",
        "resnet/block2/unit01/a/proj/standardized_conv2d/kernel",
        "resnet/block4/unit03/c/standardized_conv2d/kernel",
        "resnet/block3/unit06/b/group_norm/gamma",
        "resnet/group_norm/beta",
        "resnet/head/conv2d/kernel",
        "resnet/head/conv2d/bias",
    } < names


def test_numbered_convolutions_are_read_as_the_plain_ones(tmp_path: Path) -> None:
    plain, numbered = tiny(), tiny()
    load_bit_npz(plain, save_arrays(tmp_path / "plain.npz", bit_arrays()).fetch(), head=True)
    arrays = bit_arrays(number=lambda index: f"_{index}" if index else "")
    load_bit_npz(numbered, save_arrays(tmp_path / "numbered.npz", arrays).fetch(), head=True)
    np.testing.assert_array_equal(plain(IMAGES), numbered(IMAGES))


def test_new_head_stays_zero_and_the_file_may_have_another_or_none(tmp_path: Path) -> None:
    arrays = bit_arrays(classes=21)
    for name in ("with", "without"):
        spec = save_arrays(tmp_path / f"{name}.npz", arrays)
        model = pretrained_bit("tiny", spec, image_size=32, num_classes=3)
        np.testing.assert_array_equal(model(IMAGES), np.zeros((2, 3)))
        root = model.get_layer("root_conv").kernel
        np.testing.assert_allclose(
            root, arrays["resnet/root_block/standardized_conv2d/kernel"], rtol=1e-6
        )
        arrays = {key: value for key, value in arrays.items() if "/head/" not in key}


def test_a_file_of_another_variant_is_refused_with_both_remainders(tmp_path: Path) -> None:
    arrays = bit_arrays()
    del arrays["resnet/block2/unit01/b/group_norm/beta"]
    arrays["resnet/block2/unit02/b/group_norm/beta"] = np.zeros(3)
    arrays["resnet/block3/unit01/b/group_norm/beta"] = np.zeros(3)
    spec = save_arrays(tmp_path / "bit.npz", arrays)
    model = tiny()
    before = model.get_weights()
    with pytest.raises(WeightsError, match=r"train\.hyperparameters\.variant") as caught:
        load_bit_npz(model, spec.fetch(), head=True)
    name = "resnet/block{}/b/group_norm/beta"
    for problem in (
        rf"file .*\b1 arrays .*: {name.format('2/unit02')};",
        rf"model .*\b1 weights .*: {name.format('2/unit01')};",
        rf"{name.format('3/unit01')} .*\(3,\)",
    ):
        assert re.search(problem, str(caught.value))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "bit.npz"
    np.savez(path, harmful=np.array([print], dtype=object))
    with pytest.raises(WeightsError, match=rf"{path} .*\.npz"):
        weights.load_npz(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>not found</html>"])
def test_what_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bit.npz"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{path} .*\.npz"):
        weights.load_npz(path)


def test_weights_are_used_only_with_their_digest(tmp_path: Path) -> None:
    spec = save_arrays(tmp_path / "bit.npz", bit_arrays())
    for wrong in ("", "0" * 64):
        with pytest.raises(WeightsError, match=f"{spec.source} .*{spec.sha256}; .*sha256"):
            WeightSpec(source=spec.source, sha256=wrong).fetch()
    assert spec.fetch() == tmp_path / "bit.npz"


def test_missing_file_is_named() -> None:
    with pytest.raises(WeightsError, match=r" nowhere/bit\.npz; .*weights\.source"):
        WeightSpec(source="nowhere/bit.npz").fetch()
    with pytest.raises(WeightsError, match=r" /nowhere/bit[;,]"):
        WeightSpec(source="/nowhere/bit").fetch()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve the files in tmp_path/served, and return the URL."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a separate folder for downloads."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "perennial"


def test_url_is_fetched_once_and_checked(tmp_path: Path, server: str, cache: Path) -> None:
    local = save_arrays(tmp_path / "served" / "bit.npz", bit_arrays())
    spec = WeightSpec(source=f"{server}/bit.npz", sha256=local.sha256)
    first = spec.fetch()
    assert first.parent == cache
    assert list(cache.iterdir()) == [first]
    Path(local.source).unlink()
    assert spec.fetch() == first
    with pytest.raises(WeightsError, match=r"/gone\.npz .*\b404$"):
        WeightSpec(source=f"{server}/gone.npz", sha256=local.sha256).fetch()
    first.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"/bit\.npz .*\b404$"):
        spec.fetch()


class TestSignedUrl:
    """A presigned URL is one of an .npz file, and its signature stays with the process."""

    SIGNATURE = "0123456789abcdefghijklmnop"

    def test_is_fetched_and_kept_under_a_name_without_its_signature(
        self, tmp_path: Path, server: str, cache: Path, recorder: Recorder
    ) -> None:
        local = save_arrays(tmp_path / "served" / "bit.npz", bit_arrays())
        url = f"{server.replace('//', '//user:pass-word@')}/bit.npz?sig={self.SIGNATURE}&x=1"
        spec = WeightSpec(source=url, sha256=local.sha256)
        assert not spec.is_saved_model
        assert spec.range == (-1.0, 1.0)
        assert spec.source == f"{server.replace('//', '//***@')}/bit.npz?sig=***&x=***"
        first = spec.fetch()
        Path(local.source).unlink()
        again = url.replace(self.SIGNATURE, self.SIGNATURE[::-1])
        assert WeightSpec(source=again, sha256=local.sha256).fetch() == first
        told = f"{spec} {list(cache.iterdir())} {recorder.events}"
        assert self.SIGNATURE not in told
        assert "pass-word" not in told

    def test_a_refusal_does_not_tell_it(self, server: str, cache: Path) -> None:
        for address in (server, "http://127.0.0.1:1"):
            spec = WeightSpec(source=f"{address}/gone.npz?sig={self.SIGNATURE}", sha256="0" * 64)
            with pytest.raises(WeightsError, match=rf"{address}/gone\.npz") as caught:
                spec.fetch()
            assert self.SIGNATURE not in f"{caught.value}"

    def test_is_found_in_the_environment(
        self, tmp_path: Path, server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        local = save_arrays(tmp_path / "served" / "bit.npz", bit_arrays())
        spec = WeightSpec(source="env:MY_WEIGHTS", sha256=local.sha256)
        with pytest.raises(WeightsError, match=r"weights\.source = .*MY_WEIGHTS"):
            spec.fetch()
        monkeypatch.setenv("MY_WEIGHTS", f"{server}/bit.npz?sig={self.SIGNATURE}")
        assert spec.fetch().parent == cache
        monkeypatch.setenv("MY_WEIGHTS", local.source)
        assert spec.fetch() == Path(local.source)
        assert spec.source == "env:MY_WEIGHTS"

    def test_what_a_run_has_kept_of_it_is_not_enough_to_fetch(self, cache: Path) -> None:
        with pytest.raises(WeightsError, match=r"h\.org/other\.npz.* env:NAME "):
            WeightSpec(source="https://h.org/other.npz?sig=***", sha256="0" * 64).fetch()


def expected_features(images: np.ndarray) -> np.ndarray:
    return np.asarray(Backbone()(tf.cast(images, tf.float32) / 255))


@pytest.mark.parametrize("trainable", [True, False])
def test_saved_model_is_trained_or_frozen(tmp_path: Path, trainable: bool) -> None:
    spec = saved_model(tmp_path / "module", trainable=trainable)
    model = pretrained_bit("tiny", spec, image_size=32, num_classes=3)
    np.testing.assert_array_equal(model(IMAGES), np.zeros((2, 3)))
    kernel = Backbone().kernel.numpy()
    model.get_layer("head").kernel.assign(np.ones((8, 3)))
    np.testing.assert_allclose(
        np.asarray(model(IMAGES))[:, 0], expected_features(IMAGES).sum(1), rtol=1e-5
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.get_layer("head").kernel.assign(np.random.default_rng(0).normal(0, 1, (8, 3)))
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.train_on_batch(IMAGES, np.array([0, 1]))
    (trained,) = (v for v in model.get_layer("backbone").weights if v.shape == kernel.shape)
    assert np.array_equal(trained, kernel) != trainable


def test_a_warm_start_takes_over_a_trained_saved_model(tmp_path: Path) -> None:
    spec = saved_model(tmp_path / "module")
    earlier = pretrained_bit("tiny", spec, image_size=32, num_classes=2)
    random = np.random.default_rng(0)
    trained = [random.uniform(0.5, 1, each.shape) for each in earlier.get_weights()]
    earlier.set_weights(trained)
    warm_start.save(earlier, ["cat", "dog"], str(tmp_path / "Format-Serving"))
    model = pretrained_bit("tiny", spec, image_size=32, num_classes=3)
    warm_start.load(model, ["dog", "cow", "cat"], str(tmp_path / "Format-Serving"))
    logits = model(IMAGES).numpy()
    np.testing.assert_allclose(logits[:, [2, 0]], earlier(IMAGES), rtol=1e-5)
    assert (logits[:, 1] == 0).all()
    assert np.ptp(logits[:, 0]) > 0


def test_digest_of_a_saved_model_covers_names_and_contents(tmp_path: Path) -> None:
    spec = saved_model(tmp_path / "module")
    spec.fetch()
    (tmp_path / "module" / "assets").mkdir(exist_ok=True)
    (tmp_path / "module" / "assets" / "extra.txt").write_text("")
    with pytest.raises(
        WeightsError, match=f"{spec.source} .*{weights.digest(tmp_path / 'module')}; .*sha256"
    ):
        spec.fetch()


def test_handle_is_resolved_by_tensorflow_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow_hub", exc_type=ImportError)
    handle = "https://tfhub.dev/google/bit/m-r50x1/1"
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    cached = tmp_path / hashlib.sha1(handle.encode()).hexdigest()
    spec = saved_model(cached)
    assert WeightSpec(source=handle, sha256=spec.sha256).fetch() == cached


def test_pretrained_head_is_kept_for_use_as_it_is(tmp_path: Path) -> None:
    arrays = bit_arrays(classes=7)
    spec = save_arrays(tmp_path / "bit.npz", arrays)
    whole = tiny()
    load_bit_npz(whole, spec.fetch(), head=True)
    model = pretrained_classifier("tiny", spec, image_size=32)
    np.testing.assert_array_equal(model(IMAGES), whole(IMAGES))
    module = pretrained_classifier("tiny", saved_model(tmp_path / "module"), image_size=32)
    np.testing.assert_allclose(module(IMAGES), expected_features(IMAGES), rtol=1e-5)
    headless = {key: value for key, value in arrays.items() if "/head/" not in key}
    with pytest.raises(WeightsError, match=r"none\.npz .*head"):
        pretrained_classifier("tiny", save_arrays(tmp_path / "none.npz", headless), image_size=32)


class TestClassify:
    names = ("a", "b", "c", "d", "e", "f", "g")

    def test_gives_the_probabilities_of_the_published_head(self, tmp_path: Path) -> None:
        spec = save_arrays(tmp_path / "bit.npz", bit_arrays())
        encoded = [bytes(tf.io.encode_png(image).numpy()) for image in IMAGES]
        found = classifier(spec, 7, "tiny", 32)(encoded)
        model = pretrained_classifier("tiny", spec, image_size=32)
        probabilities = np.asarray(keras.ops.softmax(model(IMAGES)))
        np.testing.assert_allclose(found, probabilities, rtol=1e-4)

    def test_labels_of_other_weights_are_refused(self, tmp_path: Path) -> None:
        spec = save_arrays(tmp_path / "bit.npz", bit_arrays())
        with pytest.raises(WeightsError, match=rf"{spec.source} .*\b7 classes .*\b6 labels"):
            classifier(spec, 6, "tiny", 32)

    @pytest.mark.parametrize("name", ["predict", "classify"])
    def test_command_prints_them(self, tmp_path: Path, name: str) -> None:
        spec = save_arrays(tmp_path / "bit.npz", bit_arrays())
        image, labels = tmp_path / "image.png", tmp_path / "names.txt"
        image.write_bytes(tf.io.encode_png(IMAGES[0]).numpy())
        labels.write_text("\n".join(self.names), encoding="utf-8")
        command = [name, str(image), "--weights", spec.source, "--labels", str(labels)]
        command += ["--variant", "tiny", "--image-size", "32", "--top", "2"]
        result = perennial(*command, "--sha256", spec.sha256)
        assert result.exit_code == 0, result.output
        assert re.fullmatch(rf"{image}: [a-g] [\d.]+%, [a-g] [\d.]+%\n", result.stdout)
        assert ("perennial predict" in result.stderr) is (name == "classify")
        unconfirmed = perennial(*command)
        assert unconfirmed.exit_code == 2
        assert spec.sha256 in unconfirmed.stderr

    def test_a_file_that_is_no_image_is_named_and_the_others_are_classified(
        self, tmp_path: Path
    ) -> None:
        spec = save_arrays(tmp_path / "bit.npz", bit_arrays())
        labels = tmp_path / "names.txt"
        labels.write_text("\n".join(self.names), encoding="utf-8")
        for file, content in (("a.png", tf.io.encode_png(IMAGES[0]).numpy()), ("b.png", b"no")):
            (tmp_path / file).write_bytes(content)
        options = ["--weights", spec.source, "--sha256", spec.sha256, "--variant", "tiny", "--json"]
        done = perennial("predict", tmp_path, *options, "--image-size", 32, "--labels", labels)
        assert done.exit_code == 3
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [len(row.get("classes", ())) for row in rows] == [3, 0]
        assert "error" in rows[1]
