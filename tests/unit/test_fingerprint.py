"""Code fingerprints: an edit counts where the code is imported, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import fingerprint


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    package = tmp_path / "trainer_module"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from trainer_module import b\nimport json\n")
    (package / "b.py").write_text("def late():\n    import trainer_module.c\n")
    (package / "c.py").write_text("")
    (package / "other.py").write_text("")
    return tmp_path


def counts(tree: Path, module: str, text: str) -> bool:
    """Whether an edit of a module changes the fingerprint of `a`."""
    before = fingerprint.fingerprint("trainer_module.a", root=tree)
    (tree / "trainer_module" / f"{module}.py").write_text(text)
    return fingerprint.fingerprint("trainer_module.a", root=tree) != before


@pytest.mark.parametrize(
    ("module", "expected"), [("a", True), ("b", True), ("c", True), ("other", False)]
)
def test_an_edit_of_the_module_or_of_what_it_imports_counts(
    tree: Path, module: str, expected: bool
) -> None:
    assert counts(tree, module, "edited = 1\n") is expected


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ("# A comment.\ndef late():\n    import trainer_module.c\n", False),
        ('"""A docstring."""\n\n\ndef late():\n    import trainer_module.c\n', False),
        ('def late():\n    """Do it."""\n    import trainer_module.c\n    "Text."\n', False),
        ("def late():\n\n    import   trainer_module.c  # here\n", False),
        ("def late():\n    import trainer_module.c\n    return 0\n", True),
        ("def late(x=1):\n    import trainer_module.c\n", True),
        ("def later():\n    import trainer_module.c\n", True),
    ],
)
def test_what_is_run_counts_and_other_text_does_not(
    tree: Path, edited: str, expected: bool
) -> None:
    assert counts(tree, "b", edited) is expected


def test_a_program_that_is_named_by_a_string_counts(tree: Path) -> None:
    server = tree / "pipeline" / "server"
    server.mkdir(parents=True)
    (server.parent / "__init__.py").write_text("")
    (server / "__init__.py").write_text("")
    (server / "__main__.py").write_text("print(1)\n")
    (tree / "trainer_module" / "c.py").write_text('COMMAND = ["python", "-m", "pipeline.server"]')
    before = fingerprint.fingerprint("trainer_module.a", root=tree)
    (server / "__main__.py").write_text("print(2)\n")
    assert fingerprint.fingerprint("trainer_module.a", root=tree) != before


def test_an_unknown_module_is_an_error(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer_module\.absent"):
        fingerprint.fingerprint("trainer_module.absent", root=tree)
