"""The reference for traffic: the baseline's images, and models' predictions for them.

Image statistics are of a sample of all splits. Predictions are for held-out images only: a model is
more confident about images that it was trained on than about new ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from components import arrays, features, servable, storage
from components.errors import DamagedFileError
from components.storage import staging
from pipeline.errors import DataError
from pipeline.retraining import drift

SAMPLE = 2000  # images of the training, and as many held-out ones
NEIGHBOURS = 5
COMPONENTS = 32
BATCH = 32
NUMBERS = (
    features.HEIGHT,
    features.WIDTH,
    features.ASPECT,
    features.MEAN,
    features.CONTRAST,
    features.BYTES,
)
TEXTS = (features.FORMAT, features.CHANNELS)

Arrays = dict[str, np.ndarray]
_ANSWERS = {  # of `Answers`
    "classes": "U C",
    "probabilities": "f E C",
    "right": "b E",
    "training": "f T D",
    "held_out": "f E D",
}


class Space:
    """Distance in the penultimate layer: the mean over the nearest training images.

    Dimensions are standardized and reduced to principal components, so that noise in many
    dimensions does not hide a large difference in one.
    """

    def __init__(self, training: np.ndarray) -> None:
        """Fit to embeddings, float [N, D]."""
        most = min(COMPONENTS, *training.shape)
        self._project = make_pipeline(StandardScaler(), PCA(most, random_state=0))
        points = self._project.fit_transform(training)
        self._near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(points))).fit(points)

    def project(self, embeddings: np.ndarray) -> np.ndarray:
        """Project to the principal components, float [N, components]."""
        return self._project.transform(embeddings)

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        """Measure the distance, float [N], of embeddings that are not in the training images."""
        found, _ = self._near.kneighbors(self.project(embeddings))
        return found.mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Images:
    """Derived features of N images by name: float or str [N]."""

    columns: Arrays

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclasses.dataclass(frozen=True)
class Answers:
    """The predictions of a version for the held-out images.

    classes: their names, in the order of the probabilities.
    probabilities: float [E, classes].
    right: bool [E].
    training, held_out: embeddings, float [T, D] and [E, D]; D is 0 without such a signature.
    """

    classes: list[str]
    probabilities: np.ndarray
    right: np.ndarray
    training: np.ndarray
    held_out: np.ndarray

    def space(self) -> Space | None:
        """Fit the space of the training images; None without embeddings."""
        return Space(self.training) if self.training.shape[1] else None


@dataclasses.dataclass(frozen=True)
class _Sampled:
    """An Examples artifact: serialized tf.Examples."""

    training: list[bytes]
    held_out: list[bytes]


class Baseline:
    """The data of the baseline; slow results are cached in a folder."""

    def __init__(self, examples_uri: str, kept: Path) -> None:
        """Take the URI of the Examples artifact, and the folder of the cache."""
        self._uri = examples_uri.rstrip("/")
        self._kept = kept
        self._sampled: _Sampled | None = None

    def images(self) -> Images:
        """Read the derived features of a sample. Raises DataError on failure."""
        members = {**dict.fromkeys(NUMBERS, "f N"), **dict.fromkeys(TEXTS, "U N")}
        return Images(self._kept_or(("images",), members, lambda: _columns(self._sample())))

    def answers(self, location: str) -> Answers:
        """Compute the predictions of the SavedModel at a path or URI.

        Raises DataError if the examples cannot be read, OSError if the model cannot.
        """
        what = ("answers", location)
        found = self._kept_or(what, _ANSWERS, lambda: _answers(self._sample(), location))
        return Answers(**{**found, "classes": found["classes"].tolist()})

    def _sample(self) -> _Sampled:
        if self._sampled is None:
            # Of a store there are copies meanwhile, of the files that are read.
            copied = [self._uri] if storage.is_uri(self._uri) else []
            try:
                with staging.inputs(copied, copied):
                    uri = staging.local(self._uri)
                    training = list(drift.sample(uri, ["train"], SAMPLE))
                    held_out = list(drift.sample(uri, ["eval", "test"], SAMPLE))
            except (tf.errors.OpError, OSError) as error:
                raise DataError(f"{self._uri}: the examples cannot be read: {error}") from error
            if not training or not held_out:
                raise DataError(f"{self._uri}: has no examples in train, or none in eval and test")
            self._sampled = _Sampled(training, held_out)
        return self._sampled

    def _kept_or(
        self, what: Sequence[str], members: Mapping[str, str], compute: Callable[[], Arrays]
    ) -> Arrays:
        # Artifacts and versions are immutable.
        digest = hashlib.sha256(repr((self._uri, *what)).encode()).hexdigest()
        path = self._kept / f"{what[0]}-{digest[:24]}.npz"
        with contextlib.suppress(OSError, DamagedFileError):  # such as one that was cut off
            if kept := arrays.read(str(path), members):
                return kept
        found = compute()
        # Through an open file: of a name without .npz, NumPy would make another one.
        with storage.writing(str(path), durable=False) as unfinished, unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **found)
        return found


def _columns(sampled: _Sampled) -> Arrays:
    # From all splits, in their proportions.
    records = [tf.train.Example.FromString(each) for each in sampled.training + sampled.held_out]
    columns: Arrays = {}
    for name in (*NUMBERS, *TEXTS):
        values = []
        for record in records:
            feature = record.features.feature[name]
            value = getattr(feature, feature.WhichOneof("kind")).value[0]
            values.append(value.decode() if isinstance(value, bytes) else value)
        columns[name] = np.array(values, str if name in TEXTS else np.float64)
    return columns


def _answers(sampled: _Sampled, location: str) -> Arrays:
    loaded = Model(location)
    records = [tf.train.Example.FromString(each) for each in sampled.held_out]
    images = [_text(record, features.IMAGE) for record in records]
    labels = [_text(record, features.LABEL_TEXT).decode() for record in records]
    probabilities = loaded.probabilities(images)
    likeliest = [loaded.classes[index] for index in probabilities.argmax(axis=1)]
    training = [
        _text(tf.train.Example.FromString(each), features.IMAGE) for each in sampled.training
    ]
    return {
        "classes": np.array(loaded.classes, str),
        "probabilities": probabilities,
        "right": np.array(likeliest) == np.array(labels),
        "training": loaded.embeddings(training),
        "held_out": loaded.embeddings(images),
    }


def _text(record: tf.train.Example, name: str) -> bytes:
    return bytes(record.features.feature[name].bytes_list.value[0])


class Model:
    """A SavedModel loaded in this process. classes: the names, in order."""

    def __init__(self, location: str) -> None:
        """Load from a path or URI. Raises OSError."""
        try:
            with storage.local_copy(location) as folder:
                self._loaded = tf.saved_model.load(str(folder))
                names = (folder / servable.CLASSES_FILE).read_bytes()
        except tf.errors.OpError as error:
            raise OSError(f"{location}: {error.message}") from error
        self.classes = servable.parse_classes(names, location)

    def probabilities(self, images: Sequence[bytes]) -> np.ndarray:
        """Predict probabilities, float [N, classes]."""
        return self._run(servable.IMAGES, "probabilities", images)

    def embeddings(self, images: Sequence[bytes]) -> np.ndarray:
        """Compute embeddings, float [N, D]; D is 0 without an embedding signature."""
        if servable.EMBEDDINGS not in self._loaded.signatures:
            return np.zeros((len(images), 0), np.float32)
        return self._run(servable.EMBEDDINGS, "embedding", images).reshape(len(images), -1)

    def _run(self, signature: str, output: str, images: Sequence[bytes]) -> np.ndarray:
        signature_fn = self._loaded.signatures[signature]
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        return np.concatenate(
            [
                signature_fn(image_bytes=tf.constant(list(batch)))[output].numpy()
                for batch in batches
            ]
        )
