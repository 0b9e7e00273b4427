"""Labels that people correct become the next span."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from components.image_example_gen.options import Options
from pipeline.errors import ConfigError, DataError
from pipeline.retraining import feedback, inventory


class TestFeedback:
    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        folder = tmp_path / "inbox"
        folder.mkdir()
        for number in range(4):
            Image.new("RGB", (5, 5), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / "broken.png").write_bytes(b"\x89PNG no")
        return folder

    def table(self, images: Path, *rows: str, header: str = "image,label") -> Path:
        path = images / "feedback.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    def test_becomes_the_next_span(self, images: Path, tmp_path: Path) -> None:
        source = f"{tmp_path}/data/{{SPAN:3}}"
        (tmp_path / "data" / "007" / "cat").mkdir(parents=True)
        made = feedback.add(self.table(images, "0.png,cat", "1.png,dog"), source)
        assert made.span == tmp_path / "data" / "008"
        assert sorted(path.parent.name for path in made.span.glob("*/*.png")) == ["cat", "dog"]
        assert str(made) == "2 rows = 2 images + 0 duplicates + 0 bad"
        found, spans = inventory.take(source, Options(spans=99), tmp_path / "memo")
        assert spans == [7, 8]
        assert sorted(entry.label for entry in found.values()) == ["cat", "dog"]

    def test_every_row_is_accounted_for(self, images: Path, tmp_path: Path) -> None:
        table = self.table(
            images,
            "0.png,cat",
            "0.png,cat",
            "1.png,cat",
            "1.png,dog",
            "absent.png,cat",
            "broken.png,cat",
            "2.png,",
            ",cat",
            "3.png,../cat",
        )
        made = feedback.add(table, f"{tmp_path}/data/{{SPAN}}")
        assert str(made) == "9 rows = 1 image + 1 duplicate + 7 bad"
        assert [row.line for row in made.bad] == [4, 5, 6, 7, 8, 9, 10]
        assert "labelled 'cat', 'dog'" in made.bad[0].reason
        lines = (made.span / feedback.BAD_ROWS).read_text().splitlines()
        assert [json.loads(line)["line"] for line in lines] == [4, 5, 6, 7, 8, 9, 10]

    def known(self, images: Path, root: Path) -> str:
        for number, label in enumerate(("cat", "horse")):
            folder = root / "data" / "1" / label
            folder.mkdir(parents=True)
            content = (images / f"{number}.png").read_bytes()
            (folder / "a.png").write_bytes(content)
        return f"{root}/data/{{SPAN}}"

    def test_a_label_that_is_no_class_is_refused_with_the_nearest(
        self, images: Path, tmp_path: Path
    ) -> None:
        source = self.known(images, tmp_path)
        labels = ["cat", "hrose", "Cat", "zebra"]
        rows = [f"{number % 2}.png,{label}" for number, label in enumerate(labels)]
        made = feedback.add(self.table(images, *rows), source)
        assert (made.images, [row.label for row in made.bad]) == (1, labels[1:])
        reasons = {row.label: row.reason for row in made.bad}
        assert re.search("'hrose'; 'horse' .*--new-class", reasons["hrose"])
        assert re.search("'Cat'; 'cat' ", reasons["Cat"])
        assert "'cat'" not in reasons["zebra"]
        assert "--new-class" in reasons["zebra"]

    def test_a_new_class_is_let_through_where_it_is_named(
        self, images: Path, tmp_path: Path
    ) -> None:
        source, table = self.known(images, tmp_path), self.table(images, "0.png,zebra")
        with pytest.raises(DataError, match=r"line 2: .*'zebra'.*--new-class"):
            feedback.add(table, source)
        assert feedback.add(table, source, new_classes=["zebra"]).images == 1

    def test_a_new_class_that_looks_like_one_is_not(self, images: Path, tmp_path: Path) -> None:
        source, table = self.known(images, tmp_path), self.table(images, "0.png,CAT")
        with pytest.raises(DataError, match=r"line 2: .*'CAT'; 'cat' "):
            feedback.add(table, source, new_classes=["CAT"])

    def test_nothing_usable_writes_nothing(self, images: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"line 2: No such file"):
            feedback.add(self.table(images, "absent.png,cat"), f"{tmp_path}/data/{{SPAN}}")
        assert not (tmp_path / "data").exists()

    def test_columns_must_be_named(self, images: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"image and label, .*picture, label"):
            feedback.add(
                self.table(images, "0.png,cat", header="picture,label"), f"{tmp_path}/{{SPAN}}"
            )

    def test_needs_spans(self, images: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="SPAN"):
            feedback.add(self.table(images, "0.png,cat"), str(tmp_path))
