"""A training that is killed goes on where it was, and several processes train as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import portpicker
import pytest
import tensorflow as tf

from tests.kit.recorder import Recorder
from trainer_module import checkpoint, devices
from trainer_module.checkpoint import Checkpoints

STEPS_PER_EPOCH = 6
SIGKILLED = -9


def start(output: Path, kill_at: int = 0, **environment: str) -> subprocess.Popen[str]:
    output.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.kit.resumable", str(output), str(kill_at)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> int:
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, SIGKILLED), errors[-3000:]
    return process.returncode


def outcome(output: Path) -> dict[str, np.ndarray]:
    with np.load(output / "trained.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    output = tmp_path_factory.mktemp("uninterrupted")
    assert finish(start(output)) == 0
    return outcome(output)


def test_killed_thrice_it_ends_bit_equal_to_an_uninterrupted_training(
    tmp_path: Path, uninterrupted: dict[str, np.ndarray]
) -> None:
    # Amid the first phase, at its last step, and amid the third, which is on another model. With
    # one step a call, which the others need not have.
    for step in (STEPS_PER_EPOCH + 2, 2 * STEPS_PER_EPOCH, 5 * STEPS_PER_EPOCH + 1):
        assert finish(start(tmp_path, step, CALL_SECONDS="0")) == SIGKILLED
        assert not (tmp_path / "trained.npz").exists()
    assert finish(start(tmp_path)) == 0
    resumed = outcome(tmp_path)
    assert resumed["steps"] == uninterrupted["steps"] == 6 * STEPS_PER_EPOCH
    assert resumed.keys() == uninterrupted.keys()
    for name, array in uninterrupted.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)


def test_two_workers_train_as_one_process_does(
    tmp_path: Path, uninterrupted: dict[str, np.ndarray]
) -> None:
    ports = [portpicker.pick_unused_port() for _ in range(2)]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    workers = [
        start(
            tmp_path / str(index),
            CALL_SECONDS=calls,  # as if one were much faster
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        )
        for index, calls in enumerate(("0", "1e9"))
    ]
    assert [finish(worker) for worker in workers] == [0, 0]
    chief, other = (outcome(tmp_path / str(index)) for index in range(2))
    for name, array in chief.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
    assert (tmp_path / "0" / "checkpoints").exists()
    assert not (tmp_path / "1" / "checkpoints").exists(), "only the chief writes"
    assert chief["steps"] == uninterrupted["steps"]


class TestCheckpoints:
    ARRAYS: dict[str, list[np.ndarray]] = {
        "model": [np.arange(3), np.ones((2, 2), np.float32)],
        "none": [],
    }

    def test_keeps_what_it_is_given_and_no_more_than_two(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(str(tmp_path / "key"))
        assert checkpoints.latest() is None
        for number in (9, 10, 100):
            checkpoints.save(number, {"number": number}, self.ARRAYS)
        assert len(list((tmp_path / "key").iterdir())) == checkpoint.KEPT
        saved = checkpoints.latest()
        assert saved
        assert saved.meta == {"number": 100}
        for found, given in zip(saved.arrays["model"], self.ARRAYS["model"], strict=True):
            np.testing.assert_array_equal(found, given)
            assert found.dtype == given.dtype

    def test_falls_back_where_the_latest_is_damaged(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(str(tmp_path))
        for number in (1, 2):
            checkpoints.save(number, {"number": number}, self.ARRAYS)
        latest = max(tmp_path.iterdir())
        latest.write_bytes(latest.read_bytes()[:-40])
        saved = checkpoints.latest()
        assert saved
        assert saved.meta == {"number": 1}

    def test_an_unfinished_file_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "000000000001.npz.partial").write_bytes(b"PK")
        assert Checkpoints(str(tmp_path)).latest() is None

    def test_clearing_removes_it_and_what_is_abandoned_but_not_others(self, tmp_path: Path) -> None:
        folders = [tmp_path / name for name in ("mine", "recent", "old")]
        for folder in folders:
            Checkpoints(str(folder)).save(1, {}, self.ARRAYS)
        os.utime(next(folders[2].iterdir()), (0, 0))
        Checkpoints(str(folders[0])).clear()
        assert list(tmp_path.iterdir()) == [folders[1]]

    def test_its_folder_is_outside_of_what_a_failed_execution_loses(self) -> None:
        one = checkpoint.directory("/root/Trainer/model_run/7", {"seed": 1})
        assert one.startswith("/root/Trainer/.checkpoints/")
        assert one == checkpoint.directory("/root/Trainer/model_run/8/", {"seed": 1})
        assert one != checkpoint.directory("/root/Trainer/model_run/7", {"seed": 2})


class TestDevices:
    @pytest.mark.parametrize(
        ("capabilities", "policy"),
        [
            ([], "float32"),
            ([(6, 1)], "float32"),
            ([(7, 5)], "mixed_float16"),
            ([(8, 0)], "mixed_bfloat16"),
            ([(9, 0), (7, 0)], "mixed_float16"),
        ],
    )
    def test_precision_follows_the_slowest_gpu(
        self,
        capabilities: list[tuple[int, int]],
        policy: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: capabilities)
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda device: {"compute_capability": device},
        )
        assert devices.dtype_policy("auto") == policy

    def test_an_unreadable_cluster_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TF_CONFIG", "{nonsense")
        with pytest.raises(devices.DeviceError, match=r"TF_CONFIG .*line 1 column 2"):
            devices.strategy()

    def test_absent_workers_are_named_in_time(
        self, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
    ) -> None:
        here, there, gone = (f"127.0.0.1:{portpicker.pick_unused_port()}" for _ in range(3))
        cluster = {"cluster": {"worker": [gone, here, there]}}
        task = {"type": "worker", "index": 1}
        monkeypatch.setenv("TF_CONFIG", json.dumps({**cluster, "task": task}))
        with (
            socket.create_server(("127.0.0.1", int(there.rpartition(":")[2]))),
            pytest.raises(
                devices.DeviceError,
                match=rf"^TF_CONFIG .*train\.worker_timeout = 0\.1 s .* {gone};",
            ),
        ):
            devices.strategy(0.1)
        [text] = recorder.of("note", "text")
        assert f"{gone}, {there}" in text

    def test_a_port_that_is_taken_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("", 0)) as taken:
            addresses = [f"127.0.0.1:{taken.getsockname()[1]}", "127.0.0.1:1"]
            task = {"type": "worker", "index": 0}
            config = {"cluster": {"worker": addresses}, "task": task}
            monkeypatch.setenv("TF_CONFIG", json.dumps(config))
            with pytest.raises(devices.DeviceError, match=r"^TF_CONFIG: .*address .*; "):
                devices.strategy(0.1)

    def test_workers_feed_shares_of_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
        strategy = tf.distribute.get_strategy()
        monkeypatch.setattr(type(strategy), "num_replicas_in_sync", 6)
        firsts = []
        for kind, index in (("chief", 0), ("worker", 0), ("worker", 1)):
            task = {"cluster": cluster, "task": {"type": kind, "index": index}}
            monkeypatch.setenv("TF_CONFIG", json.dumps(task))
            share = devices.replicas(strategy)
            assert (share.total, share.local) == (6, 2)
            firsts.append(share.first)
        assert firsts == [0, 2, 4]
