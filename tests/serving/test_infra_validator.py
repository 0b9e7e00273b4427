"""InfraValidator: what is pushed was served by a real process, and its answers were right."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tfx.components.infra_validator import error_types
from tfx.components.infra_validator.model_server_runners import kubernetes_runner
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.types import standard_artifacts
from tfx.utils import kube_utils, path_utils

from components.errors import NotServableError
from components.infra_validator import executor
from components.infra_validator.component import InfraValidator
from components.infra_validator.executor import Executor
from components.model_server import launch
from components.model_server.launch import ServerProcess, Source, own_backend
from components.model_server.model import LoadedModel
from components.model_server.server import ModelServer
from components.model_server.service import Limits
from tests.kit.serving import example, picture

COLOURS = ("red", "green", "blue")


class InThisProcess(ModelServer):
    """A server in this process, without the seconds that another one takes to start."""

    def __init__(self, base_path: str, model_name: str) -> None:
        super().__init__(base_path, model_name, load_retries=0)

    def __str__(self) -> str:
        return "a test's server"

    def last_words(self) -> str:
        return "its log"


class Confused(InThisProcess):
    """A server of another model than it was given."""

    other: Path

    def __init__(self, base_path: str, model_name: str) -> None:
        for version in Path(base_path).iterdir():
            shutil.rmtree(version)
            shutil.copytree(self.other, version)
        super().__init__(base_path, model_name)


def own_process(base_path: str, model_name: str) -> ServerProcess:
    return ServerProcess(own_backend(), Source.of_model(Path(base_path), model_name))


Validate = Callable[..., standard_artifacts.InfraBlessing]


@pytest.fixture
def model(tmp_path: Path, colour_models: list[Path]) -> Path:
    """Return the Trainer's output, to be changed at will."""
    uri = tmp_path / "model"
    shutil.copytree(colour_models[0], uri / "Format-Serving")
    return uri


@pytest.fixture
def examples(tmp_path: Path) -> standard_artifacts.Examples:
    artifact = standard_artifacts.Examples()
    artifact.uri = str(tmp_path / "examples")
    artifact.split_names = '["train", "eval"]'
    folder = tmp_path / "examples" / "Split-eval"
    folder.mkdir(parents=True)
    options = tf.io.TFRecordOptions("GZIP")
    with tf.io.TFRecordWriter(str(folder / "part-00000.gz"), options) as writer:
        for colour in COLOURS:
            writer.write(example(picture(colour)))
    return artifact


@pytest.fixture
def validate(
    tmp_path: Path,
    model: Path,
    examples: standard_artifacts.Examples,
    monkeypatch: pytest.MonkeyPatch,
) -> Validate:
    """Run the executor as TFX does; returns the blessing, which a failure leaves empty."""

    def run(server: Callable[..., Any] = InThisProcess, blessing: str = "blessing") -> Any:
        monkeypatch.setattr(launch, "serve_folder", server)
        candidate = standard_artifacts.Model()
        candidate.uri = str(model)
        artifact = standard_artifacts.InfraBlessing()
        artifact.uri = str(tmp_path / blessing)
        node = InfraValidator(
            model=standard_channel(candidate),
            examples=standard_channel(examples),
            code="",
            image_tag="1",
            num_examples=2,
            max_load_seconds=60,
        )
        properties = node.spec.exec_properties
        context = BaseExecutor.Context(tmp_dir=str(tmp_path / "tmp"), unique_id=blessing)
        Executor(context).Do(
            {"model": [candidate], "examples": [examples]}, {"blessing": [artifact]}, properties
        )
        return artifact

    return run


def standard_channel(artifact: Any) -> Any:
    from tfx.types import Channel

    return Channel(type=type(artifact)).set_artifacts([artifact])


def blessed_model(blessing: standard_artifacts.InfraBlessing) -> Path:
    return Path(path_utils.stamped_model_path(blessing.uri))


class TestBlessed:
    @pytest.fixture
    def blessing(self, validate: Validate) -> standard_artifacts.InfraBlessing:
        return validate()

    def test_says_by_what_and_how_fast(self, blessing: standard_artifacts.InfraBlessing) -> None:
        assert blessing.get_int_custom_property("blessed") == 1
        assert blessing.get_string_custom_property("server") == "a test's server"
        for figure in ("load_s", "serving_default_s", "serving_examples_s"):
            assert blessing.get_float_custom_property(figure) > 0

    def test_the_copy_beside_it_warms_up_both_signatures(
        self, blessing: standard_artifacts.InfraBlessing, model: Path
    ) -> None:
        copy = blessed_model(blessing)
        loaded = LoadedModel(copy)
        assert loaded.warmup_records == 4  # 2 examples, 2 signatures
        loaded.close()
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

        path = str(copy / "assets.extra" / "tf_serving_warmup_requests")
        signatures = [
            PredictionLog.FromString(record).predict_log.request.model_spec.signature_name
            for record in tf.data.TFRecordDataset(path).as_numpy_iterator()
        ]
        assert signatures == ["serving_default", "serving_examples"] * 2
        original = model / "Format-Serving"
        assert (copy / "saved_model.pb").read_bytes() == (original / "saved_model.pb").read_bytes()
        assert not (original / "assets.extra" / "tf_serving_warmup_requests").exists()

    def test_the_same_model_gets_the_same_warm_up(
        self, blessing: standard_artifacts.InfraBlessing, validate: Validate
    ) -> None:
        again = validate(blessing="again")
        name = "assets.extra/tf_serving_warmup_requests"
        assert (blessed_model(again) / name).read_bytes() == (
            blessed_model(blessing) / name
        ).read_bytes()


def test_a_real_process_serves_it(validate: Validate) -> None:
    blessing = validate(own_process)
    assert blessing.get_string_custom_property("server") == launch.Kind.OWN


class TestNotBlessed:
    def check(self, validate: Validate, tmp_path: Path, message: str, **how: Any) -> None:
        with pytest.raises(NotServableError, match=message) as caught:
            validate(**how)
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "blessing").rglob("*"))

    def test_other_answers(
        self,
        validate: Validate,
        tmp_path: Path,
        colour_models: list[Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(Confused, "other", colour_models[2], raising=False)
        self.check(
            validate,
            tmp_path,
            r"serving_default .*probabilities .*: .*, not",
            server=Confused,
        )

    def test_a_model_that_works_in_python_but_not_in_a_server(
        self, validate: Validate, tmp_path: Path, model: Path
    ) -> None:
        """What saving a Keras 3 model by tf.saved_model.save comes to."""
        import keras

        network = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(3)])

        def answer(values: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = network(tf.ones([tf.size(values), 3]))
            label = tf.fill([tf.size(values)], "red")
            return {"probabilities": tf.nn.softmax(logits), "label": label}

        class Holder(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
            def images(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
                return answer(image_bytes)

            @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
            def examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
                return answer(examples)

        holder = Holder()
        holder.network = network
        folder = model / "Format-Serving"
        shutil.rmtree(folder)
        signatures = {"serving_default": holder.images, "serving_examples": holder.examples}
        tf.saved_model.save(holder, str(folder), signatures)
        loaded = tf.saved_model.load(str(folder)).signatures["serving_default"]
        answered = loaded(image_bytes=tf.constant([b""]))["probabilities"]
        assert np.isclose(answered.numpy().sum(), 1)
        self.check(validate, tmp_path, "is not served, so it is not pushed: .*variable")

    def test_a_missing_variables_folder(
        self, validate: Validate, tmp_path: Path, model: Path
    ) -> None:
        shutil.rmtree(model / "Format-Serving" / "variables")
        self.check(validate, tmp_path, "the candidate does not answer when loaded: ")

    def test_a_server_that_does_not_start(self, validate: Validate, tmp_path: Path) -> None:
        self.check(validate, tmp_path, "is not served, so it is not pushed: no port", server=dead)


def dead(base_path: str, model_name: str) -> Any:
    class Dead(InThisProcess):
        def start(self) -> None:
            raise OSError("no port")

    return Dead(base_path, model_name)


class TestMissingVariablesBesideAWarmUp:
    def test_the_server_itself_notices(self, validate: Validate) -> None:
        """The one gate within TensorFlow Serving, which loads such a model silently."""
        from components.model_server.errors import ServingError

        copy = blessed_model(validate())
        shutil.rmtree(copy / "variables")
        with pytest.raises(ServingError):
            LoadedModel(copy)


class TestLargeImages:
    @pytest.fixture
    def examples(self, examples: standard_artifacts.Examples) -> standard_artifacts.Examples:
        """One is larger than a request to the server may be."""
        noise = np.random.default_rng(0).integers(0, 256, (2400, 2400, 3), dtype=np.uint8)
        folder = Path(examples.uri) / "Split-eval"
        options = tf.io.TFRecordOptions("GZIP")
        with tf.io.TFRecordWriter(str(folder / "part-00000.gz"), options) as writer:
            record = example(tf.io.encode_png(noise, compression=0).numpy())
            assert len(record) > Limits().request_bytes
            writer.write(record)
            writer.write(example(picture("red")))
        return examples

    def test_are_asked_about_in_a_size_that_fits(
        self, validate: Validate, examples: standard_artifacts.Examples
    ) -> None:
        blessing = validate()
        assert blessing.get_int_custom_property("blessed") == 1
        warmup = blessed_model(blessing) / "assets.extra" / "tf_serving_warmup_requests"
        assert warmup.stat().st_size < 4 * executor.LARGEST_RECORD
        large, small = executor.read_examples(examples, "eval", 2)
        assert 1e6 < len(large) < executor.LARGEST_RECORD
        assert small == example(picture("red"))

    def test_a_request_that_fails_is_told_without_what_was_sent(
        self,
        validate: Validate,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(executor, "LARGEST_RECORD", 2**30)
        caplog.set_level(logging.DEBUG)
        with pytest.raises(NotServableError, match=r"RESOURCE_EXHAUSTED: .*larger") as caught:
            validate()
        assert len(str(caught.value)) < 1000
        assert len(caplog.text) < 100_000


class TestSignals:
    @pytest.fixture
    def term(self) -> Iterator[None]:
        previous = signal.getsignal(signal.SIGTERM)
        yield
        signal.signal(signal.SIGTERM, previous)

    def raised(self) -> Sequence[type[BaseException]]:
        with Executor()._InstallGracefulShutdownHandler():
            try:
                signal.raise_signal(signal.SIGTERM)
            except BaseException as error:
                return [type(error)]
        return []

    def test_a_runner_that_handles_sigterm_still_does(self, term: None) -> None:
        def interrupt(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, interrupt)
        assert self.raised() == [KeyboardInterrupt]

    def test_in_a_pod_sigterm_ends_it_gracefully(self, term: None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert self.raised() == [error_types.GracefulShutdown]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_within_kubeflow_pipelines_tfx_starts_a_pod(
    validate: Validate, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []

    class Pod(executor.ProcessRunner):
        def __init__(self, model_path: str, serving_binary: Any, serving_spec: Any) -> None:
            made.append((serving_binary.image, serving_spec.WhichOneof("serving_platform")))
            folder = str(Path(model_path).parent)
            server: Any = InThisProcess(folder, serving_spec.model_name)
            super().__init__(server)

    monkeypatch.setenv("KFP_POD_NAME", "a-pod")
    monkeypatch.setattr(kube_utils, "is_inside_kfp", lambda: True)
    monkeypatch.setattr(kubernetes_runner, "KubernetesRunner", Pod)
    assert validate().get_int_custom_property("blessed") == 1
    assert made == [("tensorflow/serving:1", "kubernetes")]
