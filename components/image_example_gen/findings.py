"""What a person should look at in data that can be trained on, one line each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence, Set

from components.image_example_gen.inputs import Input
from components.image_example_gen.writing import Facts
from components.wording import counted, quoted, shortened

IMBALANCE = 10  # times as many images in one class as in another
TINY = 8  # times smaller than the median image, by the shorter side
EXTREME_ASPECT = 5  # times longer than wide, or the reverse

# What programs write where there is no value.
_MISSING = frozenset(
    ("nan", "none", "null", "n/a", "na", "<na>", "#n/a", "nil", "undefined", "nat")
)

Pair = tuple[Input, Input]


def of_pairs(across_splits: list[Pair], across_classes: list[Pair]) -> list[str]:
    """Pairs of images that look the same and are in different splits or classes."""
    found = []
    if across_splits:
        found.append(
            f"{len(across_splits):,} pairs look the same in different splits, which flatters the "
            f"evaluation (data.group_near_duplicates = true puts them together): "
            f"{_named(across_splits)}"
        )
    if across_classes:
        found.append(
            f"{len(across_classes):,} pairs look the same in different classes, so one of each may "
            f"be labelled wrong: {_named(across_classes)}"
        )
    return found


def of_splits(inputs: Sequence[Input]) -> list[str]:
    """Images that the source itself has in two splits."""
    by_name = {entry.name: entry for entry in inputs if entry.is_kept}
    pairs = [
        (entry, by_name[entry.duplicate_of])
        for entry in inputs
        if entry.duplicate_of in by_name and entry.is_given
    ]
    shared = [(copy, kept) for copy, kept in pairs if copy.split != kept.split]
    if not shared:
        return []
    splits = quoted(sorted({copy.split for copy, _ in shared}))
    return [
        f"{counted(len(shared), 'image')} of {splits} with the same content as held-out images, "
        f"and therefore left out: {_named(shared)}"
    ]


def _named(pairs: list[Pair]) -> str:
    return shortened([f"{first.name} = {second.name}" for first, second in pairs], limit=3)


def of_names(declared: Set[str], classes: Sequence[str]) -> list[str]:
    """Classes that the source says it has and that have no image, and names that stand for none."""
    found = []
    if missing := sorted(declared - set(classes)) if classes else []:
        found.append(
            f"no image of {quoted(missing)}, which the file of class names has; where numbers are "
            "off by one, every class has the name of another"
        )
    if empty := [name for name in classes if name.strip().lower() in _MISSING]:
        found.append(f"class {quoted(empty)} has the name of a missing value")
    return found


def of_classes(counts: Mapping[tuple[str, str], int], classes: list[str]) -> list[str]:
    """Classes of very different sizes, by the images of each split and class."""
    sizes = {
        label: sum(count for (_, of), count in counts.items() if of == label) for label in classes
    }
    if not sizes:
        return []
    largest, smallest = max(sizes, key=lambda k: sizes[k]), min(sizes, key=lambda k: sizes[k])
    if sizes[largest] <= IMBALANCE * sizes[smallest]:
        return []
    return [
        f"classes are out of balance: {counted(sizes[largest], 'image')} of {largest!r}, "
        f"{sizes[smallest]:,} of {smallest!r}"
    ]


def of_sizes(facts: Mapping[str, Facts]) -> list[str]:
    """Images that are very small or long, by name."""
    if not facts:
        return []
    median = statistics.median(min(fact.width, fact.height) for fact in facts.values())
    tiny, extreme = [], []
    for name, fact in sorted(facts.items()):
        short, long = sorted((fact.width, fact.height))
        shown = f"{name} ({fact.width} x {fact.height})"
        if short * TINY < median:
            tiny.append(shown)
        if long > EXTREME_ASPECT * short:
            extreme.append(shown)
    found = []
    if tiny:
        found.append(
            f"{counted(len(tiny), 'image')} tiny beside the median of {median:g} pixels: "
            f"{shortened(tiny, limit=3)}"
        )
    if extreme:
        found.append(
            f"{counted(len(extreme), 'image')} more than {EXTREME_ASPECT} times as long as wide: "
            f"{shortened(extreme, limit=3)}"
        )
    return found
