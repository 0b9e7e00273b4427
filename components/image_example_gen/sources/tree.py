"""Number of images by folder, on the first levels of a tree."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable

from components.image_example_gen.sources import folder_names


@dataclasses.dataclass
class Top:
    """A folder of the root: number of images directly in it, and below its folders."""

    direct: int = 0
    subs: Counter[str] = dataclasses.field(default_factory=Counter)
    below: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)

    def is_flat(self, name: str) -> bool:
        """Return whether it has images and no class folders; one that repeats its name is none."""
        if not self.subs:
            return True
        sub = next(iter(self.subs))
        is_only = len(self.subs) == 1 and not self.direct and not self.below[sub]
        return is_only and (sub == name or folder_names.is_generic(sub))

    @property
    def wrapped(self) -> str:
        """The only folder in it, if that contains several folders; "" otherwise."""
        if self.direct or len(self.subs) != 1:
            return ""
        (sub,) = self.subs
        inner = self.below[sub]
        return sub if len(inner) > 1 and inner.total() == self.subs[sub] else ""


class Tree:
    """Counts of the images in a folder.

    Args:
      root: path or URI, for messages.
      names: paths of the images, relative to it; can be iterated repeatedly.
    """

    def __init__(self, root: str, names: Iterable[str]) -> None:
        self.root = root
        self.names = names
        self.tops: dict[str, Top] = {}
        self.folders: set[str] = set()  # with images
        self.images = 0
        for name in self.names:
            self.images += 1
            self.folders.add(name.rpartition("/")[0])
            parts = name.split("/")
            if len(parts) == 1:
                continue
            top = self.tops.setdefault(parts[0], Top())
            if len(parts) == 2:
                top.direct += 1
                continue
            top.subs[parts[1]] += 1
            below = top.below.setdefault(parts[1], Counter())
            if len(parts) > 3:
                below[parts[2]] += 1

    def files(self, tops: Collection[str]) -> list[str]:
        """Return the names of the files in these folders; for no folders, in the root."""
        split = (name.split("/") for name in self.names)
        return [p[-1] for p in split if (p[0] in tops if tops else len(p) == 1)]
