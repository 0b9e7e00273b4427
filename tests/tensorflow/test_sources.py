"""Data sources: what each takes for an input, its class and its split."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.errors import BadDataError
from components.image_example_gen import files
from components.image_example_gen.dataset import list_data
from components.image_example_gen.options import Options
from components.image_example_gen.source_name import parse
from components.image_example_gen.sources.digits import IMAGES
from tests.kit import image_corpus as corpus
from tests.kit.data_sources import digest, items, labels, problems
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
        with pytest.raises(BadDataError, match=r"photos\.tar\.gz: .*unpack"):
            list_data(str(tmp_path / "photos.tar.gz"), Options())

    def test_a_file_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "photos.dat").touch()
        with pytest.raises(
            BadDataError, match=r"photos\.dat: .*\.csv, \.tsv, \.jsonl or \.parquet"
        ):
            list_data(str(tmp_path / "photos.dat"), Options())

    @pytest.mark.parametrize("name", ["list.xlsx", "list.xls", "list.ods"])
    def test_a_spreadsheet_is_to_be_saved_as_csv(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()
        with pytest.raises(BadDataError, match=rf"{name}: .*CSV UTF-8"):
            list_data(str(tmp_path / name), Options())


class TestFolder:
    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match="/absent: "):
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
        with pytest.raises(files.Unusable, match=r"data\.max_pixels") as caught:
            item.load()
        assert caught.value.kind == "too large"


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


def test_digits_are_whole_and_always_the_same() -> None:
    found = items("digits")
    assert len(found) == IMAGES
    assert {item.label for item in found.values()} == set("0123456789")
    pixels = np.asarray(Image.open(io.BytesIO(found["0/0000.png"].load())))
    assert pixels.shape == (8, 8, 3)
    assert pixels[0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    # The split follows from these bytes.
    assert hashlib.sha256(found["0/0000.png"].load()).hexdigest()[:8] == "f460f17e"
