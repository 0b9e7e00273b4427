"""Data sources: what each takes for an input, its class and its split."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tensorflow as tf
from fsspec.spec import AbstractFileSystem
from PIL import Image

from components.errors import BadDataError
from components.image_example_gen import files
from components.image_example_gen.dataset import list_data
from components.image_example_gen.inputs import scan
from components.image_example_gen.options import Options
from components.image_example_gen.source_name import parse
from components.image_example_gen.sources import cifar10, records
from components.image_example_gen.sources.digits import IMAGES
from tests.kit import image_corpus as corpus
from tests.kit.data_sources import digest, example, items, labels, problems, write_records
from tests.kit.image_folders import put


class TestNames:
    @pytest.mark.parametrize(
        ("text", "kind", "location"),
        [
            ("digits", "digits", "digits"),
            ("./digits", "", "./digits"),
            ("/x/y", "", "/x/y"),
            ("folder:/x/a.csv", "folder", "/x/a.csv"),
            ("tfds:cifar10:3.0.2", "tfds", "cifar10:3.0.2"),
            ("gs://bucket/x", "", "gs://bucket/x"),
            ("tfrecord:gs://bucket/x", "tfrecord", "gs://bucket/x"),
            ("odd:name", "", "odd:name"),
        ],
    )
    def test_a_prefix_names_the_kind(self, text: str, kind: str, location: str) -> None:
        assert parse(text) == (kind, location)
        assert parse(text).text == text

    def test_only_paths_are_local(self) -> None:
        assert parse("manifest:x.csv").is_local
        assert not any(parse(text).is_local for text in ("digits", "tfds:mnist", "s3://b/x"))

    def test_an_archive_is_to_be_unpacked(self, tmp_path: Path) -> None:
        (tmp_path / "photos.tar.gz").touch()
        with pytest.raises(BadDataError, match="is an archive; unpack it"):
            list_data(str(tmp_path / "photos.tar.gz"), Options())

    def test_a_file_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "photos.dat").touch()
        with pytest.raises(BadDataError, match="a file of unknown kind; give"):
            list_data(str(tmp_path / "photos.dat"), Options())

    @pytest.mark.parametrize("name", ["list.xlsx", "list.xls", "list.ods"])
    def test_a_spreadsheet_is_to_be_saved_as_csv(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()
        with pytest.raises(BadDataError, match="save it as CSV UTF-8"):
            list_data(str(tmp_path / name), Options())


class TestFolder:
    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match="no such folder"):
            list_data(str(tmp_path / "absent"), Options())

    def test_what_is_found_is_counted_while_it_is_listed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        put(tmp_path, *[f"cat/{index}.png" for index in range(450)])
        with caplog.at_level("INFO", "perennial.progress"):
            list_data(str(tmp_path), Options())
        steps = [vars(record)["fields"] for record in caplog.records if record.msg == "step"]
        assert {step["what"] for step in steps} == {"list"}
        assert steps[0]["advance"] == 0
        assert len(steps) >= 4
        assert sum(step["advance"] for step in steps) == 451  # and the folder

    def test_the_first_folder_names_the_class_however_deep_the_image(self, tmp_path: Path) -> None:
        put(tmp_path, "cat/1.png", "cat/a/b/2.PNG", "dog/3.png")
        assert labels(tmp_path) == {"cat/1.png": "cat", "cat/a/b/2.PNG": "cat", "dog/3.png": "dog"}

    def test_another_level_can_name_the_class(self, tmp_path: Path) -> None:
        put(tmp_path, "2023/cat/1.png", "2024/dog/x/2.png", "2024/stray.png")
        assert labels(tmp_path, depth=2) == {
            "2023/cat/1.png": "cat",
            "2024/dog/x/2.png": "dog",
            "2024/stray.png": "",
        }
        assert list(problems(tmp_path, depth=2)) == ["2024/stray.png"]

    def test_folders_named_like_splits_are_splits(self, tmp_path: Path) -> None:
        put(tmp_path, "train/cat/1.png", "Validation/cat/2.png", "test/dog/3.png")
        found = items(tmp_path)
        assert {name: (item.label, item.split) for name, item in found.items()} == {
            "train/cat/1.png": ("cat", "train"),
            "Validation/cat/2.png": ("cat", "eval"),
            "test/dog/3.png": ("dog", "test"),
        }

    def test_a_class_beside_them_makes_them_classes(self, tmp_path: Path) -> None:
        put(tmp_path, "train/1.png", "test/2.png", "bus/3.png")
        assert set(labels(tmp_path).values()) == {"train", "test", "bus"}

    def test_names_that_are_not_utf_8_are_written_out(self, tmp_path: Path) -> None:
        folder = tmp_path / "caf\udce9"
        folder.mkdir()
        (folder / "\udcff.png").write_bytes(corpus.make("PNG", 1))
        assert labels(tmp_path) == {"caf\\xe9/\\xff.png": "caf\\xe9"}
        (item,) = items(tmp_path).values()
        assert item.load() == corpus.make("PNG", 1)

    def test_blanks_around_the_name_of_a_folder_are_no_part_of_the_class(
        self, tmp_path: Path
    ) -> None:
        put(tmp_path, " cat/1.png", "dog/2.png")
        assert set(labels(tmp_path).values()) == {"cat", "dog"}

    def test_folders_that_differ_in_blanks_only_stay_apart(self, tmp_path: Path) -> None:
        put(tmp_path, "cat /1.png", "cat/2.png")
        assert set(labels(tmp_path).values()) == {"cat ", "cat"}

    def test_a_linked_folder_within_the_root_counts(self, tmp_path: Path) -> None:
        put(tmp_path, "cat/1.png", "store/2.png")
        (tmp_path / "dog").symlink_to("store")
        assert labels(tmp_path)["dog/2.png"] == "dog"

    def test_folders_may_be_nested_deeper_than_python_recurses(self, tmp_path: Path) -> None:
        # 1,200 levels of one letter stay below the longest path that Linux takes.
        folders = [f"{tmp_path}/cat" + "/d" * level for level in range(1200)]
        for folder in folders:
            Path(folder).mkdir()
        with open(f"{folders[-1]}/1.png", "wb") as file:
            file.write(corpus.make("PNG", 1))
        try:
            assert set(labels(tmp_path).values()) == {"cat"}
        finally:  # pytest removes folders by recursion
            Path(f"{folders[-1]}/1.png").unlink()
            for folder in reversed(folders):
                Path(folder).rmdir()

    def test_every_file_is_in_one_unit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("components.image_example_gen.sources.file_table.UNIT_BYTES", 10_000)
        names = [f"cat/{number}.png" for number in range(30)]
        data = list_data(str(put(tmp_path, *names)), Options())
        assert len(list(data.units)) > 2
        found = [item.name for unit in data.units for item in unit.items()]
        assert sorted(found) == sorted(names)
        assert data.inputs == 30

    def test_a_file_larger_than_any_image_is_not_read(self, tmp_path: Path) -> None:
        put(tmp_path, "cat/1.png")
        with (tmp_path / "cat" / "sparse.png").open("wb") as file:
            file.truncate(2**40)
        item = items(tmp_path, max_pixels=1000)["cat/sparse.png"]
        with pytest.raises(files.Unusable, match="too large"):
            item.load()


class TestFingerprint:
    def of(self, root: Path) -> str:
        return digest(root)

    def test_touching_and_copying_change_nothing(self, two_classes: Path, tmp_path: Path) -> None:
        before = self.of(two_classes)
        os.utime(two_classes / "cat" / "00.png", (1, 1))
        assert self.of(two_classes) == before
        assert self.of(Path(shutil.copytree(two_classes, tmp_path / "elsewhere"))) == before

    @pytest.mark.parametrize(
        "news", ["moved to another class", "one byte", "removed", "a new link"]
    )
    def test_anything_else_does(self, two_classes: Path, news: str) -> None:
        before = self.of(two_classes)
        file = two_classes / "cat" / "00.png"
        if news == "moved to another class":
            file.rename(two_classes / "dog" / "cat00.png")
        elif news == "one byte":
            file.write_bytes(file.read_bytes()[:-1] + b"\0")
        elif news == "removed":
            file.unlink()
        else:
            (two_classes / "cat" / "dangling.png").symlink_to("nowhere")
        assert self.of(two_classes) != before


class TestManifest:
    def test_csv(self, tmp_path: Path) -> None:
        put(tmp_path / "photos", "a b.png", "ü.png", "c.png")
        manifest = tmp_path / "list.csv"
        with manifest.open("w", encoding="utf-8-sig", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["Label", "path", "Split", "remark"])
            rows.writerow(["cat, black", "photos/a b.png", "train", "x"])
            rows.writerow(["dog", "photos/ü.png", "VAL", ""])
            rows.writerow(["dog", str(tmp_path / "photos" / "c.png"), "", ""])
        found = items(manifest)
        assert sorted((item.label, item.split) for item in found.values()) == [
            ("cat, black", "train"),
            ("dog", ""),
            ("dog", "eval"),
        ]
        assert all(item.load()[:4] == b"\x89PNG" for item in found.values())

    def test_json_lines(self, tmp_path: Path) -> None:
        put(tmp_path, "1.png", "2.png")
        manifest = tmp_path / "list.jsonl"
        manifest.write_text('{"path": "1.png", "label": "a"}\n\n{"label": 7, "path": "2.png"}\n')
        assert labels(manifest) == {"1.png": "a", "2.png": "7"}

    def test_each_bad_line_is_told(self, tmp_path: Path) -> None:
        put(tmp_path, "1.png")
        manifest = tmp_path / "list.jsonl"
        manifest.write_text(
            '{"path": "1.png"}\n{oops\n[1]\n{"label": "a"}\n{"path": "no.png", "label": "a"}\n'
            '{"path": "1.png", "label": "a", "split": "holiday"}\n'
        )
        data = list_data(str(manifest), Options())
        found = [item.problem for unit in data.units for item in unit.items()]
        assert sorted(": ".join(problem or ()) for problem in found)[:4] == [
            "manifest: line 1: no label",
            "manifest: line 6: unknown split 'holiday'",
            "manifest: no path",
            "manifest: not JSON: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)",
        ]
        assert data.inputs == 6
        assert None not in found

    def test_columns_that_are_not_there_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text("file;label\n1.png;a\n")
        with pytest.raises(BadDataError, match="must name the columns path, label"):
            list_data(str(tmp_path / "list.csv"), Options())

    @pytest.mark.parametrize(
        ("value", "label"),
        [
            ('"cat"', "cat"),
            ('" cat "', "cat"),
            ("7", "7"),
            ("-1", "-1"),
            ("true", None),
            ('["cat"]', None),
            ('{"name": "cat"}', None),
            ("NaN", None),
            ("Infinity", None),
            ("7.0", None),
            ("null", None),
            ('""', None),
            ('"  "', None),
        ],
    )
    def test_labels_are_texts_and_whole_numbers(
        self, tmp_path: Path, value: str, label: str | None
    ) -> None:
        put(tmp_path, "1.png")
        manifest = tmp_path / "list.jsonl"
        manifest.write_text(f'{{"path": "1.png", "label": {value}}}\n')
        (item,) = items(manifest).values()
        if label is None:
            assert item.problem is not None
            assert (item.problem[0], item.label) == ("manifest", "")
        else:
            assert (item.problem, item.label) == (None, label)

    @pytest.mark.parametrize(
        "row", ['{"path": "1.png", "label": "a", "label": "b"}', '{"path": 7, "label": "a"}']
    )
    def test_other_rows_that_mean_nothing(self, tmp_path: Path, row: str) -> None:
        put(tmp_path, "1.png")
        (tmp_path / "list.jsonl").write_text(row)
        (problem,) = problems(tmp_path / "list.jsonl").values()
        assert problem.startswith("manifest: ")

    @pytest.mark.parametrize(
        ("path", "told"),
        [
            ("no.png", "looked for in {root}"),
            ("photos\\1.png", "photos/1.png is there: write /"),
            ("photos\\2.png", "photos/2.png is not there either"),
            ("C:\\photos\\1.png", "a path of Windows"),
            ("photos/1", "1.png is there: give names with their extension"),
            ("photos/7", "looked for in {root}; it has no extension"),
        ],
    )
    def test_where_a_file_was_looked_for_is_told(
        self, tmp_path: Path, path: str, told: str
    ) -> None:
        put(tmp_path, "photos/1.png")
        (tmp_path / "list.csv").write_text(f"path,label\n{path},cat\n")
        (problem,) = problems(tmp_path / "list.csv").values()
        assert problem.startswith("unreadable: line 2: No such file")
        assert told.format(root=tmp_path) in problem

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("list.tsv", b"path\tlabel\n1.png\tcat\n"),
            ("list.csv", b"path;label\r\n1.png;cat\r\n"),
            ("list.csv", b"path\tlabel\r\n1.png\tcat\r\n"),
            ("list.csv", "path,label\n1.png,cat\n".encode("utf-16")),
            ("list.csv", b"path,label,,\n1.png,cat,,\n,,,\n , ,,\n"),
            ("list.csv", b"path,label\n1.png,cat,,\n,,\n"),
        ],
    )
    def test_what_spreadsheets_write(self, tmp_path: Path, name: str, content: bytes) -> None:
        put(tmp_path, "1.png")
        (tmp_path / name).write_bytes(content)
        data = list_data(str(tmp_path / name), Options())
        found = [(item.name, item.label, item.problem) for u in data.units for item in u.items()]
        assert found == [("1.png", "cat", None)]
        assert data.ignored["empty row"] == content.count(b"\n,") + content.count(b"\n ,")

    def test_parquet(self, tmp_path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        put(tmp_path, "1.png", "2.png", "3.png")
        columns = {"path": ["1.png", "2.png"], "Label": ["cat", "dog"], "split": ["val", None]}
        parquet.write_table(pa.table({**columns, "more": [1, 2]}), tmp_path / "list.parquet")
        found = items(tmp_path / "list.parquet")
        assert [(i.label, i.split) for i in found.values()] == [("cat", "eval"), ("dog", "")]
        parquet.write_table(
            pa.table({"path": ["1.png"], "label": [7.0]}), tmp_path / "floats.parquet"
        )
        assert "a number with a point" in str(problems(tmp_path / "floats.parquet"))
        parquet.write_table(pa.table({"file": ["1.png"]}), tmp_path / "other.parquet")
        with pytest.raises(BadDataError, match="path and label not found"):
            list_data(str(tmp_path / "other.parquet"), Options())

    def test_latin_1_is_named_with_its_line(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_bytes(b"path,label\n1.png,cat\n2.png,caf\xe9\n")
        with pytest.raises(BadDataError, match=r"line 3: byte 0xe9 is not UTF-8.*Windows-1252"):
            list_data(str(tmp_path / "list.csv"), Options())

    def test_a_column_that_is_named_twice_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text("path,label,label\n1.png,a,b\n")
        with pytest.raises(BadDataError, match="names label twice"):
            list_data(str(tmp_path / "list.csv"), Options())

    def test_a_file_uri_is_a_path(self, tmp_path: Path) -> None:
        put(tmp_path, "a b.png")
        (tmp_path / "list.csv").write_text(f"path,label\nfile://{tmp_path}/a%20b.png,cat\n")
        assert labels(tmp_path / "list.csv") == {f"{tmp_path}/a b.png": "cat"}

    @pytest.mark.parametrize("uri", ["http://x.org/1.png", "https://x.org/1.png", "odd://x/1.png"])
    def test_a_row_that_nothing_reads_ends_nothing(self, tmp_path: Path, uri: str) -> None:
        put(tmp_path, "1.png")
        (tmp_path / "list.csv").write_text(f"path,label\n1.png,cat\n{uri},dog\n")
        assert labels(tmp_path / "list.csv") == {"1.png": "cat", uri: ""}
        assert problems(tmp_path / "list.csv")[uri].startswith("unreachable: ")
        assert digest(tmp_path / "list.csv") == digest(tmp_path / "list.csv")

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b'path,label\n"1.png,a\n'])
    def test_what_is_no_csv_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "list.csv").write_bytes(content)
        with pytest.raises(BadDataError, match=r"list\.csv"):
            list_data(str(tmp_path / "list.csv"), Options())


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
        assert "no bytes in image/encoded or image; there are cls, jpg" in str(problems(path))

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
        assert problem.startswith("no class: number 7: the class names are for")

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
            ({"labels.txt": "cat\ndog\ncat\n"}, "'cat' is the name of 0 and of 2"),
            ({"labels.txt": "1:cat\n1:dog\n"}, "1 is named 'cat' and 'dog'"),
            (
                {"labels.txt": "cat\ndog\n", "labelmap.pbtxt": "item { id: 1 name: 'cow' }"},
                "1 is named 'cow' and 'dog'",
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
        assert "label is a number with a point" in str(problems(tmp_path))

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
        assert "all after it cannot be read" in last.problem[1]
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
        with pytest.raises(BadDataError, match=f"tfds:pets: not in {data_dir}, .*pip install"):
            list_data("tfds:pets", Options())

    def test_another_file_format_is_told(self, data_dir: Path) -> None:
        write_tfds(data_dir, "pets", fileFormat="array_record")
        with pytest.raises(BadDataError, match="stored as array_record; prepare it again"):
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
        assert "exec is not allowed" in first.problem[1]
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
            with pytest.raises(ValueError, match=r"not a plain pickle: .* is not allowed"):
                cifar10.loads(pickle.dumps({b"x": evil}, protocol))

    def test_a_pickle_cannot_change_what_it_may_call(self) -> None:
        # numpy's _reconstruct with a state, as BUILD would set attributes on it.
        program = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x01\x00\x00\x00aK\x01sb."
        with pytest.raises(ValueError, match="a state for a function"):
            cifar10.loads(program)

    def test_a_file_of_another_length_is_refused(self, tmp_path: Path) -> None:
        self.binary_version(tmp_path)
        path = tmp_path / "data_batch_1.bin"
        path.write_bytes(path.read_bytes()[:-1])
        assert "not a whole number" in problems(tmp_path)["data_batch_1.bin#00000"]

    def test_a_folder_without_batches(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match="no batches of CIFAR-10; unpack"):
            list_data(f"cifar10:{tmp_path}", Options())


def test_digits_are_whole_and_always_the_same() -> None:
    found = items("digits")
    assert len(found) == IMAGES
    assert {item.label for item in found.values()} == set("0123456789")
    pixels = np.asarray(Image.open(io.BytesIO(found["0/0000.png"].load())))
    assert pixels.shape == (8, 8, 3)
    assert pixels[0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    # The split follows from these bytes.
    assert hashlib.sha256(found["0/0000.png"].load()).hexdigest()[:8] == "f460f17e"


class MemoryFileSystem(AbstractFileSystem):
    """Files of a dict, at mem://."""

    protocol = "mem"
    content: dict[str, bytes] = {}

    def _name(self, path: str) -> str:
        return f"mem://{self._strip_protocol(path)}"

    def info(self, path: str, **_: object) -> dict[str, Any]:
        if (name := self._name(path)) not in self.content:
            raise FileNotFoundError(path)
        data = self.content[name]
        about = {"name": self._strip_protocol(path), "size": len(data), "type": "file"}
        return about | {"ETag": f"crc of {data!r}"}

    def exists(self, path: str, **_: object) -> bool:
        return self._name(path) in self.content

    def find(self, path: str, **_: object) -> dict[str, dict[str, Any]]:
        below = f"{self._name(path)}/"
        names = [name for name in self.content if name.startswith(below)]
        return {self._strip_protocol(name): self.info(name) for name in names}

    def open(self, path: str, *_: object, **__: object) -> io.BytesIO:
        self.info(path)
        return io.BytesIO(self.content[self._name(path)])

    def cat_file(self, path: str, *_: object, end: int | None = None, **__: object) -> bytes:
        return self.open(path).read()[:end]

    def get_file(self, rpath: str, lpath: str, **_: object) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))


class TestRemote:
    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
        content: dict[str, bytes] = {}
        monkeypatch.setattr(MemoryFileSystem, "content", content)
        fsspec.register_implementation("mem", MemoryFileSystem, clobber=True)
        return content

    def test_a_folder(self, store: dict[str, bytes]) -> None:
        store |= {
            "mem://b/pets/cat/1.png": b"one",
            "mem://b/pets/dog/x/2.PNG": b"two",
            "mem://b/pets/dog/.hidden.png": b"",
            "mem://b/pets/dog/notes.txt": b"",
            "mem://b/other/3.png": b"",
        }
        found = items("mem://b/pets")
        assert {n: (i.label, i.load()) for n, i in found.items()} == {
            "cat/1.png": ("cat", b"one"),
            "dog/x/2.PNG": ("dog", b"two"),
        }

    def test_the_fingerprint_asks_the_store_and_reads_nothing(
        self, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def of() -> str:
            return digest("mem://b/pets")

        store["mem://b/pets/cat/1.png"] = b"one"
        monkeypatch.setattr(MemoryFileSystem, "open", None)
        before = of()
        assert of() == before
        store["mem://b/pets/cat/1.png"] = b"two"
        assert of() != before

    def test_a_manifest_and_a_file_that_is_gone(self, store: dict[str, bytes]) -> None:
        store["mem://b/list.csv"] = b"path,label\n1.png,cat\nmem://b/no.png,dog\n"
        store["mem://b/1.png"] = b"one"
        found = items("mem://b/list.csv")
        assert found["1.png"].load() == b"one"
        with pytest.raises(files.Unusable, match="unreadable"):
            found["mem://b/no.png"].load()

    def test_a_store_that_does_not_answer_is_asked_once_and_not_for_long(
        self, store: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        forever = threading.Event()

        def exists(_: object, path: str, **__: object) -> bool:
            asked.append(path)
            return forever.wait(60)

        monkeypatch.setattr(MemoryFileSystem, "exists", exists)
        opened: list[str] = []
        monkeypatch.setattr(MemoryFileSystem, "open", lambda _, path, *__: opened.append(path))
        monkeypatch.setattr(files, "REACH_S", 0.1)
        put(tmp_path, "1.png")
        rows = [f"mem://gone/{number}.png,dog" for number in range(50)]
        (tmp_path / "list.csv").write_text("\n".join(["path,label", "1.png,cat", *rows]))
        try:
            found = problems(tmp_path / "list.csv")
            units = scan(list_data(str(tmp_path / "list.csv"), Options()))
        finally:
            forever.set()
        assert sum(entry.problem is not None for unit in units for entry in unit) == 50
        assert opened == []  # nor is any read, which would take minutes each
        assert len(found) == 50
        assert all(text.startswith("unreachable: mem://gone: no answer") for text in found.values())
        assert asked == ["mem://gone/0.png"] * 2  # for the one listing and the other

    def test_what_only_a_client_raises_is_a_row(
        self, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As Google's does, whose errors are no OSErrors."""

        class RetryError(Exception):
            pass

        def fail(*_: object, **__: object) -> None:
            raise RetryError("Timeout of 120.0s exceeded")

        for method in ("cat_file", "info"):
            monkeypatch.setattr(MemoryFileSystem, method, fail)
        with pytest.raises(files.Unusable, match="RetryError: Timeout") as told:
            files.read("mem://bucket/1.png", 100)
        assert told.value.kind == "unreachable"
        assert files.digest("mem://bucket/1.png") == ""

    def test_what_a_client_says_is_told(
        self, store: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def exists(_: object, path: str, **__: object) -> bool:
            raise RuntimeError(f"no credentials for {path}\nand a long story")

        monkeypatch.setattr(MemoryFileSystem, "exists", exists)
        (tmp_path / "list.csv").write_text("path,label\nmem://b/1.png,cat\n")
        (problem,) = problems(tmp_path / "list.csv").values()
        assert problem.endswith("RuntimeError: no credentials for mem://b/1.png")

    def test_records(self, store: dict[str, bytes], tmp_path: Path) -> None:
        path = write_records(tmp_path / "x.tfrecord", example(image=IMAGE, label=1))
        store["mem://b/x-train.tfrecord"] = path.read_bytes()
        (item,) = items("mem://b/x-train.tfrecord").values()
        assert (item.label, item.split, item.load()) == ("1", "train", IMAGE)

    def test_a_client_that_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "adlfs", None)  # an extra, which may be installed
        with pytest.raises(BadDataError, match=r"az:// needs a client that is not installed.*adl"):
            list_data("az://bucket/pets", Options())

    @pytest.mark.parametrize("scheme", ["ftp", "what"])
    def test_a_scheme_that_nothing_reads(self, scheme: str) -> None:
        with pytest.raises(BadDataError, match=f"{scheme}:// is no storage.*copy the data"):
            list_data(f"{scheme}://host/pets", Options())


def test_gzip_is_told_from_its_content(tmp_path: Path) -> None:
    plain = write_records(tmp_path / "x.tfrecord", example(image=IMAGE, label=1))
    plain.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(labels(plain).values()) == ["1"]
