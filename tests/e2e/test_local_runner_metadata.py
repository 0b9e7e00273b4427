"""Runs whose metadata is lost, damaged or old, whose clock jumps, or whose workspace moves."""

from __future__ import annotations

import errno
import shutil
import time
from pathlib import Path

import pytest

from components.lineage import Lineage
from pipeline.errors import ConfigError, NodeFailed
from pipeline.workspace import Workspace
from tests.kit.recorder import Recorder
from tests.kit.toy_workspace import NODES, Toy, node_states

pytestmark = [
    # Raised by protobuf's C code in our frames for a call that TFX makes.
    pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated"),
    pytest.mark.usefixtures("interruptible"),
]


class TestMetadata:
    """The database goes while the second node runs."""

    def put_back(self, toy: Toy) -> None:
        (toy.control / "metadata.sqlite").replace(toy.workspace.metadata)

    def after_that_the_run_goes_on(self, toy: Toy) -> None:
        toy.tell("Second", None)
        assert node_states(toy.run()) == ["cached", "complete", "complete"]
        assert toy.states()[:2] == ["COMPLETE", "FAILED"]
        assert toy.outputs() == {"1", "4", "5"}

    def test_that_disappears_is_missed_and_not_made_anew(self, toy: Toy) -> None:
        toy.tell("Second", "metadata gone")
        with pytest.raises(NodeFailed, match=f"^Second failed: {toy.workspace.metadata} "):
            toy.run()
        assert not toy.workspace.metadata.exists()
        with pytest.raises(ConfigError, match=f"{toy.workspace.metadata} "):
            toy.run()
        self.put_back(toy)
        self.after_that_the_run_goes_on(toy)

    def test_that_is_emptied_is_not_taken_for_a_new_one(self, toy: Toy) -> None:
        toy.tell("Second", "metadata emptied")
        with pytest.raises(NodeFailed, match=r"^Second failed"):
            toy.run()
        with pytest.raises(
            ConfigError,
            match=rf"^{toy.workspace.metadata} .*/Second/text/2, .*{toy.workspace.artifacts} ",
        ):
            toy.run()
        self.put_back(toy)
        self.after_that_the_run_goes_on(toy)

    def test_that_is_damaged_is_named(self, toy: Toy) -> None:
        toy.tell("Second", "metadata damaged")
        with pytest.raises(NodeFailed, match=r"^Second failed: .*file is not a database"):
            toy.run()
        with pytest.raises(ConfigError, match=f"{toy.workspace.metadata} .*database"):
            toy.run()
        self.put_back(toy)
        self.after_that_the_run_goes_on(toy)

    def test_that_another_process_locks_is_waited_for(self, toy: Toy) -> None:
        toy.tell("Second", "metadata locked")
        assert node_states(toy.run()) == ["complete"] * 3
        assert (toy.control / "unlocked").exists()

    def test_of_an_earlier_time_is_not_mixed_with_later_outputs(self, toy: Toy) -> None:
        toy.run()
        shutil.copy(toy.workspace.metadata, toy.control)
        toy.run(setting="new")
        self.put_back(toy)
        with pytest.raises(ConfigError, match=rf"^{toy.workspace.metadata} .*/text/[56], "):
            toy.run()


@pytest.mark.parametrize("jump", ["clock back", "clock forward"])
def test_a_jump_of_the_clock_changes_nothing(
    toy: Toy, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, jump: str
) -> None:
    real, behind = time.time, toy.control / "a day behind"
    monkeypatch.setattr(time, "time", lambda: real() - 86_400 * behind.exists())
    if jump == "clock forward":
        behind.touch()
    toy.tell("Second", jump)
    assert node_states(toy.run()) == ["complete"] * 3
    toy.tell("Second", None)
    assert all(0 <= value < 600 for value in recorder.of("node_end", "wall_s"))
    assert node_states(toy.run()) == ["cached"] * 3
    assert node_states(toy.run(setting="new")) == ["cached", "complete", "complete"]


class TestElsewhere:
    """A workspace that is moved, copied or reached by another path goes on where it is."""

    def test_a_copy_takes_all_from_its_own_cache_and_leaves_the_original_alone(
        self, toy: Toy, tmp_path: Path
    ) -> None:
        toy.run()
        before = _tree(toy.workspace.root)
        copy = shutil.copytree(toy.workspace.root, tmp_path / "copy")
        shutil.rmtree(copy / "artifacts" / "Third")
        toy.executed()
        elsewhere = Toy(Workspace(copy), toy.control, runs=1)
        elsewhere.run()
        assert elsewhere.executed() == ["Third"]  # and not what the original still has
        assert _tree(toy.workspace.root) == before
        uris = [each.uri for each in lineage_of(elsewhere.workspace).artifacts()]
        assert all(uri.startswith(f"{copy}/artifacts/") for uri in uris)
        toy.run("other")
        assert toy.executed() == NODES[1:]

    def test_a_moved_one_is_recognised_also_where_nothing_runs(
        self, toy: Toy, tmp_path: Path
    ) -> None:
        toy.run()
        moved = Workspace(toy.workspace.root.rename(tmp_path / "moved"))
        for artifact in lineage_of(moved).artifacts():
            assert Path(artifact.uri, "text").exists()
        toy.executed()
        assert Toy(moved, toy.control, runs=1).run().nodes[-1].state == "cached"
        assert toy.executed() == []

    def test_a_link_to_it_is_no_other_place(self, toy: Toy, tmp_path: Path) -> None:
        toy.run()
        before = toy.workspace.stamp.read_bytes()
        (tmp_path / "link").symlink_to(toy.workspace.root)
        Workspace.open(tmp_path / "link")
        assert toy.workspace.stamp.read_bytes() == before

    def test_model_servers_follow(self, toy: Toy, tmp_path: Path) -> None:
        toy.run()
        serving = toy.workspace.root / "serving"
        serving.mkdir()
        text = f'base_path: "{serving}/digits" base_path: "/elsewhere/digits"'
        (serving / "models.config").write_text(text)
        moved = Workspace.open(toy.workspace.root.rename(tmp_path / "moved"))
        told = (moved.root / "serving" / "models.config").read_text()
        assert told == f'base_path: "{moved.root}/serving/digits" base_path: "/elsewhere/digits"'

    def test_what_was_cut_off_is_done_by_the_next_use(
        self, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        toy.run()
        moved = Workspace(toy.workspace.root.rename(tmp_path / "moved"))
        with monkeypatch.context() as patch:
            patch.setattr("components.storage.write_text", _no_space)
            with pytest.raises(ConfigError, match="No space"):
                Workspace.open(moved.root)
        for artifact in lineage_of(moved).artifacts():
            assert Path(artifact.uri, "text").exists()


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def lineage_of(workspace: Workspace) -> Lineage:
    return Lineage.at(Workspace.open(workspace.root).connection())


def _tree(root: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
