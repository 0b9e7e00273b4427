"""Images that differ in encoding, size or brightness only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components import features
from components.image_example_gen import near_duplicates
from components.image_example_gen.accounting import read_accounting
from components.image_example_gen.images import read_image
from tests.kit import image_corpus as corpus
from tests.kit.ingested import by_split, check, execute, value
from tests.kit.pictures import photo


def thumb(data: bytes) -> bytes:
    return read_image(data, 10**7).thumb


def pairs_of(thumbs: Sequence[bytes]) -> list[near_duplicates.Pair]:
    return near_duplicates.find(np.frombuffer(b"".join(thumbs), np.uint8).reshape(-1, 243))


class TestNearDuplicates:
    @pytest.mark.parametrize(
        "copy",
        [
            lambda image: corpus.encoded(image, "JPEG", quality=60),
            lambda image: corpus.encoded(image.resize((100, 75)), "PNG"),
            lambda image: corpus.encoded(image.resize((333, 250)), "WEBP"),
            lambda image: corpus.encoded(image.point(lambda v: min(255, v + 4)), "JPEG"),
        ],
        ids=["recompressed", "smaller", "larger", "brighter"],
    )
    def test_copies_are_found_among_others(self, copy: Any) -> None:
        photos = [photo(seed) for seed in range(40)]
        thumbs = [thumb(corpus.encoded(image, "JPEG", quality=95)) for image in photos]
        thumbs += [thumb(copy(image)) for image in photos[:10]]
        assert pairs_of(thumbs) == [(n, 40 + n) for n in range(10)]

    def test_plain_images_of_other_colours_are_not_the_same(self) -> None:
        colors = [(0, 0, 0), (255, 255, 255), (200, 0, 0), (0, 100, 0), (120, 120, 120)]
        plain = [corpus.encoded(Image.new("RGB", (20, 20), color), "PNG") for color in colors]
        assert pairs_of([thumb(data) for data in [*plain, plain[2]]]) == [(2, 5)]

    @pytest.mark.parametrize("count", [0, 1])
    def test_of_too_few(self, count: int) -> None:
        assert pairs_of([bytes(243)] * count) == []

    def test_many_that_look_the_same_cost_no_more_than_their_number(self) -> None:
        pairs = pairs_of([bytes(243)] * 2000)
        assert len(pairs) <= 2000 * near_duplicates.NEIGHBOURS
        assert near_duplicates.groups(pairs) == [list(range(2000))]

    @given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20))
    def test_groups_are_what_pairs_connect(self, edges: list[tuple[int, int]]) -> None:
        pairs = [near_duplicates.Pair(*sorted(edge)) for edge in edges if edge[0] != edge[1]]
        groups = near_duplicates.groups(pairs)
        of = {member: number for number, group in enumerate(groups) for member in group}
        assert all(of[first] == of[second] for first, second in pairs)
        assert sum(map(len, groups)) == len(of) == len({n for pair in pairs for n in pair})
        # As many groups as nodes less the edges of a forest.
        reach = {node: {node} for node in of}
        for _ in of:
            for first, second in pairs:
                joined = reach[first] | reach[second]
                for node in joined:
                    reach[node] = joined
        assert sorted({tuple(sorted(nodes)) for nodes in reach.values()}) == list(
            map(tuple, groups)
        )

    @pytest.fixture
    def doubled(self, tmp_path: Path) -> Path:
        """20 photos a class, each also recompressed; one of them in the other class."""
        root = tmp_path / "doubled"
        for seed in range(40):
            folder = root / ("cat" if seed < 20 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{seed}.png").write_bytes(corpus.encoded(photo(seed), "PNG"))
            (folder / f"{seed} again.jpg").write_bytes(corpus.encoded(photo(seed), "JPEG"))
        (root / "cat" / "0 again.jpg").rename(root / "dog" / "wrong.jpg")
        return root

    def test_are_reported_across_splits_and_classes(self, doubled: Path) -> None:
        result = check(doubled)
        counts = result.accounting.near_duplicates
        assert counts["pairs"] == 40
        assert counts["across_classes"] == 1
        assert 0 < counts["across_splits"] < 40
        assert result.near_duplicates[0]["paths"] == ["cat/0.png", "dog/wrong.jpg"]
        assert len(result.near_duplicates) == 40
        assert any(
            re.match(r"\d+ pairs .* splits.*data\.group_near_duplicates", text)
            for text in result.accounting.findings
        )
        assert any("cat/0.png = dog/wrong.jpg" in text for text in result.accounting.findings)

    def test_can_be_put_into_one_split(self, doubled: Path, tmp_path: Path) -> None:
        examples = execute(doubled, tmp_path / "out", group_near_duplicates=True)
        record = read_accounting(examples.uri)
        assert record.near_duplicates["across_splits"] == 0
        assert record.near_duplicates["pairs"] == 40
        written = by_split(examples)
        names = [
            value(example, features.FILENAME) for split in written.values() for example in split
        ]
        assert len(names) == len(set(names)) == 80
        for split, found in written.items():
            counts = Counter(value(example, features.LABEL_TEXT) for example in found)
            assert counts == record.splits[split]

    def test_splits_of_the_source_draw_and_stay(self, tmp_path: Path) -> None:
        rows = ["path,label,split"]
        for seed in range(20):
            for name, split in (("a", "test" if seed < 10 else ""), ("b", "")):
                quality = 95 if name == "a" else 70
                data = corpus.encoded(photo(seed), "JPEG", quality=quality)
                (tmp_path / f"{seed}{name}.jpg").write_bytes(data)
                rows.append(f"{seed}{name}.jpg,{'xy'[seed % 2]},{split}")
        (tmp_path / "list.csv").write_text("\n".join(rows))
        result = check(tmp_path / "list.csv", group_near_duplicates=True)
        assert result.accounting.near_duplicates == {
            "pairs": 20,
            "across_splits": 0,
            "across_classes": 0,
        }
        assert result.accounting.examples("test") == 20
