"""Sources that hold images as records: TFRecord files, TFDS and CIFAR-10."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.errors import BadDataError
from components.image_example_gen.dataset import list_data
from components.image_example_gen.options import Options
from components.image_example_gen.sources import cifar10, records
from tests.kit import image_corpus as corpus
from tests.kit.data_sources import example, items, labels, problems, write_records

IMAGE = corpus.make("JPEG", 1)


class TestTFRecord:
    @pytest.mark.parametrize(
        ("values", "label"),
        [
            ({"image": IMAGE, "label": 3}, "3"),
            ({"image__encoded": IMAGE, "image__class__text": b"cat"}, "cat"),
            ({"image__encoded": IMAGE, "image__class__label": 5, "image__height": 9}, "5"),
            ({"image__encoded": IMAGE, "image__object__class__text": [b"cat", b"cat"]}, "cat"),
        ],
    )
    def test_names_in_general_use(
        self, tmp_path: Path, values: Mapping[str, Any], label: str
    ) -> None:
        path = write_records(tmp_path / "x.tfrecord", example(**values))
        (item,) = items(path).values()
        assert (item.label, item.problem) == (label, None)
        assert item.load() == IMAGE

    def test_other_names_are_set(self, tmp_path: Path) -> None:
        path = write_records(tmp_path / "x.tfrecord", example(jpg=IMAGE, cls=b"cat", label=9))
        assert labels(path, image_feature="jpg", label_feature="cls") == {
            "x.tfrecord#000000": "cat"
        }
        (problem,) = problems(path).values()
        assert re.match(r"no image: .*image/encoded .*image; .*cls, jpg, .*data\.image", problem)

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("label.labels.txt", "zero\none\ntwo\n"),
            ("labels.txt", "0:zero\n1:one\n2:two\n"),
            ("labelmap.pbtxt", "item { id: 1 name: 'one' } item { id: 2 name: 'two' }"),
            (
                "pet_label_map.pbtxt",
                "item {\n name: 'one'\n id: 1\n}\nitem { id: 2 name: \"two\" }",
            ),
        ],
    )
    def test_numbers_become_names(self, tmp_path: Path, file: str, content: str) -> None:
        (tmp_path / file).write_text(content)
        write_records(
            tmp_path / "x.tfrecord", *(example(image=IMAGE, label=label) for label in (1, 2, 7))
        )
        assert list(labels(tmp_path).values()) == ["one", "two", ""]
        (problem,) = problems(tmp_path).values()
        assert re.match(r"no class: number 7: .*\b[01] to 2\b", problem)

    def test_negative_numbers_are_no_classes(self, tmp_path: Path) -> None:
        write_records(tmp_path / "x.tfrecord", *(example(image=IMAGE, label=n) for n in (-1, 0)))
        assert list(labels(tmp_path).values()) == ["", "0"]

    def test_names_without_images_are_remembered(self, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("zero\none\ntwo\n")
        write_records(tmp_path / "x.tfrecord", *(example(image=IMAGE, label=n) for n in (1, 2)))
        assert list_data(str(tmp_path), Options()).declared == {"zero", "one", "two"}

    @pytest.mark.parametrize(
        ("files", "told"),
        [
            ({"labels.txt": "cat\ndog\ncat\n"}, r"'cat' .*\b0 .*\b2; "),
            ({"labels.txt": "1:cat\n1:dog\n"}, " 1 .*'cat' .*'dog'"),
            (
                {"labels.txt": "cat\ndog\n", "labelmap.pbtxt": "item { id: 1 name: 'cow' }"},
                " 1 .*'cow' .*'dog'",
            ),
        ],
    )
    def test_names_that_would_merge_classes_are_refused(
        self, tmp_path: Path, files: dict[str, str], told: str
    ) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        write_records(tmp_path / "x.tfrecord", example(image=IMAGE, label=0))
        with pytest.raises(BadDataError, match=told):
            list_data(str(tmp_path), Options())

    def test_a_mark_of_byte_order_is_no_part_of_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
        write_records(tmp_path / "x.tfrecord", example(image=IMAGE, label=0))
        assert list(labels(tmp_path).values()) == ["cat"]

    def test_names_that_are_not_utf_8_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "labels.txt").write_bytes(b"caf\xe9\n")
        write_records(tmp_path / "x.tfrecord", example(image=IMAGE, label=0))
        with pytest.raises(BadDataError, match=r"labels\.txt"):
            list_data(str(tmp_path), Options())

    def test_numbers_with_a_point_are_no_classes(self, tmp_path: Path) -> None:
        features = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[IMAGE])),
            "label": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0])),
        }
        message = tf.train.Example(features=tf.train.Features(feature=features))
        write_records(tmp_path / "x.tfrecord", message.SerializeToString())
        (problem,) = problems(tmp_path).values()
        assert re.match(r"no class: label .*data\.label_feature", problem)

    def test_files_name_splits(self, tmp_path: Path) -> None:
        record = example(image=IMAGE, label=1)
        for name in (
            "pets-train.tfrecord-00000-of-00002",
            "pets-train.tfrecord-00001-of-00002",
            "coco_val.record",
            "test-00000-of-00001",
            "all.tfrec",
        ):
            write_records(tmp_path / name, record)
        assert {name: item.split for name, item in items(tmp_path).items()} == {
            "pets-train.tfrecord-00000-of-00002#000000": "train",
            "pets-train.tfrecord-00001-of-00002#000000": "train",
            "coco_val.record#000000": "eval",
            "test-00000-of-00001#000000": "test",
            "all.tfrec#000000": "",
        }

    def test_compressed_files_are_read(self, tmp_path: Path) -> None:
        record = example(image=IMAGE, label=1)
        path = write_records(tmp_path / "x.tfrecord.gz", record, record, compression="GZIP")
        assert len(items(path)) == 2

    def test_each_record_that_cannot_be_used_is_told(self, tmp_path: Path) -> None:
        write_records(
            tmp_path / "x.tfrecord",
            b"\xff\xff no example",
            example(label=1),
            example(image=IMAGE),
            example(image=IMAGE, image__object__class__text=[b"cat", b"dog"]),
        )
        assert [problem.partition(":")[0] for problem in problems(tmp_path).values()] == [
            "not a tf.Example",
            "no image",
            "no class",
            "no class",
        ]

    @pytest.mark.parametrize("damage", [slice(0, -5), slice(0, 20)])
    def test_what_cannot_be_read_of_a_file_is_one_input(
        self, tmp_path: Path, damage: slice
    ) -> None:
        record = example(image=IMAGE, label=1)
        path = write_records(tmp_path / "x.tfrecord", record, record)
        path.write_bytes(path.read_bytes()[damage])
        found = items(path)
        *_, last = found.values()
        assert last.problem is not None
        assert last.problem[0] == "damaged"
        assert sum(item.problem is None for item in found.values()) == (damage.stop == -5)

    @pytest.mark.parametrize("limit", ["UNIT_FILES", "UNIT_BYTES"])
    def test_a_large_file_has_parts_with_the_same_items(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
    ) -> None:
        pets = [example(image=IMAGE + bytes(seed), label=seed % 3) for seed in range(10)]
        path = write_records(tmp_path / "x.tfrecord", *pets, b"\xff no example", *pets[:2])
        whole = {name: (i.label, i.problem, i.load()) for name, i in items(path).items()}
        assert len(whole) == 13
        most = {"UNIT_FILES": 4, "UNIT_BYTES": 4 * len(pets[0])}[limit]
        monkeypatch.setattr(records, limit, most)
        data = list_data(str(path), Options())
        units = [list(unit.items()) for unit in data.units]
        assert len(units) == 4
        found = [item for unit in units for item in unit]
        assert {i.name: (i.label, i.problem, i.load()) for i in found} == whole
        assert [item.name for item in found] == list(whole)
        # What is damaged ends its part only.
        damaged = bytearray(path.read_bytes())
        damaged[len(pets[0]) * 2] ^= 1
        path.write_bytes(damaged)
        found_problems = problems(path)
        assert "up to" in found_problems.pop(f"x.tfrecord#{1:06d}")
        assert list(found_problems) == ["x.tfrecord#000010"]

    def test_where_the_next_record_begins_is_unknown_no_part_begins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = example(image=IMAGE, label=1)
        path = write_records(tmp_path / "x.tfrecord", *[record] * 9)
        monkeypatch.setattr(records, "UNIT_FILES", 2)
        damaged = bytearray(path.read_bytes())
        damaged[5 * (len(record) + 16)] ^= 1  # a size
        path.write_bytes(damaged)
        assert len(list(list_data(str(path), Options()).units)) == 3
        assert list(items(path)) == [f"x.tfrecord#{number:06d}" for number in range(6)]
        assert list(problems(path)) == ["x.tfrecord#000005"]


def write_tfds(root: Path, name: str, version: str = "1.0.0", **info: str) -> Path:
    """Create a data set of TensorFlow Datasets with unusual feature names."""
    folder = root / name / version
    folder.mkdir(parents=True)
    kinds = {"photo": "image_feature.Image", "kind": "class_label_feature.ClassLabel"}
    declared = {
        key: {"pythonClassName": f"tensorflow_datasets.core.features.{kind}"}
        for key, kind in kinds.items()
    }
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": declared}}))
    (folder / "dataset_info.json").write_text(json.dumps({"name": name, **info}))
    (folder / "kind.labels.txt").write_text("cat\ndog\n")
    for split, label in (("train", 0), ("test", 1)):
        write_records(
            folder / f"{name}-{split}.tfrecord-00000-of-00001", example(photo=IMAGE, kind=label)
        )
    return folder


class TestTfds:
    @pytest.fixture(autouse=True)
    def data_dir(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        # As on a machine without the package, also where it is installed.
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        return tmp_path

    def test_a_prepared_set_is_read_without_the_package(self, data_dir: Path) -> None:
        write_tfds(data_dir, "pets", "3.2.0")
        write_tfds(data_dir, "pets", "3.10.0")
        found = [(item.label, item.split) for item in items("tfds:pets").values()]
        assert sorted(found) == [("cat", "train"), ("dog", "test")]
        units = list(list_data("tfds:pets", Options()).units)
        assert "3.10.0" in str(units[0])
        assert "3.2.0" in str(next(list_data("tfds:pets:3.2.0", Options()).units))

    def test_without_it_and_without_the_package(self, data_dir: Path) -> None:
        with pytest.raises(BadDataError, match=f"^tfds:pets: .*{data_dir}, .*pip install"):
            list_data("tfds:pets", Options())

    def test_another_file_format_is_told(self, data_dir: Path) -> None:
        write_tfds(data_dir, "pets", fileFormat="array_record")
        with pytest.raises(BadDataError, match=r"array_record; .*file_format='tfrecord'"):
            list_data("tfds:pets", Options())

    def test_the_package_prepares_what_is_not_there(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Builder:
            data_path = str(data_dir / "pets" / "1.0.0")

            def download_and_prepare(self) -> None:
                write_tfds(data_dir, "pets")

        class Package:
            @staticmethod
            def builder(name: str, data_dir: str) -> Builder:
                assert (name, data_dir) == ("pets", str(Path(Builder.data_path).parents[1]))
                return Builder()

        monkeypatch.setitem(sys.modules, "tensorflow_datasets", Package)
        assert len(items("tfds:pets")) == 2


class Evil:
    """Its pickle runs a command when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('run')",)


class TestCifar10:
    names = ("airplane", "automobile", "bird", "cat", "deer")

    def rows(self, count: int = 5) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (count, 3072), dtype=np.uint8)

    def python_version(self, root: Path, **batch: Any) -> Path:
        content: dict[Any, Any] = {b"labels": [0, 1, 2, 3, 4], b"data": self.rows(), **batch}
        with (root / "batches.meta").open("wb") as file:
            pickle.dump({b"label_names": [name.encode() for name in self.names]}, file, protocol=2)
        for name in ("data_batch_1", "test_batch"):
            with (root / name).open("wb") as file:
                pickle.dump(content, file, protocol=2)
        return root

    def binary_version(self, root: Path) -> Path:
        (root / "batches.meta.txt").write_text("\n".join(self.names) + "\n\n")
        rows = np.concatenate([np.arange(5, dtype=np.uint8)[:, np.newaxis], self.rows()], axis=1)
        for name in ("data_batch_1.bin", "test_batch.bin"):
            (root / name).write_bytes(rows.tobytes())
        return root

    @pytest.mark.parametrize("version", ["python_version", "binary_version"])
    def test_both_versions_hold_the_same(self, tmp_path: Path, version: str) -> None:
        found = list(items(getattr(self, version)(tmp_path)).values())
        assert [item.label for item in found] == [*self.names, *self.names]
        assert [item.split for item in found] == ["train"] * 5 + ["test"] * 5
        for item, row in zip(found, [*self.rows(), *self.rows()], strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(item.load())))
            np.testing.assert_array_equal(pixels, row.reshape(3, 32, 32).transpose(1, 2, 0))

    @pytest.mark.parametrize("version", ["python_version", "binary_version"])
    @pytest.mark.parametrize("bad", [None, 3])
    def test_a_batch_has_parts_with_the_same_items(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, bad: int | None
    ) -> None:
        getattr(self, version)(tmp_path)
        if bad is not None:
            meta = tmp_path / "batches.meta.txt"
            names = self.names[:bad]
            if version == "python_version":
                meta = tmp_path / "batches.meta"
                named = {b"label_names": [name.encode() for name in names]}
                meta.write_bytes(pickle.dumps(named, protocol=2))
            else:
                meta.write_text("\n".join(names))

        def found() -> list[tuple[Any, ...]]:
            units = list_data(str(tmp_path), Options()).units
            listed = [[(i.name, i.label, i.problem, i.load()) for i in u.items()] for u in units]
            counts.append(len(listed))
            return [item for unit in listed for item in unit]

        counts: list[int] = []
        whole = found()
        assert len(whole) == (10 if bad is None else 2 * (bad + 1))
        monkeypatch.setattr(cifar10, "UNIT_FILES", 2)
        assert found() == whole
        assert counts[0] == 2
        assert counts[1] >= 6

    def test_a_pickle_that_runs_code_is_refused(self, tmp_path: Path) -> None:
        self.python_version(tmp_path, evil=Evil())
        (first, second) = items(tmp_path).values()
        assert first.problem is not None
        assert re.search(r"\bexec ", first.problem[1])
        assert second.problem is not None

    @pytest.mark.parametrize(
        "content",
        [
            Evil(),
            {b"labels": [0] * 5, b"data": np.zeros((5, 3072), object)},
            {b"labels": [0] * 5, b"data": np.zeros((5, 3072), np.float64)},
            {b"labels": [0] * 4, b"data": np.zeros((5, 3072), np.uint8)},
            {b"labels": [77] * 5, b"data": np.zeros((5, 3072), np.uint8)},
            {b"labels": "01234", b"data": b"no array"},
            [1, 2, 3],
        ],
    )
    def test_anything_but_plain_images_is_refused(self, tmp_path: Path, content: object) -> None:
        self.python_version(tmp_path)
        with (tmp_path / "data_batch_1").open("wb") as file:
            pickle.dump(content, file, protocol=2)
        found = items(tmp_path)
        assert found["data_batch_1#00000"].problem is not None
        assert found["test_batch#00004"].problem is None

    @pytest.mark.parametrize("protocol", range(6))
    def test_the_unpickler_builds_plain_values_only(self, protocol: int) -> None:
        plain = {b"a": [1, 2.5, "x", (b"y", None)], b"b": {1: True}}
        assert cifar10.loads(pickle.dumps(plain, protocol)) == plain
        for evil in (print, Evil(), Path("x"), np.float64, {b"x": io.BytesIO}):
            with pytest.raises(ValueError, match=r"pickle: .* not allowed"):
                cifar10.loads(pickle.dumps({b"x": evil}, protocol))

    def test_a_pickle_cannot_change_what_it_may_call(self) -> None:
        # numpy's _reconstruct with a state, as BUILD would set attributes on it.
        program = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x01\x00\x00\x00aK\x01sb."
        with pytest.raises(ValueError, match=r"pickle: .*state"):
            cifar10.loads(program)

    def test_a_file_of_another_length_is_refused(self, tmp_path: Path) -> None:
        self.binary_version(tmp_path)
        path = tmp_path / "data_batch_1.bin"
        path.write_bytes(path.read_bytes()[:-1])
        assert re.search(r" 3,073-byte", problems(tmp_path)["data_batch_1.bin#00000"])

    def test_a_folder_without_batches(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match=f"^{tmp_path}: .*CIFAR-10; unpack"):
            list_data(f"cifar10:{tmp_path}", Options())


def test_gzip_is_told_from_its_content(tmp_path: Path) -> None:
    plain = write_records(tmp_path / "x.tfrecord", example(image=IMAGE, label=1))
    plain.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(labels(plain).values()) == ["1"]
