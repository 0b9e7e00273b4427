"""perennial data show: what is on the page, and that names on it are only text."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from tests import REPO
from tests.kit.cli import perennial, sets

EVIL = "<script>alert(1)<"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("show")
    for offset, label in enumerate((EVIL, 'a"b')):
        (root / "data" / label).mkdir(parents=True)
        for index in range(30):
            image = Image.linear_gradient("L").resize((20, 10)).rotate(8 * index + 4 * offset)
            image.save(root / "data" / label / f'{index} "><img src=x>.png'.replace("/", ""))
    output = root / "page.html"
    command = ["data", "show", root / "data", "--workspace", root / "workspace"]
    command += ["--output", output, "--per-class", "3", "--variants", "2"]
    small = {"transform.image_size": 12, "train.hyperparameters.patch_size": 4}
    result = perennial(*command, *sets(small))
    assert result.exit_code == 0, result.output
    return output.read_text(encoding="utf-8")


def test_every_sample_is_there_before_and_after_augmentation(page: str) -> None:
    images = re.findall(r'<img class="(\w+)".*? src="data:image/png;base64,([^"]+)"', page)
    assert [kind for kind, _ in images] == ["before", "after", "after"] * 6
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for _, data in images}
    assert sizes == {(12, 12)}


def test_augmentation_is_that_of_the_recipe(page: str) -> None:
    images = re.findall(r"base64,([^\"]+)", page)
    assert images[0] != images[1]


def test_names_are_text_and_nothing_else(page: str) -> None:
    assert html.escape(EVIL) in page
    assert "<script" not in page
    assert re.findall(r"<img(?! class=)", page) == []


def test_the_page_loads_nothing(page: str) -> None:
    assert "default-src 'none'" in page
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", page) == []


def test_a_page_that_cannot_be_written_is_named(two_classes: Path, tmp_path: Path) -> None:
    target = tmp_path / "file" / "page.html"
    (tmp_path / "file").touch()
    command = ("data", "show", two_classes, "--workspace", tmp_path / "workspace")
    result = perennial(*command, "--output", target, "--per-class", "1")
    assert result.exit_code == 2
    assert re.search(f"'{target}' .*: File exists", result.output)


def test_reports_samples_and_the_page_of_the_server_have_one_palette() -> None:
    colour = re.compile(r"(--[a-z-]+): (#[0-9a-f]{6})")
    reports = set(colour.findall((REPO / "pipeline/report/templates/style.css").read_text()))
    served = set(colour.findall((REPO / "components/model_server/page.html").read_text()))
    assert {name for name, _ in served} >= {"--ink", "--page", "--card", "--first", "--bad"}
    assert served < reports
    assert "base.html" in (REPO / "pipeline/report/templates/samples.html").read_text()
