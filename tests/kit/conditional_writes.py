"""What every object store has to do with writes that depend on what is there."""

from __future__ import annotations

import pytest

from components import storage


def check(file: str) -> str:
    """Write a new file twice, and in vain by outdated states; return the state that it has."""
    assert storage.state(file) == ""
    first = storage.replace(file, "one", "")
    assert first == storage.state(file)
    second = storage.replace(file, "two", first)
    assert second == storage.state(file) != first
    for known in (first, ""):
        with pytest.raises(FileExistsError) as caught:
            storage.replace(file, "three", known)
        assert caught.value.filename == file
    return second
