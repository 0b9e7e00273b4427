"""The parts of a retraining that need no TensorFlow: decision, inventory, journal, feedback."""

from __future__ import annotations

import dataclasses
import datetime
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.image_example_gen import inputs
from components.image_example_gen.dataset import DataSet
from components.image_example_gen.inputs import Input
from components.image_example_gen.options import Options
from components.lineage import TrainedModel
from components.model_registry import versions
from pipeline.config import load
from pipeline.retraining import inventory, journal
from pipeline.retraining.decision import RetrainContext, decide
from pipeline.retraining.drift_report import Distance, Drift
from pipeline.retraining.inventory import DataChanges, Entry
from pipeline.retraining.observe import decide_in_cluster
from pipeline.settings.retraining import DriftConfig, RetrainConfig

NOW = datetime.datetime(2026, 5, 1, 3, tzinfo=datetime.UTC)


DRIFTED = Drift(120, 500, (Distance("image/mean", "Jensen-Shannon divergence", 0.4, 0.15),))


def trained(days: float) -> TrainedModel:
    made = NOW - datetime.timedelta(days=days)
    return TrainedModel(1, "model", blessed=True, made=made, examples="examples")


def context(**changes: Any) -> RetrainContext:
    return dataclasses.replace(
        RetrainContext(NOW, DataChanges(), last=trained(3), baseline=trained(3)), **changes
    )


class TestDecision:
    def test_the_first_model_needs_no_reason(self) -> None:
        decision = decide(RetrainContext(NOW, DataChanges()), RetrainConfig())
        assert decision.retrain
        (reason,) = decision.reasons
        assert re.match(r"no model\b", reason)

    def test_without_news_there_is_nothing_to_do_however_old_the_baseline(self) -> None:
        decision = decide(
            context(last=trained(99), baseline=trained(99)), RetrainConfig(max_age_days=1.0)
        )
        assert not decision.retrain
        (reason,) = decision.reasons
        assert reason.endswith(" 2026-01-22 03:00 UTC")

    @pytest.mark.parametrize(("images", "expected"), [(9, False), (10, True), (11, True)])
    def test_enough_news_is_a_reason(self, images: int, expected: bool) -> None:
        changes = DataChanges(new=tuple(map(str, range(images))))
        decision = decide(context(changes=changes), RetrainConfig(min_new_examples=10))
        assert decision.retrain is expected
        assert decision.reasons[0].startswith(f"{images} new ")

    def test_changed_and_removed_images_are_news_too(self) -> None:
        changes = DataChanges(new=("a",), changed=("b",), removed=("c",))
        decision = decide(context(changes=changes), RetrainConfig(min_new_examples=3))
        assert decision.retrain
        assert re.match(r"1 new .*1 changed .*1 removed ", decision.reasons[0])

    @pytest.mark.parametrize(("days", "expected"), [(6.9, False), (7.0, True)])
    def test_an_old_baseline_makes_do_with_less(self, days: float, expected: bool) -> None:
        policy = RetrainConfig(min_new_examples=100, max_age_days=7.0)
        found = context(changes=DataChanges(new=("a",)), last=trained(days), baseline=trained(days))
        assert decide(found, policy).retrain is expected

    def test_a_baseline_that_held_its_place_is_as_young_as_its_rival(self) -> None:
        policy = RetrainConfig(min_new_examples=100, max_age_days=7.0)
        found = context(changes=DataChanges(new=("a",)), last=trained(1), baseline=trained(30))
        assert not decide(found, policy).retrain

    @pytest.mark.parametrize(
        "reason", [{"forced": True}, {"unfinished": "run 7 was cut off, and is continued"}]
    )
    def test_force_and_what_was_cut_off_need_no_news(self, reason: dict[str, Any]) -> None:
        assert decide(context(**reason), RetrainConfig()).retrain

    def test_drift_is_an_alarm_and_no_retraining(self) -> None:
        decision = decide(context(drift=DRIFTED), RetrainConfig())
        assert decision.alarm
        assert not decision.retrain
        assert "image/mean: Jensen-Shannon divergence 0.40, above 0.15" in str(decision)

    def test_drift_is_a_retraining_where_the_policy_says_so(self) -> None:
        policy = RetrainConfig(drift=DriftConfig(retrains=True))
        decision = decide(context(drift=DRIFTED), policy)
        assert decision.alarm
        assert decision.retrain

    @pytest.mark.parametrize(("days", "expected"), [(1.9, False), (2.0, True)])
    def test_an_alarm_cools_down(self, days: float, expected: bool) -> None:
        policy = RetrainConfig(drift=DriftConfig(cooldown_days=2.0, retrains=True))
        last = NOW - datetime.timedelta(days=days)
        decision = decide(context(drift=DRIFTED, last_alarm=last), policy)
        assert (decision.alarm, decision.retrain) == (expected, expected)
        assert "drift" in str(decision)

    def test_distances_at_their_limit_are_no_drift(self) -> None:
        within = Drift(100, 100, (Distance("image/mean", "distance", 0.15, 0.15),))
        assert not decide(context(drift=within), RetrainConfig()).alarm

    def test_an_empty_span_is_said(self) -> None:
        decision = decide(context(changes=DataChanges(empty_spans=("7",))), RetrainConfig())
        assert [reason for reason in decision.reasons if reason.startswith("span 7 ")]


class TestNews:
    BEFORE = {"1/a": Entry("aa", "cat", 1), "1/b": Entry("bb", "dog", 1)}

    @pytest.mark.parametrize(
        ("now", "expected"),
        [
            pytest.param(BEFORE, DataChanges(), id="nothing"),
            pytest.param(
                {**BEFORE, "2/c": Entry("cc", "cat", 2)}, DataChanges(new=("2/c",)), id="new image"
            ),
            pytest.param(
                {**BEFORE, "1/b": Entry("xx", "dog", 1)},
                DataChanges(changed=("1/b",)),
                id="new content",
            ),
            pytest.param(
                {**BEFORE, "1/b": Entry("bb", "cat", 1)},
                DataChanges(changed=("1/b",)),
                id="new label",
            ),
            pytest.param({"1/a": BEFORE["1/a"]}, DataChanges(removed=("1/b",)), id="removed"),
            pytest.param(
                {"1/a": BEFORE["1/a"], "1/z": BEFORE["1/b"]}, DataChanges(), id="another name only"
            ),
            pytest.param({**BEFORE, "2/a": Entry("aa", "cat", 2)}, DataChanges(), id="a copy"),
            pytest.param(
                {**BEFORE, "2/a": Entry("aa", "dog", 2)},
                DataChanges(new=("2/a",)),
                id="a correction",
            ),
        ],
    )
    def test_is_told_by_content(self, now: dict[str, Entry], expected: DataChanges) -> None:
        assert inventory.compare(self.BEFORE, now) == expected


class TestInventory:
    def write(self, root: Path, span: int, color: int) -> Path:
        path = root / str(span) / "cat" / "x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (color, 0, 0)).save(path)
        return path

    def age(self, path: Path) -> None:
        """As if it had been written long ago; its change time cannot be set back."""
        old = time.time_ns() - 10**12
        import os

        os.utime(path, ns=(old, old))

    def test_spans_that_did_not_change_are_not_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(inventory, "_SETTLED_NS", 0)
        source, memo = f"{tmp_path}/data/{{SPAN}}", tmp_path / "memo.json"
        self.write(tmp_path / "data", 1, 1)
        read: list[int] = []

        def scan(data: DataSet) -> Iterator[list[Input]]:
            read.extend(unit.span for unit in data.units)
            return inputs.scan(data)

        monkeypatch.setattr(inventory, "scan", scan)
        first, spans = inventory.take(source, Options(spans=9), memo)
        assert (read, spans) == ([1], [1])
        assert inventory.take(source, Options(spans=9), memo)[0] == first
        assert read == [1]
        self.write(tmp_path / "data", 2, 2)
        second, _ = inventory.take(source, Options(spans=9), memo)
        assert read == [1, 2]
        assert inventory.compare(first, second) == DataChanges(new=("2/cat/x.png",))

    def test_a_change_of_the_same_size_in_the_same_second_is_seen(self, tmp_path: Path) -> None:
        source, memo = f"{tmp_path}/data/{{SPAN}}", tmp_path / "memo.json"
        path = self.write(tmp_path / "data", 1, 1)
        first, _ = inventory.take(source, Options(spans=9), memo)
        self.write(tmp_path / "data", 1, 2)
        self.age(path)
        second, _ = inventory.take(source, Options(spans=9), memo)
        assert inventory.compare(first, second) == DataChanges(changed=("1/cat/x.png",))

    def test_a_damaged_memory_is_forgotten(self, tmp_path: Path) -> None:
        source, memo = f"{tmp_path}/data/{{SPAN}}", tmp_path / "memo.json"
        self.write(tmp_path / "data", 1, 1)
        first, _ = inventory.take(source, Options(spans=9), memo)
        memo.write_text("{")
        assert inventory.take(source, Options(spans=9), memo)[0] == first


class TestJournal:
    def test_an_entry_that_was_cut_off_does_not_swallow_the_next(self, tmp_path: Path) -> None:
        log = str(tmp_path / "journal.jsonl")
        journal.append(log, "started", NOW, run="1")
        with open(log, "a") as file:
            file.write('{"at": "2026')
        journal.append(log, "ended", NOW, run="1", result="blessed")
        assert [entry["event"] for entry in journal.read(log)] == ["started", "ended"]

    @pytest.mark.parametrize(
        ("events", "expected"),
        [
            ([], False),
            (["started"], True),
            (["started", "blessed"], False),
            (["started", "rejected"], False),
            (["started", "failed"], True),
            (["started", "interrupted"], True),
            (["started", "failed", "started", "blessed"], False),
            (["started", "blessed", "started"], True),
        ],
    )
    def test_tells_what_has_no_verdict(self, events: list[str], expected: bool) -> None:
        entries = [
            {"event": "started"} if name == "started" else {"event": "ended", "result": name}
            for name in events
        ]
        assert (journal.unfinished(entries) is not None) is expected


class TestLabels:
    @pytest.fixture
    def push(self, tmp_path: Path) -> Any:
        def make(number: int) -> int:
            folder = tmp_path / "serving" / "perennial" / str(number)
            folder.mkdir(parents=True)
            (folder / "saved_model.pb").write_bytes(bytes([number]))
            manifest = versions.Manifest(
                record={"run": f"run {number}"}, files=versions.local_digests(folder)
            )
            (folder / versions.MANIFEST).write_text(manifest.model_dump_json())
            return number

        return make

    def labels(self, config: Any) -> dict[str, int]:
        return dict(config.registry.serving().labels)

    def hold(self, config: Any) -> str | None:
        return config.registry.hold()

    def label(self, config: Any, version: int) -> str:
        return config.registry.label(version, config.retrain.promote)

    def config(self, tmp_path: Path, promote: str) -> Any:
        return load(None, {"workspace": str(tmp_path), "retrain.promote": promote}).config

    def test_the_first_is_stable_and_later_ones_are_canaries(
        self, tmp_path: Path, push: Any
    ) -> None:
        config = self.config(tmp_path, "canary")
        assert self.hold(config) is None
        self.label(config, push(1))
        assert self.labels(config) == {"stable": 1}
        for number in (2, 3):
            self.hold(config)
            told = self.label(config, push(number))
            assert self.labels(config) == {"stable": 1, "canary": number}
        assert re.match("version 3 .*canary .*version 1, .*stable$", told)

    def test_what_was_served_as_the_newest_stays_served(self, tmp_path: Path, push: Any) -> None:
        config = self.config(tmp_path, "canary")
        push(4)
        assert re.match(r"version 4 .*stable\b", self.hold(config) or "")
        self.label(config, push(5))
        assert self.labels(config) == {"stable": 4, "canary": 5}

    def test_stable_is_a_matter_of_policy(self, tmp_path: Path, push: Any) -> None:
        config = self.config(tmp_path, "stable")
        self.label(config, push(1))
        self.label(config, push(2))
        assert self.labels(config) == {"stable": 2, "previous": 1}

    def test_labelling_again_changes_nothing(self, tmp_path: Path, push: Any) -> None:
        config = self.config(tmp_path, "canary")
        self.label(config, push(1))
        self.label(config, push(2))
        before = self.labels(config)
        self.label(config, 2)
        self.label(config, 1)
        assert self.labels(config) == before

    def test_none_labels_nothing(self, tmp_path: Path, push: Any) -> None:
        config = self.config(tmp_path, "none")
        self.label(config, push(1))
        assert self.labels(config) == {}


def test_retraining_by_default_goes_on_from_the_baseline_with_all_spans(tmp_path: Path) -> None:
    overrides = {"data.source": f"{tmp_path}/{{SPAN}}"}
    assert not load(None, overrides).config.train.warm_start
    loaded = load(None, overrides, scheduled=True)
    assert loaded.config.train.warm_start
    assert (loaded.config.data.spans, loaded.config.data.held_out) == (10_000, "all")
    assert loaded.origins["train.warm_start"] == "preset:retrain"
    flat = load(None, {"data.source": str(tmp_path), "train.warm_start": False}, scheduled=True)
    assert (flat.config.data.spans, flat.config.train.warm_start) == (1, False)


def test_the_first_task_of_a_cluster_decides_too_and_keeps_its_journal(tmp_path: Path) -> None:
    from ml_metadata.proto import metadata_store_pb2

    path = tmp_path / "data" / "1" / "cat" / "x.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(path)
    config = load(None, {"data.source": f"{tmp_path}/data/{{SPAN}}"}, scheduled=True).config
    connection = metadata_store_pb2.ConnectionConfig(fake_database={})
    decision = decide_in_cluster(config, connection, str(tmp_path))
    assert decision.retrain
    [entry] = journal.read(str(tmp_path / journal.FILE))
    assert (entry["new"], entry["reasons"]) == (1, list(decision.reasons))
