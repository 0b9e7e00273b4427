"""Warnings about data that can be trained on, one line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from components.image_example_gen.inputs import KEPT, Input
from components.image_example_gen.ledger import Ledger
from components.wording import counted, quoted, shortened

SHOWN = 3  # names of images
IMBALANCE = 10  # times as many images in one class as in another
TINY = 8  # times smaller than the median image, by the shorter side
EXTREME_ASPECT = 5  # times longer than wide, or the reverse

# Texts that programs write for a missing value.
_MISSING = frozenset(
    ("nan", "none", "null", "n/a", "na", "<na>", "#n/a", "nil", "undefined", "nat")
)

# Duplicates whose source puts them into another split than the original.
_DIFFERS = (
    "kind IS NULL AND NOT is_outside AND is_given AND split != "
    "(SELECT split FROM inputs AS kept WHERE kept.id = inputs.same_as)"
)

Pair = tuple[Input, Input]


def of_pairs(across_splits: list[Pair], across_classes: list[Pair]) -> list[str]:
    """Report pairs of images that look the same and are in different splits or classes."""
    found = []
    if across_splits:
        found.append(
            f"{len(across_splits):,} pairs look the same in different splits, which flatters the "
            f"evaluation (data.group_near_duplicates = true puts them together): "
            f"{_pairs(across_splits)}"
        )
    if across_classes:
        found.append(
            f"{len(across_classes):,} pairs look the same in different classes, so one of each may "
            f"be labelled wrong: {_pairs(across_classes)}"
        )
    return found


def of_splits(ledger: Ledger) -> list[str]:
    """Report images that the source has in two splits."""
    shared = ledger.count(_DIFFERS)
    if not shared:
        return []
    splits = quoted(ledger.values("split", _DIFFERS))
    first = list(ledger.entries(_DIFFERS, f"id LIMIT {SHOWN}"))
    return [
        f"{counted(shared, 'image')} of {splits} with the same content as held-out images, and "
        "therefore left out: "
        f"{_listed((f'{e.name} = {e.duplicate_of}' for e in first), shared)}"
    ]


def _pairs(pairs: Sequence[Pair]) -> str:
    return shortened((f"{first.name} = {second.name}" for first, second in pairs), limit=SHOWN)


def _listed(first: Iterable[str], count: int) -> str:
    more = f" and {count - SHOWN:,} more" if count > SHOWN else ""
    return ", ".join(first) + more


def of_names(declared: Set[str], classes: Sequence[str]) -> list[str]:
    """Report declared classes without images, and classes called like a missing value."""
    found = []
    if missing := sorted(declared - set(classes)) if classes else []:
        found.append(
            f"no image of {quoted(missing)}, which the file of class names has; check whether its "
            "numbers are off by one, as then every class has a wrong name"
        )
    if empty := [name for name in classes if name.strip().lower() in _MISSING]:
        found.append(f"class {quoted(empty)} has the name of a missing value")
    return found


def of_classes(counts: Mapping[tuple[str, str], int], classes: list[str]) -> list[str]:
    """Report classes of very different sizes; counts: images by split and class."""
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


def of_sizes(ledger: Ledger) -> list[str]:
    """Report very small and very long images."""
    median = ledger.median_side()
    found = []
    if tiny := ledger.count(f"{KEPT} AND MIN(width, height) * {TINY} < {median}"):
        found.append(
            f"{counted(tiny, 'image')} tiny beside the median of {median:g} pixels: "
            f"{_sizes(ledger, f'MIN(width, height) * {TINY} < {median}', tiny)}"
        )
    long = f"MAX(width, height) > {EXTREME_ASPECT} * MIN(width, height)"
    if extreme := ledger.count(f"{KEPT} AND {long}"):
        found.append(
            f"{counted(extreme, 'image')} more than {EXTREME_ASPECT} times as long as wide: "
            f"{_sizes(ledger, long, extreme)}"
        )
    return found


def _sizes(ledger: Ledger, condition: str, count: int) -> str:
    found = ledger.sizes(condition, SHOWN)
    return _listed((f"{name} ({width} x {height})" for name, width, height in found), count)
