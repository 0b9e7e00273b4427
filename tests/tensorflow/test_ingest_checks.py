"""Checks of the images that are ingested."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.errors import BadDataError
from components.image_example_gen.accounting import Accounting
from components.image_example_gen.ingest import (
    split_names,
)
from components.image_example_gen.options import Options
from components.wording import shortened
from tests.kit import image_corpus as corpus
from tests.kit.ingested import SHARES, check
from tests.kit.pictures import photo


class TestChecks:
    def test_a_class_missing_from_a_split_is_named(self) -> None:
        record = Accounting(
            classes=["cat", "dog"], splits={"train": {"cat": 3, "dog": 2}, "eval": {"cat": 1}}
        )
        record.check_splits(["train"], "/data")
        with pytest.raises(BadDataError, match=r"^/data: .*eval .*'dog'; "):
            record.check_splits(["train", "eval"], "/data")

    def test_a_share_that_reaches_no_image_gives_every_class_one(self, two_classes: Path) -> None:
        result = check(two_classes, {"train": 10**9, "eval": 1})
        result.check(split_names({"train": 1, "eval": 1}, result.accounting), "x", Options())
        assert result.accounting.splits["eval"] == {"cat": 1, "dog": 1}

    def test_a_split_of_the_source_that_lacks_a_class_is_an_error(self, two_classes: Path) -> None:
        root = two_classes.with_name("splits")
        shutil.copytree(two_classes, root / "train")
        (root / "train" / "cat" / "00.png").rename(root / "00.png")
        (root / "val" / "cat").mkdir(parents=True)
        (root / "00.png").rename(root / "val" / "cat" / "00.png")
        result = check(root)
        names = split_names(SHARES, result.accounting)
        with pytest.raises(BadDataError, match=r"^x: .*eval .*'dog'; "):
            result.check(names, "x", Options())

    def test_one_class_only(self, two_classes: Path) -> None:
        shutil.rmtree(two_classes / "dog")
        with pytest.raises(BadDataError, match=r"^x: .*one .*'cat'"):
            check(two_classes).check([], "x", Options())

    def test_nothing_to_ingest(self, tmp_path: Path) -> None:
        with pytest.raises(BadDataError, match=f"^{tmp_path}: .*<class name>/<image>"):
            check(tmp_path)
        (tmp_path / "notes.txt").touch()
        with pytest.raises(BadDataError, match=r" 1 other .*1 .*\.txt.*<class name>/<image>"):
            check(tmp_path)
        (tmp_path / "cat").mkdir()
        for name in ("a.mp4", "b.mp4", ".hidden.png"):
            (tmp_path / "cat" / name).touch()
        with pytest.raises(BadDataError, match=r" 4 other .*2 .*\.mp4") as caught:
            check(tmp_path)
        assert "1 hidden" in str(caught.value)

    def test_nothing_but_bad_files(self, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat" / "1.png").touch()
        with pytest.raises(BadDataError, match=r"1 of 1 .*empty"):
            check(tmp_path).check(["train"], "x", Options())
        with pytest.raises(BadDataError, match=r"^x: .*'cat'.* quarantined"):
            check(tmp_path).check(["train"], "x", Options(max_bad_fraction=1))

    @pytest.mark.parametrize("kind", ["empty", "conflict", "link", "unreadable", "unsupported"])
    def test_a_class_that_is_quarantined_as_a_whole(
        self, two_classes: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However few of all images that is."""
        owl = two_classes / "owl"
        match kind:
            case "link":
                (two_classes.parent / "elsewhere").mkdir()
                owl.symlink_to(two_classes.parent / "elsewhere")
            case "unreadable":
                owl.mkdir()
                scandir = os.scandir

                def refuse(path: str) -> Any:
                    if str(path).endswith("/owl"):
                        raise PermissionError(13, "Permission denied")
                    return scandir(path)

                monkeypatch.setattr(os, "scandir", refuse)
            case _:
                owl.mkdir()
                content = {"empty": b"", "unsupported": b"\0\0\0\x18ftypheic" + bytes(40)}
                copied = (two_classes / "cat" / "00.png").read_bytes()
                (owl / "1.png").write_bytes(content.get(kind, copied))
        result = check(two_classes)
        with pytest.raises(BadDataError, match=r"^x: .*'owl'.* quarantined") as told:
            result.check(["train", "eval"], "x", Options(max_bad_fraction=1))
        assert kind in str(told.value)
        assert all(row.startswith("owl") for row in told.value.findings)

    def test_a_class_that_a_later_span_renames_is_not_missed(self, tmp_path: Path) -> None:
        for label in ("cat", "dog", "hound"):
            for number in range(20):
                file = tmp_path / "1" / label / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                color = (number, 40 * len(label), ord(label[0]))
                file.write_bytes(corpus.encoded(Image.new("RGB", (8, 8), color), "PNG"))
        shutil.copytree(tmp_path / "1" / "hound", tmp_path / "2" / "dog")
        result = check(tmp_path / "{SPAN}", spans=2)
        result.check(["train", "eval"], "x", Options(spans=2, max_bad_fraction=1))
        assert result.accounting.classes == ["cat", "dog"]

    @pytest.mark.parametrize("shared", [20, 40])
    def test_images_that_the_source_has_in_two_splits_are_told(
        self, two_classes: Path, shared: int
    ) -> None:
        """They judge and do not train; where that are all, there is nothing to train on."""
        root = two_classes.with_name("splits")
        shutil.copytree(two_classes, root / "train")
        for file in sorted((root / "train").rglob("*.png")):
            if int(file.stem) < shared:
                copy = root / "val" / file.parent.name / f"renamed {file.name}"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
        result = check(root)
        assert result.accounting.examples("eval") == 2 * shared
        assert result.accounting.examples("train") == 80 - 2 * shared
        (finding,) = [each for each in result.accounting.findings if "held-out" in each]
        assert finding.startswith(f"{2 * shared} images of 'train'")
        if shared == 40:
            with pytest.raises(BadDataError, match=r"^x: .*train .*'cat', 'dog'"):
                result.check(["train", "eval"], "x", Options())

    def test_a_lost_input_is_a_bug(self) -> None:
        with pytest.raises(RuntimeError, match=": 3 inputs = 1 example "):
            Accounting(["a"], {"train": {"a": 1}}, inputs=3, duplicates=1).check_balance()

    def test_imbalance_tiny_and_extreme_images_are_told(self, tmp_path: Path) -> None:
        for label, count in (("many", 33), ("few", 3)):
            (tmp_path / label).mkdir()
            for seed in range(count):
                data = corpus.encoded(photo(seed + 100 * count), "PNG")
                (tmp_path / label / f"{seed}.png").write_bytes(data)
        for name, size in (("icon", (9, 9)), ("strip", (600, 100))):
            data = corpus.encoded(photo(1000, *size), "PNG")
            (tmp_path / "many" / f"{name}.png").write_bytes(data)
        assert re.fullmatch(
            r".*: 35 .*'many', 3 .*'few'\n"
            r"1 .* 150 .*: many/icon\.png \(9 x 9\)\n"
            r"1 .* 5 .*: many/strip\.png \(600 x 100\)",
            "\n".join(check(tmp_path).accounting.findings),
        )

    @pytest.mark.parametrize(("count", "text"), [(2, "0, 1"), (3, "0, 1 and 1 more")])
    def test_long_lists_are_shortened(self, count: int, text: str) -> None:
        assert shortened(range(count), limit=2) == text
