"""The tests; what several of them share is in modules without `test_` in their names."""

from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
