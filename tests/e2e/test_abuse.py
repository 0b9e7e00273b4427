"""Hostile input that no other test has: what it must not do, and what is said instead.

In tests/tensorflow, test_images.py and test_ingest.py have broken and huge images, test_sources.py
has links, test_record_sources.py damaged records, and test_weights.py pickles and unpinned weights;
in tests/serving, test_serving_limits.py and test_serving_tensors.py have clients of the server.
"""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import BadDataError
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import read_image
from components.image_schema_gen.inference import infer
from components.image_schema_gen.schema import class_names
from pipeline.config import load
from pipeline.errors import ConfigError
from tests import REPO
from tests.kit import image_corpus as corpus
from tests.kit.data_sources import example, items, labels, problems, write_records
from tests.kit.data_statistics import statistics
from tests.kit.image_folders import put
from tests.kit.weights import saved_model
from trainer_module.weights import WeightsError, load_npz

HOSTILE = {
    "\x1b[31mred\x1b[0m\x07": r"\x1b[31mred\x1b[0m\x07",
    "two\nlines\r": r"two\nlines",  # blanks at the end are no part of a name
    "\u202egpj.cat": r"\u202egpj.cat",
    "\x9b2J": r"\x9b2J",
    "<script>alert(1)<\\script>": "<script>alert(1)<\\script>",  # escaped where pages are made
    "[bold]markup": "[bold]markup",
    "a\u200cb": "a\u200cb",  # a joiner that Persian needs
}


class TestClassNames:
    def test_of_folders_do_nothing_to_a_terminal(self, tmp_path: Path) -> None:
        put(tmp_path, *(f"{name}/1.png" for name in HOSTILE))
        assert set(labels(tmp_path).values()) == set(HOSTILE.values())

    def test_nor_do_those_of_records(self, tmp_path: Path) -> None:
        image = corpus.make("PNG", 1)
        records = [example(image=image, label=name.encode()) for name in HOSTILE]
        path = write_records(tmp_path / "x.tfrecord", *records)
        assert set(labels(path).values()) == set(HOSTILE.values())

    def test_ten_thousand_are_listed_and_in_the_schema(self, tmp_path: Path) -> None:
        names = [f"class {number:05d}" for number in range(10_000)]
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "1.png").touch()
        assert sorted(labels(tmp_path).values()) == names
        assert class_names(infer([statistics(names)], names)) == names


class TestRecords:
    @pytest.mark.parametrize("compression", ["", "GZIP"])
    def test_a_record_that_claims_a_size_is_not_given_the_memory(
        self, tmp_path: Path, compression: str
    ) -> None:
        good = example(image=corpus.make("PNG", 1), label=1)
        path = write_records(tmp_path / "x.tfrecord", good, bytes(3_000_000), good)
        if compression:
            path = write_records(
                tmp_path / "x.tfrecord.gz", good, bytes(3_000_000), good, compression="GZIP"
            )
        found = problems(path, max_pixels=1000)
        assert list(found) == [f"{path.name}#000001"]
        assert "3,000,000 bytes" in found[f"{path.name}#000001"]
        assert len(items(path, max_pixels=1000)) == 2

    def test_more_than_there_is_memory_does_not_end_the_process(self, tmp_path: Path) -> None:
        size = struct.pack("<Q", 1 << 45)
        # The right checksum of these bytes, masked as TensorFlow does.
        (tmp_path / "x.tfrecord").write_bytes(size + _masked_crc32c(size) + bytes(100))
        script = (
            "import sys; from components.image_example_gen.dataset import list_data;"
            "from components.image_example_gen.options import Options;"
            "print([i.problem for u in list_data(sys.argv[1], Options()).units for i in u.items()])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "x.tfrecord")],
            cwd=REPO,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0
        assert "35,184,372,088,832 bytes" in done.stdout

    @settings(max_examples=50, deadline=None)
    @given(data=st.binary(max_size=200))
    def test_any_bytes_are_read_or_told(
        self, tmp_path_factory: pytest.TempPathFactory, data: bytes
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.tfrecord"
        path.write_bytes(data)
        for item in items(path).values():
            assert item.problem


def _masked_crc32c(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


class TestManifest:
    def test_what_is_no_image_is_not_told_on(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("hunter2")
        put(tmp_path / "data", "1.png")
        (tmp_path / "data" / "list.csv").write_text(
            "path,label\n1.png,cat\n../secret,dog\n/dev/zero,dog\n\0,dog\n"
        )
        for item in items(tmp_path / "data" / "list.csv").values():
            if item.problem or item.label == "cat":
                continue
            with pytest.raises(Unusable) as refused:
                read_image(item.load(), 1000)
            assert "hunter2" not in str(refused.value)

    @settings(max_examples=100, deadline=None)
    @given(text=st.text(), suffix=st.sampled_from([".csv", ".jsonl"]))
    def test_any_text_is_read_or_told(
        self, tmp_path_factory: pytest.TempPathFactory, text: str, suffix: str
    ) -> None:
        path = tmp_path_factory.getbasetemp() / f"any{suffix}"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(BadDataError):
            assert all(item.problem or item.label for item in items(path).values())


class TestWeights:
    def test_an_array_that_claims_a_size_is_refused(self, tmp_path: Path) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45,)}
        )
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as file:
            file.writestr("kernel.npy", header.getvalue())
        with pytest.raises(WeightsError, match=r"bomb\.npz .*\.npz"):
            load_npz(tmp_path / "bomb.npz")

    @pytest.mark.parametrize("how", ["link", "external"])
    def test_an_h5_file_cannot_read_other_files(self, tmp_path: Path, how: str) -> None:
        """Keras refuses them; would it stop to, MobileNetV2's weights could leak any file."""
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        path = tmp_path / "x.weights.h5"
        model.save_weights(path)
        secret = tmp_path / "secret"
        secret.write_bytes(bytes(24))
        with h5py.File(path, "a") as file:
            group = file["layers/dense/vars"]
            del group["0"]
            if how == "link":
                group["0"] = h5py.ExternalLink(str(secret), "/s")
            else:
                group.create_dataset("0", (3, 2), np.float32, external=[(str(secret), 0, 24)])
        with pytest.raises(ValueError, match="Not allowed: H5"):
            model.load_weights(path)

    def test_of_a_saved_model_it_is_said_that_it_is_a_program(self, tmp_path: Path) -> None:
        spec = saved_model(tmp_path / "module").model_copy(update={"sha256": ""})
        with pytest.raises(WeightsError, match=rf"{spec.source} .*sha256.*SavedModel"):
            spec.fetch()


keys = st.sampled_from([*load().origins, "data", "train.hyperparameters", "nothing"])
values = st.recursive(
    st.integers().map(str)
    | st.floats().map(repr)
    | st.sampled_from(["true", "''", "1979-05-27", '"\\u0000"', "'digits'", "'/x'"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda many: f"[{', '.join(many)}]")
        | inner.map(lambda one: f"{{a = {one}}}")
    ),
    max_leaves=5,
)
lines = st.lists(st.tuples(keys, values).map(" = ".join), max_size=4).map("\n".join)


class TestConfigFile:
    @settings(max_examples=200, deadline=None)
    @given(data=lines.map(str.encode) | st.binary(max_size=100))
    def test_any_is_loaded_or_told_in_one_line_that_names_it(
        self, tmp_path_factory: pytest.TempPathFactory, data: bytes
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "any.toml"
        path.write_bytes(data)
        message = path.name
        try:
            load(path)
        except ConfigError as error:
            message = str(error)
        assert path.name in message
        assert len(message.splitlines()) == 1
