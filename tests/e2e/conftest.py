"""Fixtures shared by the tests of runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tests.kit.toy_workspace import Toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """Create a workspace and the control folder of its nodes."""
    from tests.kit.toy_workspace import Toy

    control = tmp_path / "control"
    control.mkdir()
    return Toy(Workspace(tmp_path / "workspace"), control)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a terminal, even where the tests run as a background job with SIGINT ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, previous)
