"""Comparing traffic with the baseline's data: its rate of false alarms, and what it finds."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats

from components import features
from pipeline.monitoring import compare as comparing
from pipeline.monitoring import gauges, page
from pipeline.monitoring import monitor as monitoring
from pipeline.monitoring.baseline import Answers, Images
from pipeline.monitoring.compare import ACCURACY, compare
from pipeline.monitoring.figures import DRIFTED, LITTLE, STEADY, Report
from pipeline.monitoring.rows import Row
from pipeline.retraining import journal
from pipeline.retraining.decision import RetrainContext, decide
from pipeline.retraining.inventory import DataChanges
from pipeline.settings.retraining import MonitorConfig, ReasonConfig, RetrainConfig

CLASSES = ["cat", "dog", "owl"]
DIMENSIONS = 12
NOW = datetime.datetime(2026, 5, 2, tzinfo=datetime.UTC)
SINCE = NOW - datetime.timedelta(days=1)
CONFIG = MonitorConfig()


class World:
    """Where images come from, and a model that answers about them."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.centres = np.random.default_rng(9).normal(0, 2, (len(CLASSES) + 1, DIMENSIONS))

    def draw(self, count: int, shares: Sequence[float] = (0.5, 0.3, 0.2, 0)) -> dict[str, Any]:
        kinds = self.random.choice(len(shares), count, p=shares)
        embeddings = self.centres[kinds] + self.random.normal(0, 1.2, (count, DIMENSIONS))
        logits = -((embeddings[:, None] - self.centres[None, :-1]) ** 2).sum(axis=2) / 4
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        sides = self.random.choice([300, 320, 480], count)
        return {
            "kinds": kinds,
            "embeddings": embeddings,
            "probabilities": probabilities,
            "height": sides,
            "width": (sides * self.random.uniform(0.9, 1.6, count)).astype(int),
            "mean": self.random.normal(120, 25, count),
            "contrast": self.random.normal(50, 10, count),
            "bytes": self.random.lognormal(10, 0.5, count).astype(int),
            "format": self.random.choice(["jpeg", "png"], count, p=[0.9, 0.1]),
        }

    def baseline(self, count: int = 1500) -> tuple[Images, Answers]:
        drawn, training = self.draw(count), self.draw(count)
        columns = {
            features.HEIGHT: drawn["height"].astype(float),
            features.WIDTH: drawn["width"].astype(float),
            features.ASPECT: drawn["width"] / drawn["height"],
            features.MEAN: drawn["mean"],
            features.CONTRAST: drawn["contrast"],
            features.BYTES: drawn["bytes"].astype(float),
            features.FORMAT: drawn["format"],
            features.CHANNELS: np.full(count, "3"),
        }
        right = drawn["probabilities"].argmax(axis=1) == drawn["kinds"]
        answers = Answers(
            CLASSES, drawn["probabilities"], right, training["embeddings"], drawn["embeddings"]
        )
        return Images(columns), answers


def rows(drawn: Mapping[str, Any], version: int = 1, label: str = "", **fields: Any) -> list[Row]:
    return [
        Row(
            request=str(n),
            position=0,
            time=int(SINCE.timestamp() * 1000) + n,
            protocol="rest",
            model="m",
            label=label,
            version=version,
            sha256=f"{id(drawn)}-{n}",
            format=str(drawn["format"][n]),
            size=int(drawn["bytes"][n]),
            height=int(drawn["height"][n]),
            width=int(drawn["width"][n]),
            channels=3,
            aspect=float(drawn["width"][n] / drawn["height"][n]),
            mean=float(drawn["mean"][n]),
            contrast=float(drawn["contrast"][n]),
            predicted=CLASSES[int(drawn["probabilities"][n].argmax())],
            probabilities=drawn["probabilities"][n],
            embedding=drawn["embeddings"][n],
            **fields,
        )
        for n in range(len(drawn["kinds"]))
    ]


def embed(_: int, found: Sequence[Row]) -> np.ndarray:
    return np.stack([np.asarray(row.embedding) for row in found])


def look(
    found: Sequence[Row],
    images: Images,
    answers: Mapping[int, Answers | str],
    config: MonitorConfig = CONFIG,
) -> Report:
    return compare(found, SINCE, NOW, images, answers, embed, config)


@pytest.fixture(scope="module")
def baseline() -> tuple[Images, Answers]:
    return World(0).baseline()


def names(report: Report) -> set[str]:
    return {check.name for check in report.findings}


class TestFalseAlarms:
    @pytest.mark.parametrize("false_alarms", [0.01, 0.2])
    def test_are_no_more_than_stated(
        self, false_alarms: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Without the least effect, which makes them fewer. TFDV's distances decide nothing.
        config = MonitorConfig(false_alarms=false_alarms, min_effect=0, max_accuracy_drop=0)
        monkeypatch.setattr(comparing, "_divergences", lambda *_: {})
        alarms = 0
        for seed in range(200):
            world = World(1000 + seed)
            images, answers = world.baseline(600)
            alarms += look(rows(world.draw(200)), images, {1: answers}, config).verdict == DRIFTED
        # No more than 999 in 1,000 series of windows with this very rate have.
        assert alarms <= stats.binom.ppf(0.999, 200, false_alarms)
        if false_alarms > 0.1:
            assert alarms  # the tests could find something

    def test_two_hundred_windows_against_one_baseline(
        self, baseline: tuple[Images, Answers], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(comparing, "_divergences", lambda *_: {})
        images, answers = baseline
        world = World(77)
        alarms = sum(
            look(rows(world.draw(200)), images, {1: answers}).verdict == DRIFTED for _ in range(200)
        )
        assert alarms <= stats.binom.ppf(0.999, 200, CONFIG.false_alarms)


class TestFinds:
    def found(self, baseline: tuple[Images, Answers], drawn: Mapping[str, Any]) -> Report:
        images, answers = baseline
        return look(rows(drawn), images, {1: answers})

    def test_darker_images(self, baseline: tuple[Images, Answers]) -> None:
        drawn = World(1).draw(200)
        drawn["mean"] -= 25
        report = self.found(baseline, drawn)
        assert names(report) == {"brightness"}
        (check,) = report.findings
        assert check.about == "images"
        assert check.divergence is not None
        assert check.divergence > 0.05

    def test_other_classes(self, baseline: tuple[Images, Answers]) -> None:
        report = self.found(baseline, World(2).draw(200, (0.2, 0.3, 0.5, 0)))
        assert "predicted classes" in names(report)

    def test_a_new_class(self, baseline: tuple[Images, Answers]) -> None:
        report = self.found(baseline, World(3).draw(200, (0.35, 0.25, 0.1, 0.3)))
        assert "embedding distance" in names(report)

    def test_harder_images(self, baseline: tuple[Images, Answers]) -> None:
        world = World(4)
        drawn = world.draw(400)
        flat = drawn["probabilities"] ** 0.2
        drawn["probabilities"] = flat / flat.sum(axis=1, keepdims=True)
        report = self.found(baseline, drawn)
        assert {"confidence", "entropy", ACCURACY} <= names(report)
        (group,) = report.groups
        assert group.accuracy is not None
        assert group.expected is not None
        assert (group.accuracy.value or 0) < (group.expected.value or 0) - 0.05

    def test_thumbnails(self, baseline: tuple[Images, Answers]) -> None:
        drawn = World(5).draw(200)
        for name in ("height", "width"):
            drawn[name] = np.where(np.arange(200) < 20, drawn[name] // 8, drawn[name])
        assert names(self.found(baseline, drawn)) == {"unseen formats and sizes"}

    def test_an_unseen_format(self, baseline: tuple[Images, Answers]) -> None:
        drawn = World(6).draw(200)
        drawn["format"] = np.where(np.arange(200) < 20, "WebP", drawn["format"])
        assert "unseen formats and sizes" in names(self.found(baseline, drawn))

    def test_versions_that_disagree(self, baseline: tuple[Images, Answers]) -> None:
        images, answers = baseline
        drawn = World(7).draw(300)
        other = {**drawn, "probabilities": np.roll(drawn["probabilities"], 1, axis=1)}
        shadows = [
            Row(**{**vars(mine), **vars(row), "sha256": mine.sha256, "is_shadow": True})
            for mine, row in zip(rows(drawn), rows(other, 2, "canary"), strict=True)
        ]
        report = look([*rows(drawn, label="stable"), *shadows], images, {1: answers, 2: answers})
        assert report.images == 300
        assert [group.name for group in report.groups] == ["1/stable", "2/canary"]
        (pair,) = report.pairs
        assert (pair.images, pair.disagree.value) == (300, 1.0)
        assert "disagreement" in names(report)


class TestSaysHowMuchThereIs:
    def test_little_is_little_whatever_it_is(self, baseline: tuple[Images, Answers]) -> None:
        images, answers = baseline
        drawn = World(8).draw(CONFIG.min_images - 1)
        drawn["mean"] -= 100
        report = look(rows(drawn), images, {1: answers})
        assert (report.verdict, report.checks, report.detectable) == (LITTLE, [], None)
        assert str(CONFIG.min_images) in report.notes[0]

    def test_none_at_all(self, baseline: tuple[Images, Answers]) -> None:
        report = look([], baseline[0], {})
        assert (report.verdict, report.images, report.groups) == (LITTLE, 0, [])
        assert page.render("m", report)

    def test_what_comes_again_counts_once(self, baseline: tuple[Images, Answers]) -> None:
        images, answers = baseline
        drawn = World(8).draw(50)
        report = look(10 * rows(drawn), images, {1: answers})
        assert (report.verdict, report.images, report.repeats) == (LITTLE, 50, 450)

    def test_a_label_with_little_traffic(self, baseline: tuple[Images, Answers]) -> None:
        images, answers = baseline
        found = rows(World(8).draw(200)) + rows(World(9).draw(5), 2, "canary")
        report = look(found, images, {1: answers, 2: answers})
        assert report.verdict == STEADY
        assert {group.name: bool(group.note) for group in report.groups} == {
            "1": False,
            "2/canary": True,
        }
        assert {check.about for check in report.checks} == {"images", "1"}

    def test_more_traffic_finds_less(self, baseline: tuple[Images, Answers]) -> None:
        images, answers = baseline
        found = [
            look(rows(World(8).draw(count)), images, {1: answers}).detectable or 0
            for count in (100, 1000)
        ]
        assert found[0] > 1.5 * found[1]

    def test_a_version_that_is_gone(self, baseline: tuple[Images, Answers]) -> None:
        report = look(rows(World(8).draw(200)), baseline[0], {1: "is gone"})
        assert report.groups[0].note == "is gone"
        assert {check.about for check in report.checks} == {"images"}

    def test_refused_images(self, baseline: tuple[Images, Answers]) -> None:
        images, answers = baseline
        good = rows(World(8).draw(200))
        bad = [
            Row(str(n), 0, 0, "rest", "m", status="INVALID_ARGUMENT", sha256=f"bad {n}",
                format="WebP")
            for n in range(10)
        ]  # fmt: skip
        report = look([*good, *bad], images, {1: answers})
        assert [group.refused for group in report.groups] == [10]
        assert "unseen formats and sizes" in names(report)


class TestTold:
    def test_as_text_page_json_and_gauges(self, baseline: tuple[Images, Answers]) -> None:
        images, answers = baseline
        drawn = World(1).draw(200)
        drawn["mean"] -= 60
        report = look(rows(drawn, label='<b>"x"\n'), images, {1: answers})
        assert Report.model_validate_json(report.model_dump_json()) == report
        text = "\n".join(monitoring.as_lines(report))
        assert "brightness of images" in text
        shown = page.render("<m>", report)
        assert "<b>" not in shown
        assert "<m>" not in shown
        assert "http" not in shown.replace("http-equiv", "")
        families = {
            each.name: each for each in text_string_to_metric_families(gauges.render("m", report))
        }
        assert all(name.startswith("perennial_monitor_") for name in families)
        assert {each.type for each in families.values()} == {"gauge"}
        verdicts = {
            (each.labels["model_name"], each.labels["verdict"]): each.value
            for each in families["perennial_monitor_verdict"].samples
        }
        assert verdicts == {("m", "drifted"): 1, ("m", "steady"): 0, ("m", "little"): 0}
        (brightness,) = (
            each
            for each in families["perennial_monitor_found"].samples
            if each.labels["check"] == "brightness"
        )
        assert (brightness.labels["about"], brightness.value) == ("images", 1)
        (group,) = families["perennial_monitor_group_images"].samples
        assert (group.labels["label"], group.value) == ('<b>"x"\n', 200)


class TestDecides:
    def context(self, changes: int = 3, **fields: Any) -> RetrainContext:
        from components.lineage import TrainedModel

        trained = TrainedModel(1, "", True, NOW - datetime.timedelta(days=3), "")
        new = DataChanges(new=tuple(f"{n}.png" for n in range(changes)), changed=(), removed=())
        return RetrainContext(NOW, new, trained, trained, **fields)

    def policy(self, **kinds: Any) -> RetrainConfig:
        return RetrainConfig(min_new_examples=100, **kinds)

    @pytest.mark.parametrize("kind", ["traffic", "accuracy"])
    def test_each_kind_is_a_reason_of_its_own(self, kind: str) -> None:
        context = self.context(traffic={kind: ["brightness of images: darker"]})
        assert not decide(context, self.policy()).retrain
        decision = decide(context, self.policy(**{kind: ReasonConfig(retrains=True)}))
        assert (decision.retrain, decision.kinds) == (True, (kind,))
        assert "brightness of images: darker" in decision.reasons[0]
        other = "accuracy" if kind == "traffic" else "traffic"
        assert not decide(context, self.policy(**{other: ReasonConfig(retrains=True)})).retrain

    @pytest.mark.parametrize(("days", "retrains"), [(6.9, False), (7.1, True)])
    def test_each_cools_down(self, days: float, retrains: bool) -> None:
        last = NOW - datetime.timedelta(days=days)
        context = self.context(
            traffic={"traffic": ["x"]}, last_reasons={"traffic": last, "accuracy": NOW}
        )
        policy = self.policy(traffic=ReasonConfig(retrains=True, cooldown_days=7))
        assert decide(context, policy).retrain is retrains

    def test_the_same_images_make_the_same_model(self) -> None:
        context = self.context(0, traffic={"traffic": ["x"]})
        decision = decide(context, self.policy(traffic=ReasonConfig(retrains=True)))
        assert not decision.retrain
        assert any("perennial ask" in reason for reason in decision.reasons)

    def test_what_counts_is_of_this_baseline_and_young(self) -> None:
        def entry(days: float, baseline: int | None) -> dict[str, Any]:
            at = (NOW - datetime.timedelta(days=days)).isoformat()
            return {"event": "traffic", "at": at, "baseline": baseline, "traffic": ["x"]}

        week = NOW - datetime.timedelta(days=7)
        assert journal.last_traffic([entry(1, 4)], 4, week)
        assert journal.last_traffic([entry(1, None)], 4, week)
        assert not journal.last_traffic([entry(1, 3)], 4, week)
        assert not journal.last_traffic([entry(8, 4)], 4, week)
        assert not journal.last_traffic([entry(2, 4), entry(1, 3)], 4, week)
        assert not journal.last_traffic([], 4, week)
