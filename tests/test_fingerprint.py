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


@pytest.mark.parametrize("edited", ["a", "b", "c"])
def test_an_edit_of_the_module_or_of_what_it_imports_counts(tree: Path, edited: str) -> None:
    before = fingerprint.of("trainer_module.a", root=tree)
    (tree / "trainer_module" / f"{edited}.py").write_text("edited = 1\n")
    assert fingerprint.of("trainer_module.a", root=tree) != before


def test_an_edit_elsewhere_does_not(tree: Path) -> None:
    before = fingerprint.of("trainer_module.a", root=tree)
    (tree / "trainer_module" / "other.py").write_text("edited = 1\n")
    assert fingerprint.of("trainer_module.a", root=tree) == before


@pytest.mark.parametrize(
    "edited",
    [
        "# A comment.\ndef late():\n    import trainer_module.c\n",
        '"""A docstring."""\n\n\ndef late():\n    import trainer_module.c\n',
        'def late():\n    """Do it."""\n    import trainer_module.c\n    "Text."\n',
        "def late():\n\n    import   trainer_module.c  # here\n",
    ],
)
def test_text_that_is_not_run_does_not_count(tree: Path, edited: str) -> None:
    before = fingerprint.of("trainer_module.a", root=tree)
    (tree / "trainer_module" / "b.py").write_text(edited)
    assert fingerprint.of("trainer_module.a", root=tree) == before


@pytest.mark.parametrize(
    "edited",
    [
        "def late():\n    import trainer_module.c\n    return 0\n",
        "def late(x=1):\n    import trainer_module.c\n",
        "def later():\n    import trainer_module.c\n",
    ],
)
def test_what_is_run_counts(tree: Path, edited: str) -> None:
    before = fingerprint.of("trainer_module.a", root=tree)
    (tree / "trainer_module" / "b.py").write_text(edited)
    assert fingerprint.of("trainer_module.a", root=tree) != before


def test_a_program_that_is_named_by_a_string_counts(tree: Path) -> None:
    server = tree / "pipeline" / "server"
    server.mkdir(parents=True)
    (server.parent / "__init__.py").write_text("")
    (server / "__init__.py").write_text("")
    (server / "__main__.py").write_text("print(1)\n")
    (tree / "trainer_module" / "c.py").write_text('COMMAND = ["python", "-m", "pipeline.server"]')
    before = fingerprint.of("trainer_module.a", root=tree)
    (server / "__main__.py").write_text("print(2)\n")
    assert fingerprint.of("trainer_module.a", root=tree) != before


def test_an_unknown_module_is_an_error(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer_module\.absent"):
        fingerprint.of("trainer_module.absent", root=tree)
