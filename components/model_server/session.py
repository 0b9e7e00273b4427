"""A SavedModel in a TensorFlow session, which is what TensorFlow Serving runs.

The eager loader cannot stand in for it: a model can work there and fail here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.model_server.errors import CODES, LONGEST_MESSAGE, ServingError, invalid
from components.wording import of_op

if TYPE_CHECKING:
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef


class Session:
    """A loaded SavedModel. `run` may be called by many threads at once, `close` after all of them.

    signatures: SignatureDef by name, TensorFlow's internal ones too.
    """

    def __init__(self, directory: Path) -> None:
        """Load the model in `directory` and run its initialisers.

        TensorFlow Serving does not notice a missing `variables` folder here, but by the first
        request.

        Raises:
            ServingError: TensorFlow cannot load it; with TensorFlow's code and message.
        """
        import tensorflow as tf

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
        from tensorflow.core.protobuf.config_pb2 import RunOptions

        # 0 would mean no limit.
        limit = None if timeout is None else max(1, int(timeout * 1000))
        options = RunOptions(timeout_in_ms=limit)
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


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Raise what TensorFlow refuses as a ServingError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        code = CODES[error.error_code] if error.error_code < len(CODES) else "UNKNOWN"
        raise ServingError(code, of_op(error.message, LONGEST_MESSAGE)) from error
    except (OSError, RuntimeError) as error:  # of the loader: no model, or none to serve
        raise ServingError("NOT_FOUND", of_op(str(error), LONGEST_MESSAGE)) from error
    # A shape that is not the tensor's, or a name that the graph does not have.
    except (ValueError, TypeError, KeyError) as error:
        raise invalid(of_op(str(error), LONGEST_MESSAGE)) from error
