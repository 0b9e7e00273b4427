"""The base class of all settings."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of settings that refuses unknown keys, quiet conversions and later changes."""

    # strict: `epochs = true` is a mistake and not 1.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )


T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Field(strict=False)]  # strict would refuse TOML's lists
