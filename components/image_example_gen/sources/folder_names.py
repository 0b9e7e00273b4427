"""Interpretation of the names of folders and files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from components.image_example_gen.sources.base import SPLIT_OF

# Names of files and folders that file servers, archivers and desktops create.
JUNK = frozenset(
    name.lower()
    for name in (
        *("@eaDir", "@Recycle", "@Recently-Snapshot", "@tmp", "#recycle", "#snapshot"),
        *("__MACOSX", "__pycache__", "$RECYCLE.BIN", "RECYCLER", "System Volume Information"),
        *("lost+found", "FOUND.000", "Network Trash Folder", "Temporary Items", "node_modules"),
        *("thumbs.db", "desktop.ini", "Icon\r"),
    )
)
# Words that may occur beside a split's name in the name of a folder.
_BESIDE = frozenset(
    (
        *("set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs"),
        *("folder", "split", "seg", "samples", "pics", "photos", "pictures", "cls", "the", "new"),
        *("all", "final", "classes", "class", "out"),
    )
)
_DOUBTFUL = frozenset(("holdout", "held", "unseen", "hold", "heldout"))
_UNLABELLED = frozenset(
    (
        *("pred", "prediction", "predict", "predictions", "unlabeled", "unlabelled", "unsup"),
        *("submission", "inference"),
    )
)
_GENERIC = frozenset(
    (
        *("images", "image", "img", "imgs", "pictures", "pics", "photos", "jpg", "jpeg", "jpegs"),
        *("png", "pngs", "jpegimages", "raw", "files", "data", "dataset", "datasets"),
        *("annotations", "annotation", "labels", "label", "masks", "mask", "meta", "metadata"),
        *("segmentation", "segmentations", "trimaps", "bbox", "boxes", "thumbs", "thumbnails"),
        *("small", "large", "original", "originals", "imagesets", "lists", "splits"),
    )
)
_LEFTOVERS = frozenset(
    (
        *("unsorted", "unlabeled", "unlabelled", "untagged", "tosort", "todo", "tmp", "temp"),
        *("trash", "rejected", "rejects", "duplicates", "newfolder", "backgroundgoogle", "masks"),
        *("mask", "annotations", "annotation"),
    )
)
_ORDINAL = re.compile(
    r"(batch|part|fold|set|session|run|span|day|week|month|year|group|chunk|dir|folder|vol|volume|"
    r"shard|split|cv|round|v|k|p|s)?[\W_]*\d+([\W_]+\d+)*",
    re.IGNORECASE,
)
_DATES = {
    r"\d{4}/\d{2}/\d{2}": "{YYYY}/{MM}/{DD}",
    r"\d{4}-\d{2}-\d{2}": "{YYYY}-{MM}-{DD}",
    r"\d{4}_\d{2}_\d{2}": "{YYYY}_{MM}_{DD}",
    r"(19|20)\d{2}[01]\d[0-3]\d": "{YYYY}{MM}{DD}",
}
_ENOUGH = 0.9  # share of the files that must match a pattern


def words(name: str) -> list[str]:
    """Split a name into words in lower case: `seg_train2` into seg and train."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", parted.lower())


def split_like(name: str) -> str:
    """Return the split that a folder is named after, "" for none: train for `training_set`."""
    found = words(name)
    splits = {SPLIT_OF[word] for word in found if word in SPLIT_OF}
    if set(found) & _DOUBTFUL:
        splits.add("test")
    if set(found) & _UNLABELLED and not splits and len(set(found) - _UNLABELLED - _BESIDE) == 0:
        splits.add("test")
    others = set(found) - SPLIT_OF.keys() - _DOUBTFUL - _UNLABELLED - _BESIDE
    return next(iter(splits)) if len(splits) == 1 and not others else ""


def is_doubtful(name: str) -> bool:
    """Return whether a folder that is named like a split may be either eval or test."""
    return bool(set(words(name)) & _DOUBTFUL)


def is_generic(name: str) -> bool:
    """Return whether a name stands for a part of a data set, not for a class."""
    return bool(found := words(name)) and all(word in _GENERIC for word in found)


def is_wordy(names: Collection[str]) -> bool:
    """Return whether all names may be classes: no numbers, dates, splits or words like `images`."""
    return bool(names) and not any(
        _ORDINAL.fullmatch(name) or is_generic(name) or split_like(name) for name in names
    )


def are_words(names: Collection[str]) -> bool:
    """Return whether no name is a number, a date, or a numbered part such as batch1."""
    return not any(_ORDINAL.fullmatch(name) for name in names)


def is_leftover(name: str) -> bool:
    """Return whether a folder has a name of unsorted images, or of files that are not a class."""
    return re.sub(r"[\W\d_]+", "", name.lower()) in _LEFTOVERS


def span_pattern(names: Sequence[str]) -> str:
    """Return the pattern of spans that all names match, "" for none."""
    for date, pattern in _DATES.items():
        if all(re.fullmatch(date, name) for name in names):
            return pattern
    found = [re.fullmatch(r"(\D*)(\d+)", name) for name in names]
    prefixes = {match[1] for match in found if match}
    if all(found) and len(prefixes) == 1 and not set("{}") & set(*prefixes):
        return f"{next(iter(prefixes))}{{SPAN}}"
    return ""


def folds(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the patterns of the train folders and of the eval folder, if all names are folds."""
    found = {m[2]: m[1] for name in names if (m := re.fullmatch(r"(?i)(\D*fold\D*)(\d)", name))}
    if len(found) != len(names) or len(set(found.values())) != 1 or len(names) < 2:
        return None
    *train, last = sorted(found)
    prefix = found[last]
    return f"{prefix}[{''.join(train)}]", f"{prefix}{last}"


def class_patterns(files: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield regular expressions that find a class in the names of files, and the classes."""
    for pattern in (r"(.*?\D)[\s._-]*\(?\d+\)?\.\w+", r"\d+[\s._-]+(.*?\D)\.\w+"):
        found = Counter(
            match[1].rstrip(" ._-(") for f in files if (match := re.fullmatch(pattern, f))
        )
        del found[""]
        repeated = {name: count for name, count in found.items() if count > 1}
        if len(repeated) > 1 and sum(repeated.values()) >= _ENOUGH * len(files):
            exact = pattern.replace(r"(.*?\D)[\s._-]*", r"(.*?)[\s._-]*")
            yield exact, sorted(repeated)
            return


def named_by(pattern: str, files: Sequence[str]) -> bool:
    """Return whether most files have a class in their name."""
    found = [m for name in files if (m := re.fullmatch(pattern, name)) and m[1]]
    return len(found) >= _ENOUGH * len(files)
