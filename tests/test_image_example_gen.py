"""ImageExampleGen: what it reads, how it splits, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tfx.orchestration.portable import data_types
from tfx.types import standard_artifacts

from components import features
from components.errors import BadDataError
from components.image_example_gen import digits, folder
from components.image_example_gen.accounting import Accounting, read_accounting
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.driver import Driver
from components.image_example_gen.executor import Executor, chunks, split_of, to_example

BEAM_ARGS = ["--runner=FnApiRunner", "--direct_running_mode=in_memory"]
SPLITS = {"train": 4, "eval": 1}
hex_digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


def ingest(root: Path, output: Path, splits: dict[str, int]) -> standard_artifacts.Examples:
    examples = standard_artifacts.Examples()
    examples.uri = str(output)
    context = Executor.Context(beam_pipeline_args=BEAM_ARGS, tmp_dir=str(output / ".tmp"))
    Executor(context).Do(
        {}, {"examples": [examples]}, {"input_base": str(root), "splits": json.dumps(splits)}
    )
    return examples


def records(examples: standard_artifacts.Examples, split: str) -> list[tf.train.Example]:
    files = sorted(Path(examples.uri, f"Split-{split}").iterdir())
    return [
        tf.train.Example.FromString(record.numpy())
        for record in tf.data.TFRecordDataset([str(file) for file in files])
    ]


def text(example: tf.train.Example, name: str) -> str:
    return example.features.feature[name].bytes_list.value[0].decode()


def number(example: tf.train.Example, name: str) -> int:
    return example.features.feature[name].int64_list.value[0]


class TestListing:
    def test_takes_images_of_class_folders_sorted_and_ignores_the_rest(
        self, two_classes: Path
    ) -> None:
        (two_classes / "README.txt").write_text("notes")
        (two_classes / "cat" / "notes.txt").write_text("notes")
        (two_classes / "cat" / ".hidden.png").write_bytes(b"")
        (two_classes / ".git").mkdir()
        shutil.copy(two_classes / "cat" / "00.png", two_classes / "cat" / "UPPER.PNG")

        files = folder.list_images(two_classes)

        assert len(files) == 81
        assert files == sorted(files)
        assert "cat/UPPER.PNG" in {file.name for file in files}
        assert folder.class_names(files) == ["cat", "dog"]

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match="no such folder"):
            folder.list_images(tmp_path / "absent")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match=f"{tmp_path}: no images found; expected <class"):
            folder.list_images(tmp_path)

    def test_one_class_only(self, two_classes: Path) -> None:
        shutil.rmtree(two_classes / "dog")
        with pytest.raises(BadDataError, match="only one class, 'cat'"):
            folder.list_images(two_classes)

    def test_unreadable_file_is_named(self, two_classes: Path) -> None:
        file = two_classes / "cat" / "00.png"
        file.unlink()
        file.symlink_to("/proc/self/mem")  # opens, but cannot be read, even by root
        with pytest.raises(BadDataError, match=f"{file}: cannot be read"):
            folder.read(two_classes, folder.SourceFile("cat/00.png", "cat"))


class TestFingerprint:
    def fingerprint(self, root: Path) -> str:
        return folder.content_fingerprint(root, folder.list_images(root))

    def test_touching_a_file_changes_nothing(self, two_classes: Path) -> None:
        before = self.fingerprint(two_classes)
        os.utime(two_classes / "cat" / "00.png", (1, 1))
        assert self.fingerprint(two_classes) == before

    def test_a_file_moved_to_another_class_counts(self, two_classes: Path) -> None:
        before = self.fingerprint(two_classes)
        (two_classes / "cat" / "00.png").rename(two_classes / "dog" / "cat00.png")
        assert self.fingerprint(two_classes) != before

    def test_one_byte_counts(self, two_classes: Path) -> None:
        before = self.fingerprint(two_classes)
        file = two_classes / "cat" / "00.png"
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
        assert self.fingerprint(two_classes) != before

    def test_driver_puts_it_on_the_execution_and_on_the_artifact(self, two_classes: Path) -> None:
        examples = standard_artifacts.Examples()
        output = Driver(None).run(
            data_types.ExecutionInfo(
                exec_properties={"input_base": str(two_classes), "splits": "{}"},
                output_dict={"examples": [examples]},
            )
        )
        expected = self.fingerprint(two_classes)
        assert output.exec_properties["input_fingerprint"].string_value == expected
        (artifact,) = output.output_artifacts["examples"].artifacts
        assert artifact.custom_properties["input_fingerprint"].string_value == expected


class TestSplits:
    @given(hex_digests, st.integers(1, 100), st.integers(1, 100))
    def test_depends_on_content_and_shares_only(self, digest: str, train: int, held: int) -> None:
        position = int(digest, 16) % (train + held)
        expected = "train" if position < train else "eval"
        assert split_of(digest, {"train": train, "eval": held}) == expected

    @given(st.sets(hex_digests, min_size=1, max_size=50), hex_digests)
    def test_new_data_moves_nothing(self, old: set[str], new: str) -> None:
        before = {digest: split_of(digest, SPLITS) for digest in old}
        after = {digest: split_of(digest, SPLITS) for digest in old | {new}}
        assert before.items() <= after.items()

    def test_shares_are_met(self) -> None:
        import hashlib

        digests = (hashlib.sha256(str(i).encode()).hexdigest() for i in range(20_000))
        counts = Counter(
            split_of(digest, {"train": 80, "eval": 15, "test": 5}) for digest in digests
        )
        assert counts["train"] == pytest.approx(16_000, rel=0.02)
        assert counts["eval"] == pytest.approx(3_000, rel=0.05)
        assert counts["test"] == pytest.approx(1_000, rel=0.1)

    def test_component_refuses_a_split_without_a_share(self) -> None:
        with pytest.raises(ValueError, match="at least one hash bucket"):
            ImageExampleGen(input_base="x", splits={"train": 1, "eval": 0}, code="")


class TestExample:
    @pytest.mark.parametrize(
        ("image_format", "mode", "channels"),
        [
            ("PNG", "L", 1),
            ("PNG", "RGBA", 4),
            ("JPEG", "RGB", 3),
            ("GIF", "P", 3),
            ("BMP", "RGB", 3),
        ],
    )
    def test_records_what_the_file_is(
        self, image_bytes: Callable[..., bytes], image_format: str, mode: str, channels: int
    ) -> None:
        data = image_bytes(image_format, size=(7, 5), mode=mode)
        example = to_example(data, folder.SourceFile("ä b/1.x", "ä b"), 3)
        assert example.features.feature[features.IMAGE].bytes_list.value == [data]
        assert text(example, features.FORMAT) == image_format.lower()
        assert text(example, features.LABEL_TEXT) == "ä b"
        assert number(example, features.LABEL) == 3
        assert number(example, features.WIDTH) == 7
        assert number(example, features.HEIGHT) == 5
        assert number(example, features.CHANNELS) == channels
        assert number(example, features.BYTES) == len(data)

    @pytest.mark.parametrize(
        "damage", [lambda d: b"", lambda d: d[: len(d) // 2], lambda d: b"no image"]
    )
    def test_a_broken_file_is_named(
        self, image_bytes: Callable[..., bytes], damage: Callable[[bytes], bytes]
    ) -> None:
        data = damage(image_bytes("JPEG", size=(64, 64)))
        with pytest.raises(BadDataError, match=r"cat/1\.jpg: not a readable image"):
            to_example(data, folder.SourceFile("cat/1.jpg", "cat"), 0)

    def test_an_unsupported_format_behind_a_known_extension(
        self, image_bytes: Callable[..., bytes]
    ) -> None:
        with pytest.raises(BadDataError, match="the content is tiff"):
            to_example(image_bytes("TIFF"), folder.SourceFile("cat/1.png", "cat"), 0)


class TestExecutor:
    def test_every_image_is_written_once_to_the_split_of_its_content(
        self, two_classes: Path, tmp_path: Path
    ) -> None:
        examples = ingest(two_classes, tmp_path / "out", SPLITS)

        names = []
        for split in SPLITS:
            for example in records(examples, split):
                names.append(text(example, features.FILENAME))
                assert split_of(text(example, features.SHA256), SPLITS) == split
                data = example.features.feature[features.IMAGE].bytes_list.value[0]
                assert data == (two_classes / names[-1]).read_bytes()
        assert sorted(names) == [file.name for file in folder.list_images(two_classes)]
        accounting = read_accounting(examples.uri)
        assert accounting.classes == ["cat", "dog"]
        assert accounting.examples("train") + accounting.examples("eval") == 80

    def test_chunks_cover_every_file_once(
        self, two_classes: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("components.image_example_gen.executor.CHUNK_BYTES", 1000)
        files = folder.list_images(two_classes)
        cut = chunks(two_classes, files)
        assert len(cut) > 2
        assert sorted(file for chunk in cut for file, _ in chunk.files) == files

    def test_a_class_missing_from_a_split_stops_the_run(self) -> None:
        accounting = Accounting(
            classes=["cat", "dog"], splits={"train": {"cat": 3, "dog": 2}, "eval": {"cat": 1}}
        )
        accounting.check_splits(["train"], "/data")
        with pytest.raises(BadDataError, match="the eval split has no image of 'dog'"):
            accounting.check_splits(["train", "eval"], "/data")


class TestDigits:
    def test_are_written_once_and_whole(self, tmp_path: Path) -> None:
        target = tmp_path / "digits"
        digits.write_digits(target)
        files = folder.list_images(target)
        assert len(files) == digits.IMAGES
        assert len(folder.class_names(files)) == digits.CLASSES
        (target / "0" / "0000.png").unlink()
        digits.write_digits(target)
        assert len(folder.list_images(target)) == digits.IMAGES - 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["digits"]
