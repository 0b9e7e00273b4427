"""A folder of class folders: ROOT/[train|validation|test/]<class name>/.../<image file>.

`layout` finds out what the folders mean. Links are followed only inside the root. Ignored are
hidden files, files that match `data.ignore`, files of file servers, and files that have neither the
name nor the first bytes of an image. All other files are inputs, even if they cannot be used.
"""

# Locations may be URIs, which pathlib would change.
# ruff: noqa: PTH112, PTH122

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence

from components import progress, storage
from components.errors import BadDataError
from components.image_example_gen import files
from components.image_example_gen.options import Options
from components.image_example_gen.sources import folder_names, layout
from components.image_example_gen.sources.base import Listing, printable
from components.image_example_gen.sources.file_table import Files, FileTable, Names, SourceFile

# Includes formats that cannot be read, so that such photos are quarantined instead of ignored.
EXTENSIONS = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp"),
        *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ico", ".svg", ".psd"),
        *(".ppm", ".pgm", ".dng", ".cr2", ".nef", ".arw"),
    ]
)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_HEAD_BYTES = 16


def listing(location: str, options: Options) -> Listing:
    """List a folder. Raises BadDataError if it cannot be read, or is ambiguous."""
    ignored: Counter[str] = Counter()
    if storage.is_uri(location):
        found = Files(_remote_entries(location, ignored, options.ignore))
    elif os.path.isdir(location):
        # This takes minutes for millions of files, or on a slow disk.
        with progress.Counter("list", None, "entries") as counter:
            found = Files(counter.each(_Walk(location, ignored, options.ignore)))
    else:
        raise BadDataError(f"{location}: no such folder; --data takes a folder of class folders")
    read = layout.read(location, Names(found), options)
    notes = list(read.notes)
    labelled = _labelled(found, read, notes)
    table = FileTable(location, labelled, options.max_bytes, by_name=True)
    return Listing(
        units=table,
        contents=lambda: table.contents,
        inputs=table.files,
        is_remote=storage.is_uri(location),
        ignored=ignored,
        notes=notes,
        hint=f"expected {'<folder>/' * (options.depth - 1)}<class name>/<image>, as in cat/1.jpg",
        reading=list(read.reading),
    )


def _labelled(found: Files, read: layout.Layout, notes: list[str]) -> Iterator[SourceFile]:
    """Give each file the class and split of its folders, or the class in its name.

    At the end, class folders without images are added to the beginning of `notes`.
    """
    level = read.level
    used: set[str] = set()
    empty: set[str] = set()
    names = _class_names(found, level)
    for file in found:
        parts = file.name.split("/")
        if file.problem == _FOLDER:
            empty |= {parts[level - 1]} if len(parts) == level else set()
            continue
        if read.pattern is not None:
            match = read.pattern.fullmatch(parts[-1])
            label, missing = (
                match[1] or "" if match else "",
                "its name does not match data.name_pattern",
            )
        else:
            inside = len(parts) > level or (file.is_folder and len(parts) == level)
            label = names.get(parts[level - 1], parts[level - 1].strip()) if inside else ""
            missing = f"not inside a class folder, as in cat/1.jpg (data.depth = {level})"
        if len(parts) > level or file.is_folder:
            used.add(parts[min(level, len(parts)) - 1])
        if label.strip():
            label, split = printable(label), read.splits.get(parts[0], "")
            yield file._replace(label=label, split=split)
        elif file.problem:
            yield file
        else:
            yield file._replace(problem=("no class", missing))
    lost = sorted(empty - used) if read.pattern is None else []
    notes[:0] = [f"class folder {printable(name)!r} holds no image" for name in lost]


def _class_names(found: Files, level: int) -> dict[str, str]:
    """Map names of folders to classes: without surrounding blanks, if they stay distinct."""
    parts = (name.split("/") for name in found.names())
    names = {each[level - 1] for each in parts if len(each) > level}
    counts = Counter(name.strip() for name in names)
    return {name: name if counts[name.strip()] > 1 else name.strip() for name in names}


def is_left_out(name: str, ignore: Sequence[str]) -> str:
    """Return the reason to ignore a file or folder with this name, "" for none."""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
        return "by data.ignore"
    return f"in {name}" if name.lower() in folder_names.JUNK else ""


_FOLDER = ("folder", "")  # marks a folder among the entries of a walk


def _remote_entries(
    location: str, ignored: Counter[str], ignore: Sequence[str]
) -> Iterator[SourceFile]:
    for name, size in files.list_remote(location).items():
        parts = name.split("/")
        if reason := next(filter(None, (is_left_out(part, ignore) for part in parts)), ""):
            ignored[reason] += 1
        elif any(part.startswith(".") for part in parts):
            ignored["hidden"] += 1
        elif os.path.splitext(name)[1].lower() not in EXTENSIONS:
            ignored[_other("not named like an image", name)] += 1
        else:
            yield SourceFile(name, size=size)


class _Walk:
    """Iterable of all inputs and folders below a local root, unlabelled."""

    def __init__(self, root: str, ignored: Counter[str], ignore: Sequence[str]) -> None:
        self._root = os.path.realpath(root)
        self._ignored = ignored
        self._ignore = ignore

    def __iter__(self) -> Iterator[SourceFile]:
        # Not recursive: folders may be nested deeper than Python's limit.
        waiting: list[tuple[str, tuple[str, ...]]] = [("", ())]
        while waiting:
            name, above = waiting.pop()
            path = os.path.join(self._root, name)
            within = (*above, path)
            try:
                with os.scandir(path) as entries:
                    if name:
                        yield SourceFile(name, problem=_FOLDER)
                    for entry in filter(self._is_visible, entries):
                        child = f"{name}/{entry.name}" if name else entry.name
                        if problem := self._link_problem(entry, within):
                            yield SourceFile(
                                child, problem=("link", problem), is_folder=os.path.isdir(entry)
                            )
                        elif entry.is_dir():
                            waiting.append((child, within))
                        elif file := self._file(entry, child):
                            yield file
            except OSError as error:
                if not name:
                    raise BadDataError(
                        f"{self._root}: cannot be read ({error.strerror}); check its permissions"
                    ) from error
                yield SourceFile(
                    name, problem=("unreadable", f"folder: {error.strerror}"), is_folder=True
                )

    def _is_visible(self, entry: os.DirEntry[str]) -> bool:
        reason = is_left_out(entry.name, self._ignore)
        if reason:
            self._ignored[reason] += _files_below(entry)
        elif entry.name.startswith("."):
            reason = "hidden"
            self._ignored[reason] += 1
        return not reason

    def _link_problem(self, entry: os.DirEntry[str], within: tuple[str, ...]) -> str:
        if not entry.is_symlink():
            return ""
        try:
            target = os.path.realpath(entry.path, strict=True)
        except OSError as error:
            return f"leads nowhere: {error.strerror}"
        if os.path.commonpath([self._root, target]) != self._root:
            return "leads outside the data root"
        is_inside = target in map(os.path.realpath, within)
        return "leads to a folder that holds it" if is_inside else ""

    def _file(self, entry: os.DirEntry[str], name: str) -> SourceFile | None:
        try:
            status = entry.stat()
        except OSError as error:
            return SourceFile(name, problem=("unreadable", error.strerror or str(error)))
        if not stat.S_ISREG(status.st_mode):
            self._ignored["special file"] += 1
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS or _begins_like_an_image(
            entry.path
        ):
            return SourceFile(name, size=status.st_size)
        else:
            self._ignored[_other("not an image", entry.name)] += 1
        return None


def _other(reason: str, name: str) -> str:
    """Add the extension of a file to the reason, if it is short."""
    suffix = os.path.splitext(name)[1].lower()
    return f"{reason} ({suffix})" if _SUFFIX.fullmatch(suffix) else reason


_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,7}")


def _files_below(entry: os.DirEntry[str]) -> int:
    """Count the files in a folder; 1 for a file."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(names) for _, _, names in os.walk(entry.path))


def _begins_like_an_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
