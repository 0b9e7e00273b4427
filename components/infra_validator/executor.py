"""The executor of InfraValidator: the candidate is served, and its answers are compared."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tfx import types
from tfx.components.infra_validator import error_types, executor, serving_bins
from tfx.components.infra_validator.model_server_runners import base_runner, kubernetes_runner
from tfx.proto import infra_validator_pb2
from tfx.types import artifact_utils
from tfx.utils import kube_utils, path_utils
from tfx.utils.model_paths import tf_serving_flavor

from components import features, storage
from components.decoding import decode_now
from components.errors import NotServableError
from components.model_server import launch
from components.model_server.client import Client
from components.model_server.errors import ServingError
from components.model_server.tensors import Arrays
from components.progress import report
from components.servable import EXAMPLES, IMAGES
from components.storage import staging
from components.wording import of_op

TOLERANCE = 1e-4  # on probabilities: the same graph on the same kind of processor
_PREDICT_SECONDS = 60.0
# Servers limit their requests, and each image is twice in the warm-up file of what is pushed.
LARGEST_RECORD = 4 * 2**20  # bytes
_SHRUNK = 1024  # pixels: as a PNG, an image of this size is smaller than that
_LOG_END = 20_000  # characters of a server's log that are kept


@dataclasses.dataclass(frozen=True)
class Case:
    """A request, and the candidate's answer to it in this process."""

    request: predict_pb2.PredictRequest
    probabilities: np.ndarray  # float32 [1, classes]
    label: bytes


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Seconds that serving took: to load, and each signature's median for one image a request."""

    server: str
    load_s: float
    latency_s: dict[str, float]


class Executor(executor.Executor):
    """TFX's executor, with a server process where there is no cluster, that compares answers."""

    def _Do(
        self,
        model: types.Artifact,
        examples: types.Artifact | None,
        blessing: types.Artifact,
        serving_spec: infra_validator_pb2.ServingSpec,
        validation_spec: infra_validator_pb2.ValidationSpec,
        request_spec: infra_validator_pb2.RequestSpec | None,
    ) -> None:
        """Bless the model and put a copy with warm-up requests beside the blessing.

        Raises:
            NotServableError: the server does not load it, or answers otherwise than this process.
                Recorded only, it would let a run succeed that pushes nothing.
        """
        assert examples
        assert request_spec
        records = read_examples(examples, request_spec.split_name, request_spec.num_examples)
        path = self._PrepareModelPath(model, serving_spec)
        cases = make_cases(path, serving_spec.model_name, records)
        # Before it is loaded: a bad warm-up fails the load, and what was tried is pushed.
        write_warmup(path, [case.request for case in cases])
        (binary,) = serving_bins.parse_serving_binaries(serving_spec)
        measurement = self._attempt(path, binary, serving_spec, validation_spec, cases)

        storage.copy_tree(path, path_utils.stamped_model_path(blessing.uri))
        storage.write_text(storage.join(blessing.uri, "INFRA_BLESSED"), "", durable=False)
        blessing.set_int_custom_property("has_model", 1)
        blessing.set_int_custom_property("blessed", 1)
        blessing.set_string_custom_property("server", measurement.server)
        blessing.set_float_custom_property("load_s", measurement.load_s)
        for signature, seconds in measurement.latency_s.items():
            blessing.set_float_custom_property(f"{signature}_s", seconds)
        times = [f"{1e3 * each:.1f} ms {name}" for name, each in measurement.latency_s.items()]
        report(
            "note",
            text=f"{measurement.server} loads the model in {measurement.load_s:.1f} s and answers "
            f"as the trainer does; median of {len(records)} requests: {', '.join(times)}",
        )

    def _attempt(
        self,
        path: str,
        binary: serving_bins.ServingBinary,
        serving_spec: infra_validator_pb2.ServingSpec,
        validation_spec: infra_validator_pb2.ValidationSpec,
        cases: Sequence[Case],
    ) -> Measurement:
        for remaining in reversed(range(validation_spec.num_tries)):
            try:
                return self._ValidateOnce(path, binary, serving_spec, validation_spec, cases)
            except (error_types.GracefulShutdown, NotServableError):
                raise
            except Exception as error:
                logging.exception("The candidate is not served; %d tries remain.", remaining)
                reason = of_op(str(error)) or type(error).__name__
        raise NotServableError(f"the candidate is not served, so it is not pushed: {reason}")

    def _ValidateOnce(
        self,
        model_path: str,
        serving_binary: serving_bins.ServingBinary,
        serving_spec: infra_validator_pb2.ServingSpec,
        validation_spec: infra_validator_pb2.ValidationSpec,
        requests: Sequence[Case],
    ) -> Measurement:
        deadline = time.time() + validation_spec.max_loading_time_seconds
        base, name, version = tf_serving_flavor.parse_model_path(model_path)
        runner: base_runner.BaseModelServerRunner
        # `is_inside_kfp` fails where no cluster is configured.
        if kube_utils.KFP_POD_NAME in os.environ and kube_utils.is_inside_kfp():
            runner = kubernetes_runner.KubernetesRunner(model_path, serving_binary, serving_spec)
        else:
            runner = ProcessRunner(launch.serve_folder(os.path.join(base, name), name))
        started = time.perf_counter()
        try:
            runner.Start()
            runner.WaitUntilRunning(deadline)
            host, _, port = runner.GetEndpoint().rpartition(":")
            with Client(host, int(port), 0, _PREDICT_SECONDS) as client:
                client.wait_available(name, version, deadline - time.time())
                load_s = time.perf_counter() - started
                latency_s = run_cases(client, requests)
        except Exception:
            # A pod that has not started has no log, which is an error too.
            with contextlib.suppress(Exception):
                logging.error("Log of %r:\n%s", runner, runner.GetLogs()[-_LOG_END:])
            raise
        finally:
            runner.Stop()
        return Measurement(repr(runner), load_s, latency_s)

    @contextlib.contextmanager
    def _InstallGracefulShutdownHandler(self) -> Iterator[None]:
        # Where SIGTERM is handled already, as by the local runner, that handler stays.
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            try:
                with super()._InstallGracefulShutdownHandler():
                    yield
            finally:
                # TFX restores true values only, and the default is 0.
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            return
        try:
            yield
        finally:
            self._Cleanup()


class ProcessRunner(base_runner.BaseModelServerRunner):
    """A server process with TFX's interface of a runner."""

    def __init__(self, server: launch.ServerProcess) -> None:
        self._server = server
        self._stack = contextlib.ExitStack()

    def __repr__(self) -> str:
        return str(self._server)

    def GetEndpoint(self) -> str:
        return f"{self._server.host}:{self._server.grpc_port}"

    def Start(self) -> None:
        self._stack.enter_context(self._server)

    def WaitUntilRunning(self, deadline: float) -> None:
        self._server.wait_ready(deadline - time.time())

    def GetLogs(self) -> str:
        return self._server.last_words()

    def Stop(self) -> None:
        self._stack.close()


def run_cases(client: Client, cases: Sequence[Case]) -> dict[str, float]:
    """Compare the server's answers, and return each signature's median seconds.

    Raises:
        NotServableError: an answer is another than in this process.
        error_types.ValidationFailed: there is none; the request is not quoted.
    """
    seconds: dict[str, list[float]] = {IMAGES: [], EXAMPLES: []}
    for case in cases:
        signature = case.request.model_spec.signature_name
        started = time.perf_counter()
        try:
            _, outputs = client.send(case.request)
        except ServingError as error:
            raise error_types.ValidationFailed(
                f"{signature} fails for a request of {case.request.ByteSize():,} bytes: "
                f"{error.code}: {error}"
            ) from None
        seconds[signature].append(time.perf_counter() - started)
        _compare(case, signature, outputs)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _compare(case: Case, signature: str, outputs: Arrays) -> None:
    missing = {"probabilities", "label"} - outputs.keys()
    if missing:
        raise NotServableError(f"served {signature} returns no {' and no '.join(sorted(missing))}")
    probabilities = outputs["probabilities"]
    expected = case.probabilities
    if probabilities.shape != expected.shape or not np.allclose(
        probabilities, expected, rtol=0, atol=TOLERANCE
    ):
        raise NotServableError(
            f"served {signature} gives other probabilities than the trainer's process: "
            f"{np.array2string(probabilities, threshold=8)}, not "
            f"{np.array2string(expected, threshold=8)}"
        )
    (label,) = outputs["label"].tolist()
    top = np.sort(expected[0])[-2:]
    if label != case.label and top[-1] - top[0] > 2 * TOLERANCE:  # else it is a tie
        raise NotServableError(
            f"served {signature} gives {label!r} where the trainer's process gives {case.label!r}"
        )


def read_examples(examples: types.Artifact, split: str, number: int) -> list[bytes]:
    """Read the first serialized tf.Examples of a split, with large images shrunk.

    TFX's reader shuffles, and so the warm-up file of the same model would differ each time.
    """
    pattern = os.path.join(artifact_utils.get_split_uri([examples], split), "*")
    files = staging.here_all([pattern])
    compression = "GZIP" if files and files[0].endswith(".gz") else ""
    dataset = tf.data.TFRecordDataset(files, compression_type=compression).take(number)
    records = [_fitting(record) for record in dataset.as_numpy_iterator()]
    if not records:
        raise NotServableError(f"the split {split!r} has no example to try the candidate with")
    return records


def _fitting(record: bytes) -> bytes:
    """Return the record, with a smaller image where it is larger than LARGEST_RECORD."""
    if len(record) <= LARGEST_RECORD:
        return record
    pixels = decode_now(_image(record)).pixels
    small = tf.image.resize(pixels, [_SHRUNK, _SHRUNK], "area", preserve_aspect_ratio=True)
    example = tf.train.Example.FromString(record)
    image = example.features.feature[features.IMAGE].bytes_list
    image.value[:] = [tf.io.encode_png(tf.saturate_cast(tf.round(small), tf.uint8)).numpy()]
    return example.SerializeToString(deterministic=True)


def make_cases(path: str, model_name: str, records: Sequence[bytes]) -> list[Case]:
    """Make for each record a request with its image and one with itself, with the answers here.

    Raises NotServableError where the model does not answer in this process.
    """
    try:
        signatures = tf.saved_model.load(path).signatures
        return [
            _case(signatures[signature], signature, name, model_name, value)
            for record in records
            for signature, name, value in (
                (IMAGES, "image_bytes", _image(record)),
                (EXAMPLES, "examples", record),
            )
        ]
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise NotServableError(
            f"the candidate does not answer when loaded: {of_op(str(error))}"
        ) from error


def _case(function: Any, signature: str, name: str, model_name: str, value: bytes) -> Case:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto([value]))
    answer = function(**{name: tf.constant([value])})
    (label,) = answer["label"].numpy().tolist()
    return Case(request, answer["probabilities"].numpy(), label)


def _image(record: bytes) -> bytes:
    (image,) = tf.train.Example.FromString(record).features.feature[features.IMAGE].bytes_list.value
    return image


def write_warmup(path: str, requests: Sequence[predict_pb2.PredictRequest]) -> None:
    """Put the requests into a SavedModel, for servers to replay while they load it."""
    file = path_utils.warmup_file_path(path)
    storage.make_folder(storage.parent(file))
    with tf.io.TFRecordWriter(file) as writer:
        for request in requests:
            asked = prediction_log_pb2.PredictLog(request=request)
            log = prediction_log_pb2.PredictionLog(predict_log=asked)
            writer.write(log.SerializeToString())
