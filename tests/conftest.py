"""Fixtures shared by all tests. Nothing here imports TensorFlow or TFX."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import hypothesis
import pytest
from PIL import Image

from components import environment
from tests.kit import image_corpus
from tests.kit.recorder import Recorder, recording

if TYPE_CHECKING:
    from components.model_registry.signing import Keys

# Files of minutes begin first, so that the processes that share the files end about together.
_LONGEST = (
    "test_kubeflow_run",
    "test_e2e",
    "test_month",
    "test_incremental",
    "test_image_transform",
    "test_faults",
    "test_release",
    "test_baseline",
    "test_secrets",
    "test_resume",
    "test_loop",
    "test_s3_run",
)


# By marker, the files whose tests have it; a test can have more of its own.
_MARKED: Mapping[str, Sequence[str]] = {
    "slow": (
        *(*_LONGEST, "test_attempts", "test_fixres", "test_kubeflow_entrypoint"),
        *("test_mobilenet", "test_presets", "test_prism", "test_recipes", "test_tracking"),
        *("test_train", "test_vision_transformer", "test_warm_start"),
    ),
    "browser": ("test_report_page", "test_serving_page"),
    "services": ("test_metadata", "test_prism"),
    "root": ("test_faults",),
}
# Tests of the folder `unit` import no TensorFlow and train nothing.
_UNIT = "unit"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Mark the tests by their files, and put the longest files first.

    It comes before pytest's own hook, which selects by markers. Plugins may then shuffle the tests,
    after which those with the marker `in_order` are put into the order of their file again.
    """
    for item in items:
        if item.path.parent.name == _UNIT:
            item.add_marker(_UNIT)
        for marker, stems in _MARKED.items():
            if item.path.stem in stems:
                item.add_marker(marker)
    items.sort(key=lambda item: item.path.stem not in _LONGEST)
    yield
    sequences: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("in_order"):
            sequences.setdefault(item.nodeid.rpartition("::")[0], []).append(item)
    for sequence in sequences.values():
        first = items.index(sequence[0])
        items[:] = [item for item in items if item not in sequence]
        items[first:first] = sorted(sequence, key=lambda item: item.location[1] or 0)


def pytest_configure() -> None:
    """Hide pytest's options from absl, which takes the process's arguments for its own flags.

    Examples of property tests may take any time: on a busy machine the first traces a graph.
    """
    del sys.argv[1:]
    environment.pin_keras()
    environment.keep_calls_direct()
    hypothesis.settings.register_profile(
        "any-time", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("any-time")


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Undo what the program sets up in its environment for the processes that it starts."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Record the events that are reported during the test."""
    with recording() as events:
        yield events


@pytest.fixture
def image_bytes() -> Callable[..., bytes]:
    """Return a function that encodes an image of one color."""

    def make(
        image_format: str = "PNG",
        size: tuple[int, int] = (8, 8),
        mode: str = "RGB",
        color: int | tuple[int, ...] = 0,
    ) -> bytes:
        return image_corpus.encoded(Image.new(mode, size, color), image_format)

    return make


@pytest.fixture
def make_keys(tmp_path: Path) -> Callable[[str], Keys]:
    """Return a function that writes a key pair of a name for signed manifests."""
    from tests.kit.keys import write_keys

    return functools.partial(write_keys, tmp_path)


@pytest.fixture
def two_classes(tmp_path: Path, image_bytes: Callable[..., bytes]) -> Path:
    """Create a data root with 40 distinct 8x8 PNGs in each of the classes "cat" and "dog"."""
    root = tmp_path / "data"
    for offset, label in enumerate(("cat", "dog")):
        (root / label).mkdir(parents=True)
        for index in range(40):
            (root / label / f"{index:02d}.png").write_bytes(
                image_bytes(color=(index, 100 * offset, 51))
            )
    return root


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that creates a data root of the first scans of some digits."""
    from components.image_example_gen.sources import digits

    everything = tmp_path_factory.mktemp("digits") / "all"

    def make(labels: str, count: int = 40) -> Path:
        digits.write_folder(everything)
        root = tmp_path_factory.mktemp("few-digits")
        for label in labels:
            (root / label).mkdir()
            for file in sorted((everything / label).iterdir())[:count]:
                shutil.copy(file, root / label)
        return root

    return make


@pytest.fixture(scope="session")
def colour_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three exports of kit.tiny_export that differ in confidence; copy, do not change."""
    from tests.kit.tiny_export import export_colour_model

    root = tmp_path_factory.mktemp("colour-models")
    for number in (1, 2, 3):
        export_colour_model(root / str(number), sharpness=4.0 * number)
    return [root / str(number) for number in (1, 2, 3)]
