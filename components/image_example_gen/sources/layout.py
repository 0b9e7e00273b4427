"""Interpretation of the folders of a tree as classes, splits, spans, or neither.

It depends on names and on the places of images. If several readings are plausible, the error has a
command for each. `data.layout`, `data.depth`, `data.train_folder`, `data.eval_folder`,
`data.test_folder`, `data.name_pattern` and `data.ignore` determine the reading.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from components.errors import BadDataError
from components.image_example_gen.options import Options
from components.image_example_gen.sources import folder_names
from components.image_example_gen.sources.base import SPLIT_OF, printable
from components.image_example_gen.sources.suggestions import Suggestions
from components.image_example_gen.sources.tree import Tree
from components.wording import shortened

_MOST = 0.5  # share of the images that make a reading plausible


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the paths of a tree are read.

    Attributes:
      splits: split by top folder; empty if these are not splits.
      level: the folder in a path that names the class, from 1; unused with `pattern`.
      pattern: finds the class in the name of a file, as its first group.
      reading: description: pairs of a topic, such as classes, and a text.
      notes: warnings.
    """

    splits: Mapping[str, str]
    level: int
    pattern: re.Pattern[str] | None = None
    reading: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


def read(root: str, names: Iterable[str], options: Options) -> Layout:
    """Interpret a tree. Raises BadDataError if several readings are plausible, or none."""
    tree = Tree(root, names)
    suggest = Suggestions(tree.root, options)
    pattern = re.compile(options.name_pattern) if options.name_pattern else None
    if options.layout == "splits" or any(_patterns(options).values()):
        splits = _named_splits(tree, options, suggest)
    elif options.layout == "classes" or not tree.tops:
        splits = {}
        if not tree.tops and pattern is None:
            _refuse_flat_root(tree, suggest)
    else:
        splits = _splits(tree, options, suggest)
        if not splits and options.depth == 1 and pattern is None:
            _refuse_ambiguous(tree, suggest)
    if splits and (deeper := _deeper(tree, splits, options)):
        below = _classes_below(tree, splits)
        named = _as_splits(splits)
        suggest.add(f"{_told(splits)}, with the classes {below}", deeper, named)
        suggest.add("every folder is a class", layout="classes")
        suggest.stop("the class folders are one folder further down than the splits")
    layout = Layout(splits, options.depth + bool(splits), pattern)
    return dataclasses.replace(
        layout, reading=_reading(tree, layout), notes=_notes(tree, layout, options)
    )


def _patterns(options: Options) -> dict[str, str]:
    return {
        "train": options.train_folder,
        "eval": options.eval_folder,
        "test": options.test_folder,
    }


def _named_splits(tree: Tree, options: Options, suggest: Suggestions) -> dict[str, str]:
    """Find the splits by the patterns in the settings, else by their names."""
    patterns = _patterns(options)
    if any(patterns.values()):
        for split, pattern in patterns.items():
            if pattern and not fnmatch.filter(tree.tops, pattern):
                raise BadDataError(
                    f"{tree.root}: no folder of images is called {pattern!r} (data.{split}_folder);"
                    f" there are {shortened(sorted(tree.tops)) or 'none'}"
                )
        splits: dict[str, str] = {}
        for top in sorted(tree.tops):
            of = [name for name, each in patterns.items() if each and fnmatch.fnmatch(top, each)]
            if len(of) > 1:
                keys = " and ".join(f"data.{name}_folder = {patterns[name]!r}" for name in of)
                raise BadDataError(
                    f"{tree.root}: {printable(top)}/ is meant by {keys}; a folder can be of one "
                    "split only"
                )
            splits |= dict.fromkeys([top] if of else [], "".join(of))
    else:
        found = {top: folder_names.split_like(top) for top in tree.tops}
        splits = {top: split for top, split in found.items() if split}
    left = sorted(tree.tops.keys() - splits.keys())
    if left:
        suggest.add("without them", suggest.ignoring(left))
        suggest.stop(f"{_folders(left)} without a split, although data.layout is splits")
    if "train" not in splits.values():
        raise BadDataError(
            f"{tree.root}: none of the folders {shortened(sorted(tree.tops))} is the train split; "
            "name it with --set data.train_folder=NAME"
        )
    return splits


def _splits(tree: Tree, options: Options, suggest: Suggestions) -> dict[str, str]:
    """Find the splits by the names of the top folders; {} if these are not splits."""
    tops = tree.tops
    like = {top: split for top in tops if (split := folder_names.split_like(top))}
    if "train" not in like.values():
        return {}
    flat = sorted(top for top in like if tops[top].is_flat(top))
    others = sorted(tops.keys() - like.keys())
    named = options.name_pattern != ""
    if len(flat) == len(like) and not named:
        # Classes may be called so; several that are all called so rarely are.
        if len(like) > 1 and not others:
            _stop_at_flat_splits(tree, flat, suggest)
        return {}
    nested = {top: split for top, split in like.items() if named or top not in flat}
    if others or (flat and not named):
        if others and not _is_split(tree, nested):
            return {}
        left = others + (flat if not named else [])
        suggest.add(
            f"{_told(nested)}, without {_folders(left)}",
            suggest.ignoring(left),
            _as_splits(nested),
            _deeper(tree, nested, options),
        )
        suggest.add("every folder is a class", layout="classes")
        what = "no class folders" if not others else "no split's name"
        suggest.stop(
            f"{_folders(sorted(nested))} named like splits, but {_folders(left)} with {what}"
        )
    if doubtful := sorted(top for top in nested if folder_names.is_doubtful(top)):
        for split in ("eval", "test"):
            told = {**nested, **dict.fromkeys(doubtful, split)}
            suggest.add(_told(told), _by_pattern(told))
        suggest.add(f"without {_folders(doubtful)}", suggest.ignoring(doubtful))
        suggest.add("every folder is a class", layout="classes")
        suggest.stop(f"{_folders(doubtful)} named like a split, and it is not clear which")
    return nested


def _is_split(tree: Tree, nested: Collection[str]) -> bool:
    """Return whether a folder called like train looks like a split, beside other folders."""
    return any(
        len(tree.tops[top].subs) > 1
        and not tree.tops[top].direct
        and folder_names.split_like(top) == "train"
        and folder_names.is_wordy(tree.tops[top].subs)
        for top in nested
    )


def _stop_at_flat_splits(tree: Tree, flat: Sequence[str], suggest: Suggestions) -> None:
    train = [top for top in flat if folder_names.split_like(top) == "train"]
    told = {top: folder_names.split_like(top) for top in flat}
    for pattern, classes in folder_names.class_patterns(tree.files(train)):
        names = f"classes {shortened(classes)} from the names of the files"
        unnamed = [top for top in flat if not folder_names.named_by(pattern, tree.files([top]))]
        if unnamed:
            rest = {top: split for top, split in told.items() if top not in unnamed}
            suggest.add(
                f"{names}, without {_folders(unnamed)}, whose file names have none",
                suggest.ignoring(unnamed),
                _as_splits(rest),
                name_pattern=pattern,
            )
        else:
            suggest.add(names, _as_splits(told), name_pattern=pattern)
    suggest.add("every folder is a class", layout="classes")
    suggest.stop(
        f"{_folders(flat)} named like splits, but with images and no class folders, whose classes "
        "must be in the names of the files, or in a manifest"
    )


def _refuse_flat_root(tree: Tree, suggest: Suggestions) -> None:
    for pattern, classes in folder_names.class_patterns(tree.files([])):
        suggest.add(
            f"classes {shortened(classes)} from the names of the files", name_pattern=pattern
        )
    if suggest.found:
        suggest.stop("the images are in no class folders")


def _refuse_ambiguous(tree: Tree, suggest: Suggestions) -> None:
    tops = tree.tops
    if len(tops) == 1:
        _refuse_wrapper(tree, suggest)
    if all(map(folder_names.is_generic, tops)):
        _stop_at_generic(tree, suggest)
    if len(tops) == 1:
        return
    _refuse_numbers(tree, suggest)
    places = Counter[str]()
    shared = Counter[str]()
    for top in tops.values():
        places.update(top.subs.keys())
        shared.update(top.subs)
    both = {sub for sub, count in places.items() if count > 1}
    inner = sorted(sub for sub in both if folder_names.split_like(sub))
    if len(inner) > 1 and sum(shared[sub] for sub in inner) >= _MOST * tree.images:
        suggest.add(f"classes {shortened(sorted(tops))}, split by content", layout="classes")
        suggest.stop(
            f"the class folders hold the splits {shortened(inner)}, which are read above class "
            "folders only, as in train/cat, or from a manifest with the column split"
        )
    wordy = sorted(sub for sub in both if folder_names.is_wordy([sub]))
    if len(wordy) > 1 and sum(shared[sub] for sub in wordy) >= _MOST * tree.images:
        _stop_at_levels(tree, wordy, f"{_folders(sorted(tops))} with the same folders", suggest)
    everything = sorted(shared)
    if (
        not any(top.direct for top in tops.values())
        and sum(len(top.subs) > 1 for top in tops.values()) >= _MOST * len(tops)
        and folder_names.is_wordy(everything)
        and shared.total() == tree.images
    ):
        text = f"{_folders(sorted(tops))} with folders only, and so classes may be on two levels"
        _stop_at_levels(tree, everything, text, suggest)


def _stop_at_levels(tree: Tree, classes: Sequence[str], seen: str, suggest: Suggestions) -> None:
    tops = sorted(tree.tops)
    if spans := folder_names.span_pattern(tops):
        suggest.add(
            f"spans, of which each has classes such as {shortened(classes)}",
            below=spans,
            spans=len(tops),
        )
    if folds := folder_names.folds(tops):
        suggest.add(
            f"classes {shortened(classes)}, evaluated on {folds[1]}",
            train_folder=folds[0],
            eval_folder=folds[1],
        )
    suggest.add(f"classes {shortened(classes)} of all folders together", depth=2)
    suggest.add(f"classes {shortened(tops)}", layout="classes")
    suggest.stop(seen)


def _refuse_numbers(tree: Tree, suggest: Suggestions) -> None:
    """Stop if all folders of the root are numbers or dates, and names are on a deeper level."""
    tops = sorted(tree.tops)
    if any(top.direct for top in tree.tops.values()) or folder_names.are_words(tops):
        return
    folders = [name.split("/") for name in tree.folders if name]
    for level in range(2, min(map(len, folders)) + 1):
        names = sorted({parts[level - 1] for parts in folders})
        if folder_names.are_words(names) and len(names) > 1:
            above = sorted({"/".join(parts[: level - 1]) for parts in folders})
            if level > 2 and (spans := folder_names.span_pattern(above)):
                text = f"spans, of which each has classes such as {shortened(names)}"
                suggest.add(text, below=spans, spans=len(above))
            if level > 2:
                suggest.add(f"classes {shortened(names)} of all folders together", depth=level)
                suggest.add(f"classes {shortened(tops)}", layout="classes")
                suggest.stop(f"{_folders(tops)} are named by numbers, with named folders in them")
            return


def _refuse_wrapper(tree: Tree, suggest: Suggestions) -> None:
    (top,) = tree.tops
    path = _way_down(tree)
    if path:
        depth = path.count("/") + 1
        inner = sorted({n.split("/")[depth] for n in tree.names if n.count("/") > depth})
        # Numbered folders in a class folder may be parts of the class.
        if inner and not any(
            folder_names.is_wordy([n]) or folder_names.split_like(n) for n in inner
        ):
            return
        if spans := folder_names.span_pattern([top]):
            suggest.add(f"spans, of which each has classes such as {shortened(inner)}", below=spans)
        suggest.add(f"the folders {shortened(inner)} of {printable(path)}", below=path)
        suggest.stop(f"the only folder with images is {printable(top)!r}")


def _way_down(tree: Tree) -> str:
    """Return the folder that contains all images in several folders; "" for none."""
    split = [name.split("/") for name in tree.folders if name]
    common: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "" if any(len(parts) == len(common) for parts in split) else "/".join(common)


def _stop_at_generic(tree: Tree, suggest: Suggestions) -> None:
    largest = max(tree.tops, key=lambda top: tree.tops[top].direct + tree.tops[top].subs.total())
    for pattern, classes in folder_names.class_patterns(tree.files([largest])):
        text = f"classes {shortened(classes)} from the names of the files of {printable(largest)}"
        suggest.add(text, below=largest, name_pattern=pattern)
    if not suggest.found:
        suggest.add(f"only {printable(largest)}", below=largest)
    suggest.add("every folder is a class", layout="classes")
    suggest.stop(f"{_folders(sorted(tree.tops))} named like parts of a data set, not classes")


def _deeper(tree: Tree, splits: Collection[str], options: Options) -> dict[str, int]:
    """Return the settings for splits whose class folders are one level deeper."""
    wrapped = all(tree.tops[top].wrapped for top in splits)
    return {"depth": 2} if wrapped and options.depth == 1 and not options.name_pattern else {}


def _as_splits(splits: Mapping[str, str]) -> dict[str, str]:
    """Return the settings for these splits, if their names are not sufficient."""
    certain = all(top.strip().lower() in SPLIT_OF for top in splits)
    return {} if certain else {"layout": "splits"}


def _by_pattern(splits: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for top, split in sorted(splits.items()):
        found.setdefault(f"{split}_folder", top)
    return found


def _classes_below(tree: Tree, tops: Collection[str]) -> str:
    found = {name for top in tops for below in tree.tops[top].below.values() for name in below}
    return shortened(sorted(found))


def _told(splits: Mapping[str, str]) -> str:
    return ", ".join(f"{printable(top)}/ is {split}" for top, split in sorted(splits.items()))


def _folders(names: Sequence[str]) -> str:
    return shortened(f"{printable(name)}/" for name in names)


def _reading(tree: Tree, layout: Layout) -> list[tuple[str, str]]:
    level = layout.level
    classes = {parts[level - 1] for name in tree.names if len(parts := name.split("/")) > level}
    shown = shortened(sorted(map(printable, classes)), limit=10)
    kind = "folder" if len(classes) == 1 else "folders"
    where = "" if level == 1 else f" on level {level}"
    if layout.pattern is not None:
        text = f"in the names of the files, by {layout.pattern.pattern!r} (data.name_pattern)"
    else:
        text = f"{len(classes):,} {kind}{where}: {shown}" if classes else "none"
    splits = _told(layout.splits) if layout.splits else ""
    if not splits:
        splits = "by the content of each image"
    elif "eval" not in layout.splits.values():
        splits += "; eval is a part of train, by the content of each image"
    return [("Classes", text), ("Splits", splits)]


def _notes(tree: Tree, layout: Layout, options: Options) -> list[str]:
    notes = []
    odd = sorted(top for top in layout.splits if top.strip().lower() not in SPLIT_OF)
    if odd and options.layout != "splits" and not any(_patterns(options).values()):
        notes.append(f"read as splits by their names: {_told({t: layout.splits[t] for t in odd})}")
    if layout.pattern is not None:
        return notes
    level = layout.level
    inner: dict[str, set[str]] = {}
    for name in tree.names:
        parts = name.split("/")
        if len(parts) > level:
            below = inner.setdefault(parts[level - 1], set())
            if len(parts) > level + 1:
                below.add(parts[level])
    notes += [
        f"class folder {printable(name)!r} is not named like a class; "
        f"--set 'data.ignore=[\"{printable(name)}\"]' leaves it out"
        for name in sorted(inner)
        if folder_names.is_leftover(name)
    ]
    if len(inner) == 1 and len(below := next(iter(inner.values()))) > 1:
        (name,) = inner
        notes.append(
            f"the only class folder is {printable(name)!r}; where {shortened(sorted(below))} in it "
            "are the classes, give that folder"
        )
    deep = sorted(name for name, below in inner.items() if len(below) > 1)
    wordy = [name for name in deep if folder_names.is_wordy(inner[name])]
    if wordy and options.depth == 1 and options.layout != "classes":
        shown = f"{wordy[0]}/{{{','.join(sorted(inner[wordy[0]])[:3])}}}"
        notes.append(
            f"folders in class folders name no classes: all below {printable(shown)} is "
            f"{printable(wordy[0])!r}"
        )
    return notes
