"""The interface of a data source to the ingest."""

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

# Control characters, line ends, and characters that change the direction of writing: in a name,
# they would move the cursor, break lines or make it look like another name.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Item(NamedTuple):
    """One input, which becomes an example, a duplicate or a line of the quarantine.

    Attributes:
      name: unique path within the source.
      label: class name; undefined if there is a problem.
      load: returns the bytes of the image file, or raises Unusable.
      size: approximate number of bytes.
      split: "train", "eval", "test", or "" to decide by the content.
      problem: kind and detail of a problem that is known without reading the image.
    """

    name: str
    label: str
    load: Callable[[], bytes]
    size: int
    split: str = ""
    problem: tuple[str, str] | None = None


class Unit(abc.ABC):
    """A part of a source that is read on its own; small, and can be pickled."""

    @abc.abstractmethod
    def items(self) -> Iterator[Item]:
        """Yield the inputs, in the same order each time."""


class Content(NamedTuple):
    """Something that the outcome of an ingest depends on: an identity, and a file, "" for none."""

    identity: str
    path: str = ""


@dataclasses.dataclass
class Listing:
    """The content of a source.

    Attributes:
      units: all inputs.
      contents: returns everything that the inputs depend on, in any order.
      inputs: number of inputs, None if unknown without reading.
      is_remote: whether any file is in an object store.
      ignored: number of files that are not inputs, by reason.
      notes: warnings.
      hint: the expected form, for a source without inputs.
      reading: how the source was read: pairs of a topic, such as classes, and a description.
      declared: names of classes that the source lists.
    """

    units: Sequence[Unit]
    contents: Callable[[], Iterable[Content]]
    inputs: int | None = None
    is_remote: bool = False
    ignored: Counter[str] = dataclasses.field(default_factory=Counter)
    notes: list[str] = dataclasses.field(default_factory=list)
    hint: str = ""
    reading: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    declared: tuple[str, ...] = ()


def split_name(text: str) -> str | None:
    """Return the split that a common name stands for; "" for no name, None if unknown."""
    return SPLIT_OF.get(text.strip().lower()) if text.strip() else ""


def label_of(value: object) -> str:
    """Return a class name: a text without surrounding blanks, or a whole number as text.

    Raises ValueError for other values, and for a blank text.
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
    """Escape invalid UTF-8 and control characters of a name, as a file name may contain both."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
