"""What a pod prints: only what someone can act on, and of a failure its own reason."""

from __future__ import annotations

import json
import logging
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest

from kubeflow import logs
from tests.kit.toy_pods import Toy

KNOWN = (
    "metadata_connection_config is not provided by IR.",
    "Fallback to non-ZetaSQL contexts execution query due to: filter_query is not supported",
    "ArtifactQuery.property_predicate is not supported.",
    "Examples artifact does not have payload_format custom property. Falling back to "
    "FORMAT_TF_EXAMPLE",
    "Expected execution to be in state NEW or RUNNING. Actual state: 4. Output artifacts may be "
    "overwritten.",
    "Failed to extract number of input bytes.",
    "From /x/export.py:124: load (from tensorflow.python.saved_model.loader_impl) is deprecated "
    "and will be removed in a future version.\nInstructions for updating:",
    "Could not find matching artifact class for type 'ExampleAnomalies' (proto: 'name'); "
    "generating an ephemeral artifact class on-the-fly.",
    "`image/sha256` is not a valid tf.function parameter name. Sanitizing to `image_sha256`.",
)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def printed(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_warnings_that_nobody_can_act_on_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with logs.as_json(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("label() is deprecated", DeprecationWarning, stacklevel=1)
        warnings.warn("will change", FutureWarning, stacklevel=1)
        warnings.warn("the images are odd", UserWarning, stacklevel=1)
        for text in KNOWN:
            logging.getLogger("absl").warning(text)
        logging.getLogger("absl").warning("Artifact type Odd not registered")
        logging.getLogger("other").warning(KNOWN[0])
    shown = [(line["logger"], line["message"].strip()) for line in printed(capfd)]
    assert [logger for logger, _ in shown] == ["py.warnings", "absl", "other"]
    assert "the images are odd" in shown[0][1]


def test_a_node_prints_no_warning_where_there_is_nothing_to_do(toy: Toy) -> None:
    done = toy.pod("First")
    assert done.code == 0
    assert [event for event in done.of("log") if event["level"] != "INFO"] == []


def test_a_failed_node_was_not_cut_off_in_an_earlier_attempt(toy: Toy) -> None:
    toy.tell("First", "fail")
    assert toy.pod("First").of("note") == []
    toy.tell("First", None)
    # Nor does the next try say so of one that failed by itself.
    assert toy.pod("First").of("note") == []


def test_a_killed_node_is_tried_again_in_its_pod(toy: Toy) -> None:
    toy.env |= {"PERENNIAL_RETRIES": "1", "PERENNIAL_RETRY_DELAY": "0"}
    toy.tell("First", "killed")
    killed = toy.pod("First")
    assert killed.code == 128 + signal.SIGKILL
    again, cut_off = [event["text"] for event in killed.of("note")]
    assert again.startswith(f"signal {signal.SIGKILL.value} ")
    assert cut_off.startswith("First was cut")
    (error,) = killed.of("error")
    assert (error["kind"], error["exit_code"]) == ("Killed", killed.code)
    assert toy.states() == ["FAILED"]


@pytest.mark.parametrize("message", ["no images", "wörter " * 400])
def test_the_reason_of_a_failure_is_left_for_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    path = tmp_path / "termination-log"
    monkeypatch.setattr(logs, "_LAST_WORDS", path)
    logs.write_last_words(message)
    assert not path.exists()  # no pod
    path.touch()
    logs.write_last_words(message)
    assert message.startswith(path.read_text())
    assert 0 < path.stat().st_size <= 2000
