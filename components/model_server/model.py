"""One version of a model in memory: its signatures, its classes and its warm-up."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from components import servable
from components.errors import DamagedFileError
from components.model_server.errors import ServingError, invalid
from components.model_server.session import Session
from components.model_server.tensors import Arrays, from_proto

if TYPE_CHECKING:
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

DEFAULT_SIGNATURE = servable.IMAGES
_IMAGE_SIZE = 224  # pixels: of a model that does not tell
_MOST_WARMUP_RECORDS = 1000
_LARGEST_WARMUP_TENSOR = 1 << 30


class LoadedModel:
    """A version that answers. Many threads may call `predict`; `close` comes after all of them.

    classes: names in the order of the probabilities, empty where the export does not say.
    image_size: side, in pixels, of what images become.
    warmup_records: how many requests were replayed while loading.
    """

    def __init__(self, directory: Path) -> None:
        """Load the model in `directory` and replay its warm-up requests.

        Raises:
            ServingError: it cannot be loaded, or a warm-up request fails.
        """
        if not (directory / "saved_model.pb").is_file():
            raise ServingError("NOT_FOUND", f"{directory} holds no saved_model.pb")
        self.classes = read_classes(directory / servable.CLASSES_FILE)
        self.image_size = _read_image_size(directory / servable.INPUT_FILE)
        self._session = Session(directory)
        try:
            self.warmup_records = self._warm_up(directory / servable.WARMUP_FILE)
        except BaseException:
            self._session.close()
            raise

    @property
    def signatures(self) -> dict[str, SignatureDef]:
        """What can be asked for, by name."""
        return self._session.signatures

    def signature(self, name: str) -> SignatureDef:
        """Return the signature of that name, the default one for "".

        Raises:
            ServingError: FAILED_PRECONDITION; there is none.
        """
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
        results = self._session.run(
            {signature.inputs[name].name: array for name, array in inputs.items()},
            [signature.outputs[name].name for name in names],
            timeout,
        )
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        """Free its memory."""
        self._session.close()

    def _warm_up(self, path: Path) -> int:
        if not path.exists():
            return 0
        import tensorflow as tf
        from google.protobuf.message import DecodeError
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

        number = 0
        try:
            # tf.data would start TensorFlow's eager runtime, which takes all memory of a GPU.
            for record in tf.compat.v1.io.tf_record_iterator(str(path)):
                number += 1
                if number > _MOST_WARMUP_RECORDS:
                    raise invalid(f"{path} has more than {_MOST_WARMUP_RECORDS} records")
                log = PredictionLog.FromString(record)
                if log.WhichOneof("log_type") != "predict_log":
                    raise invalid(f"warm-up record {number} of {path} is no predict request")
                request = log.predict_log.request
                inputs = {
                    name: from_proto(name, proto, _LARGEST_WARMUP_TENSOR)
                    for name, proto in request.inputs.items()
                }
                self.predict(inputs, request.model_spec.signature_name, request.output_filter)
        except (DecodeError, tf.errors.OpError) as error:
            raise invalid(f"{path} cannot be read at record {number}: {error}") from error
        return number


def read_classes(path: Path) -> list[str]:
    """The names in a CLASSES_FILE; none where there is no such file. Raises ServingError."""
    try:
        return servable.parse_classes(path.read_bytes(), str(path))
    except FileNotFoundError:
        return []
    except (OSError, DamagedFileError) as error:
        raise invalid(str(error)) from error


def _read_image_size(path: Path) -> int:
    """What an INPUT_FILE has; a default where there is no such file. Raises ServingError."""
    try:
        return servable.parse_image_size(path.read_bytes(), str(path))
    except FileNotFoundError:
        return _IMAGE_SIZE
    except (OSError, DamagedFileError) as error:
        raise invalid(str(error)) from error
