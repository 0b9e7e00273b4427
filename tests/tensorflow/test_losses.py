"""Data that is gone stops a retraining, and whatever ends one is told."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from components.image_example_gen.options import Options
from pipeline.retraining import losses
from pipeline.retraining.inventory import Entry, Inventory
from pipeline.retraining.losses import Losses


def images(label: str, count: int, span: int = 0, first: int = 0) -> dict[str, Entry]:
    return {
        f"{span}/{label}/{n}.png": Entry(f"{label}{n}", label, span)
        for n in range(first, first + count)
    }


BEFORE = {**images("cat", 60), **images("dog", 60)}


class TestWhatIsGone:
    @pytest.mark.parametrize(
        ("now", "expected", "stops"),
        [
            pytest.param(BEFORE, Losses(0, 120), False, id="nothing"),
            pytest.param(
                {**images("cat", 5), **images("dog", 5)},
                Losses(110, 120, ("cat", "dog")),
                True,
                id="a half-mounted disk",
            ),
            pytest.param({}, Losses(120, 120, ("cat", "dog")), True, id="an empty disk"),
            pytest.param(images("cat", 60), Losses(60, 120, ("dog",)), True, id="a class"),
            pytest.param(
                {**images("cat", 60), **images("dog", 2)},
                Losses(58, 120, ("dog",)),
                True,
                id="all but a rest of a class",
            ),
            pytest.param(
                {**images("cat", 54), **images("dog", 54)}, Losses(12, 120), False, id="a tenth"
            ),
            pytest.param(
                {**images("cat", 54), **images("dog", 53)},
                Losses(13, 120),
                True,
                id="more than a tenth",
            ),
            pytest.param(
                {name.replace("0/", "1/"): entry for name, entry in BEFORE.items()},
                Losses(0, 120),
                False,
                id="moved",
            ),
            pytest.param(
                {
                    **images("cat", 60),
                    **{f"0/hound/{n}.png": Entry(f"dog{n}", "hound", 0) for n in range(60)},
                },
                Losses(0, 120, (), ("dog",)),
                False,
                id="a renamed class",
            ),
            pytest.param(
                {
                    name: entry._replace(sha256=f"{entry.sha256} anew")
                    for name, entry in BEFORE.items()
                },
                Losses(0, 120),
                False,
                id="changed",
            ),
            pytest.param(
                {
                    **images("cat", 60),
                    **{n: e._replace(sha256="") for n, e in images("dog", 60).items()},
                },
                Losses(60, 120, ("dog",)),
                True,
                id="files that cannot be read",
            ),
            pytest.param(
                {
                    **images("cat", 60),
                    **{n: e._replace(sha256=losses._EMPTY) for n, e in images("dog", 60).items()},
                },
                Losses(60, 120, ("dog",)),
                True,
                id="empty files",
            ),
            pytest.param(
                {**images("cat", 60), **images("owl", 500), **images("dog", 1)},
                Losses(59, 120, ("dog",)),
                True,
                id="however much is new",
            ),
        ],
    )
    def test_is_told_by_content(self, now: Inventory, expected: Losses, stops: bool) -> None:
        found = losses.find(BEFORE, now, [0], Options())
        assert found == expected
        assert found.exceed(0.1) is stops
        assert not found.exceed(1.0)

    @pytest.mark.parametrize(
        ("labels", "relabelled", "confused"),
        [
            pytest.param({"cat": "dog", "dog": "cat"}, 120, ("cat", "dog"), id="swapped"),
            pytest.param({"dog": "hound"}, 0, (), id="renamed"),
            pytest.param({"dog": "cat"}, 0, (), id="merged"),
            pytest.param({"dog0": "cat", "dog1": "cat"}, 2, (), id="corrected"),
            pytest.param({"dog0": "puppy", "dog1": "puppy"}, 0, (), id="divided"),
            pytest.param({f"dog{n}": "cat" for n in range(13)}, 13, (), id="more than a tenth"),
            pytest.param({f"dog{n}": "cat" for n in range(30)}, 30, ("dog",), id="half of one"),
        ],
    )
    def test_labels_that_were_confused(
        self, labels: dict[str, str], relabelled: int, confused: tuple[str, ...]
    ) -> None:
        def label(entry: Entry) -> str:
            return labels.get(entry.sha256, labels.get(entry.label, entry.label))

        now = {name: entry._replace(label=label(entry)) for name, entry in BEFORE.items()}
        found = losses.find(BEFORE, now, [0], Options())
        assert (found.relabelled, found.confused) == (relabelled, confused)
        assert found.contradict(0.1) is (relabelled > 12)
        assert not found.contradict(1.0)
        # By a later span, as feedback gives them, the same.
        later = {f"1/{name}": entry._replace(span=1) for name, entry in now.items()}
        assert losses.find(BEFORE, {**BEFORE, **later}, [0, 1], Options()).relabelled == relabelled

    def test_a_small_class_is_confused_by_five_images(self) -> None:
        before = {**images("cat", 1000), **images("owl", 9), **images("kite", 4)}
        now = {
            name: entry._replace(label="cat") if entry.sha256 in moved else entry
            for moved in [{*(f"owl{n}" for n in range(5)), *(f"kite{n}" for n in range(3))}]
            for name, entry in before.items()
        }
        found = losses.find(before, now, [0], Options())
        assert (found.relabelled, found.confused) == (8, ("owl",))
        assert found.contradict(0.1)

    def test_copies_and_what_was_quarantined_do_not_count(self) -> None:
        copies = {f"copy {name}": entry for name, entry in BEFORE.items()}
        junk = {f"junk{n}": Entry(f"junk{n}", "cat", 0, is_used=False) for n in range(500)}
        found = losses.find({**BEFORE, **copies, **junk}, BEFORE, [0], Options())
        assert found == Losses(0, 120)

    def test_a_small_vanished_class_stops_where_the_share_does_not(self) -> None:
        before = {**images("cat", 1000), **images("owl", 3)}
        found = losses.find(before, images("cat", 1000), [0], Options())
        assert found == Losses(3, 1003, ("owl",))
        assert found.exceed(0.1)
        assert re.match(r"3 of 1,003 .*'owl'$", str(found))


class TestSpans:
    BEFORE = {
        name: entry
        for span in (1, 2, 3)
        for name, entry in images("cat", 9, span, 10 * span).items()
    }

    def of(self, *spans: int) -> Inventory:
        return {name: entry for name, entry in self.BEFORE.items() if entry.span in spans}

    @pytest.mark.parametrize(
        ("there", "options", "lost"),
        [
            pytest.param((2, 3, 4), Options(spans=3), 0, id="a rolling window"),
            pytest.param((2, 3), Options(spans=3), 9, id="a span that is gone from the window"),
            pytest.param((1, 3, 4), Options(spans=3), 9, id="one from its middle"),
            pytest.param((2, 3), Options(spans=10_000, held_out="all"), 9, id="of all spans one"),
            pytest.param((4,), Options(spans=1, held_out="all"), 27, id="held out, and gone"),
            pytest.param((2, 3), Options(first_span=2), 0, id="from a span on"),
            pytest.param((1,), Options(last_span=2), 9, id="up to a span"),
        ],
    )
    def test_a_window_leaves_spans_behind(
        self, there: tuple[int, ...], options: Options, lost: int
    ) -> None:
        now = {**self.of(*there), **images("cat", 9, 4, 40)}
        assert losses.find(self.BEFORE, now, there, options).images == lost


def test_losses_are_json() -> None:
    assert json.loads(json.dumps(Losses(1, 2, ("cat",)).as_json()))["vanished"] == ["cat"]
    assert dataclasses.asdict(Losses())["images"] == 0
