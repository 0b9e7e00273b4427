"""The one seam between a kind of data source and the ingest."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("eval", "val", "valid", "validation", "dev"), "eval"),
    **dict.fromkeys(("test", "testing"), "test"),
}


_JSON_NAMES = {
    bool: "true or false",
    dict: "an object",
    float: "a number with a point",
    list: "a list",
}

# Control characters, line ends and what turns the direction of writing: in a class name they would
# move the cursor, break lines or make a name look like another.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclasses.dataclass(frozen=True)
class Item:
    """One input, which becomes an example, a duplicate or a line of the quarantine.

    Attributes:
      name: unique path within the source.
      label: class name; means nothing where there is a problem.
      load: gives the image file's bytes, or raises Unusable.
      size: about how many bytes `load` gives.
      split: "train", "eval", "test", or "" for the content to decide.
      problem: why it cannot be used, where that is known without the image: kind and detail.
    """

    name: str
    label: str
    load: Callable[[], bytes]
    size: int
    split: str = ""
    problem: tuple[str, str] | None = None


class Unit(abc.ABC):
    """A part of a source that is read on its own, in order; small, and can be pickled."""

    @abc.abstractmethod
    def items(self) -> Iterator[Item]:
        """Yield the inputs, the same ones in the same order each time."""


class Content(NamedTuple):
    """A part of the cache key: a file, "" for none, and its meaning for the ingest."""

    identity: str
    path: str = ""


@dataclasses.dataclass
class Listing:
    """The contents of a source.

    Attributes:
      units: all inputs.
      contents: gives everything that the inputs are made of, in any order.
      inputs: how many there are, None where that is not known without reading.
      are_files: whether each input is a local or remote file, and `contents` are these, in order.
      ignored: files that are no inputs, counted by reason.
      notes: what else a person should know.
      hint: what was expected, for a source without inputs.
      reading: how it was read, for people: pairs of what and how, such as classes and splits.
      declared: names of classes in the source's own list, where it has one.
    """

    units: Sequence[Unit]
    contents: Callable[[], Iterable[Content]]
    inputs: int | None = None
    are_files: bool = False
    ignored: Counter[str] = dataclasses.field(default_factory=Counter)
    notes: list[str] = dataclasses.field(default_factory=list)
    hint: str = ""
    reading: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    declared: tuple[str, ...] = ()


def split_name(text: str) -> str | None:
    """Map a common name to its split; "" for no name, None for a name of no split."""
    return SPLIT_OF.get(text.strip().lower()) if text.strip() else ""


def label_of(value: object) -> str:
    """Make a class name of a text, without the blanks around it, or of a whole number.

    Raises ValueError for anything else, and for a text of blanks.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        kind = _JSON_NAMES.get(type(value), type(value).__name__)
        raise ValueError(f"the label {str(value)[:60]} is {kind}, not a text or a whole number")
    if not value.strip():
        raise ValueError("no label")
    return printable(value.strip())


def printable(name: str) -> str:
    """Make a name valid UTF-8 that a terminal can show: file names may hold any bytes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
