"""Training recipes: one module each, named as `--recipe` names it.

A recipe module provides what `trainer_module.recipes.base.Recipe` lists. Importing one imports
neither Keras nor TensorFlow, so that the configuration can be checked without them.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import cast

from trainer_module.recipes.base import Module, Recipe

_NOT_RECIPES = {"base"}


def names() -> list[str]:
    """List every recipe, sorted."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - _NOT_RECIPES)


def get(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        ValueError: there is none; the message lists them and suggests the nearest.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown recipe {name!r}{hint} (there are: {', '.join(names())})")
    return cast(Recipe, Module(importlib.import_module(f"{__name__}.{name}")))
