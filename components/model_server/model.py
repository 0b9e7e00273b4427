"""One version of a model in memory, in a TensorFlow session, as TensorFlow Serving runs it.

The eager loader cannot stand in for the session: a model can work there and fail here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, error_codes_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from components import servable
from components.errors import DamagedFileError
from components.model_server.errors import LONGEST_MESSAGE, ServingError, invalid
from components.model_server.tensors import Arrays, from_proto
from components.wording import of_op

DEFAULT_SIGNATURE = servable.IMAGES
_IMAGE_SIZE = 224  # pixels: of a model without an INPUT_FILE
_MOST_WARMUP_RECORDS = 1000
_LARGEST_WARMUP_TENSOR = 1 << 30

_T = TypeVar("_T")


class Session:
    """A loaded SavedModel. `run` may be called by many threads at once, `close` after all of them.

    signatures: SignatureDef by name, TensorFlow's internal ones too.
    """

    def __init__(self, directory: Path) -> None:
        """Load the model in `directory`. Raises ServingError with TensorFlow's code and message."""
        config = tf.compat.v1.ConfigProto()
        # Else a second session or process finds no memory left on the device.
        config.gpu_options.allow_growth = True
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with _refusals(), graph.as_default():
                found = tf.compat.v1.saved_model.load(
                    self._session, [tf.saved_model.SERVING], str(directory)
                )
        except BaseException:
            self.close()
            raise
        self.signatures: dict[str, SignatureDef] = dict(found.signature_def)

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout: float | None = None,
    ) -> list[np.ndarray]:
        """Compute the tensors named in `fetches` ("operation:0") from those in `feeds`.

        String tensors are arrays of dtype object that hold bytes. `timeout` is in seconds.

        Raises:
            ServingError: TensorFlow's code and message; DEADLINE_EXCEEDED after `timeout`.
        """
        # 0 would mean no limit.
        limit = None if timeout is None else max(1, int(timeout * 1000))
        options = config_pb2.RunOptions(timeout_in_ms=limit)
        with _refusals():
            for name, array in feeds.items():
                wanted = self._session.graph.get_tensor_by_name(name).dtype
                # Else it would be converted, as TensorFlow Serving does not.
                if wanted.as_numpy_dtype != array.dtype:
                    raise invalid(f"{name} takes {wanted.name}, and not {array.dtype}")
            results = self._session.run(list(fetches), dict(feeds), options=options)
        # A string without a dimension comes as bytes.
        return [np.asarray(each, object if isinstance(each, bytes) else None) for each in results]

    def close(self) -> None:
        """Free the model's memory; nothing may run in it any more."""
        self._session.close()


class LoadedModel(Session):
    """A version that answers.

    classes: names in the order of the probabilities, empty where the export has no CLASSES_FILE.
    image_size: side of the model's input, in pixels.
    warmup_records: number of requests that were replayed while it was loaded.
    """

    def __init__(self, directory: Path) -> None:
        """Load a version and replay its warm-up requests. Raises ServingError where one fails."""
        if not (directory / "saved_model.pb").is_file():
            raise ServingError("NOT_FOUND", f"{directory} holds no saved_model.pb")
        self.classes: list[str] = _read(servable.read_classes, directory, [])
        self.image_size = _read(servable.read_image_size, directory, _IMAGE_SIZE)
        super().__init__(directory)
        try:
            self.warmup_records = self._warm_up(directory / servable.WARMUP_FILE)
        except BaseException:
            self.close()
            raise

    def signature(self, name: str) -> SignatureDef:
        """Return a signature, the default one for "". Raises ServingError where there is none."""
        key = name or DEFAULT_SIGNATURE
        found = self.signatures.get(key)
        if found is None:
            raise ServingError(
                "FAILED_PRECONDITION",
                f'Serving signature key "{key}" not found; there are {sorted(self.signatures)}',
            )
        return found

    def predict(
        self,
        inputs: Arrays,
        signature_name: str = "",
        output_filter: Collection[str] = (),
        timeout: float | None = None,
    ) -> Arrays:
        """Run a signature on arrays by input name; `timeout` in seconds.

        Returns:
            All outputs by name, or those in `output_filter`.

        Raises:
            ServingError: the request does not fit the signature, or TensorFlow refuses it.
        """
        signature = self.signature(signature_name)
        if inputs.keys() != signature.inputs.keys():
            raise invalid(
                "input size does not match signature: "
                f"sent extra {sorted(inputs.keys() - signature.inputs.keys())}, "
                f"missing {sorted(signature.inputs.keys() - inputs.keys())}"
            )
        if len(set(output_filter)) < len(output_filter):
            raise invalid(f"duplicate output tensor alias: {sorted(output_filter)}")
        unknown = set(output_filter) - signature.outputs.keys()
        if unknown:
            raise invalid(f"output tensor alias not found in signature: {sorted(unknown)}")
        names = list(output_filter) or list(signature.outputs)
        results = self.run(
            {signature.inputs[name].name: array for name, array in inputs.items()},
            [signature.outputs[name].name for name in names],
            timeout,
        )
        return dict(zip(names, results, strict=True))

    def _warm_up(self, path: Path) -> int:
        if not path.exists():
            return 0
        number = 0
        try:
            # tf.data would start TensorFlow's eager runtime, which takes all memory of a GPU.
            for record in tf.compat.v1.io.tf_record_iterator(str(path)):
                number += 1
                if number > _MOST_WARMUP_RECORDS:
                    raise invalid(f"{path} has more than {_MOST_WARMUP_RECORDS} records")
                log = PredictionLog.FromString(record)
                if log.WhichOneof("log_type") != "predict_log":
                    raise invalid(f"warm-up record {number} of {path} is not a predict request")
                request = log.predict_log.request
                inputs = {
                    name: from_proto(name, proto, _LARGEST_WARMUP_TENSOR)
                    for name, proto in request.inputs.items()
                }
                self.predict(inputs, request.model_spec.signature_name, request.output_filter)
        except (DecodeError, tf.errors.OpError) as error:
            raise invalid(f"{path} cannot be read at record {number}: {error}") from error
        return number


def _read(read: Callable[[str], _T], directory: Path, default: _T) -> _T:
    try:
        return read(str(directory))
    except FileNotFoundError:
        return default
    except (OSError, DamagedFileError) as error:
        raise invalid(str(error)) from error


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Raise TensorFlow's errors as ServingError."""
    try:
        yield
    except tf.errors.OpError as error:
        code = error_codes_pb2.Code.Name(error.error_code)
        raise ServingError(code, of_op(error.message, LONGEST_MESSAGE)) from error
    except (OSError, RuntimeError) as error:  # of the loader: no model, or none to serve
        raise ServingError("NOT_FOUND", of_op(str(error), LONGEST_MESSAGE)) from error
    # A shape that is not the tensor's, or a name that the graph does not have.
    except (ValueError, TypeError, KeyError) as error:
        raise invalid(of_op(str(error), LONGEST_MESSAGE)) from error
