"""The test suite itself."""

from __future__ import annotations

import re

import pytest

from tests import REPO

FILES = sorted((REPO / "tests").rglob("*.py"))
# In code as well as in the scripts that tests pass to another interpreter.
ANOTHER_TEST_FILE = re.compile(r"\btests\.\w+\.test_|\bfrom tests\.\w+ import [^\n]*\btest_")


@pytest.mark.parametrize(
    "text", ["from tests.e2e.test_e2e import X", "from tests.e2e import test_x"]
)
def test_an_import_of_a_test_file_is_found(text: str) -> None:
    assert ANOTHER_TEST_FILE.search(text)


def test_what_test_files_share_is_in_the_kit() -> None:
    own = {REPO / "tests" / "unit" / "test_suite.py"}
    importing = [
        str(file.relative_to(REPO))
        for file in FILES
        if file not in own and ANOTHER_TEST_FILE.search(file.read_text(encoding="utf-8"))
    ]
    assert importing == []
