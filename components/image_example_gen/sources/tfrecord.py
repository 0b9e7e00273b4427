"""TFRecords of tf.Examples, with features as in TensorFlow Datasets and TF Object Detection.

A record's image is in `image/encoded` or `image`; its class is in `image/class/text`,
`image/class/label` or `label`, or in `image/object/class/...` if all objects have the same class;
data.image_feature and data.label_feature set other names. Numbers are mapped to the class names in
`*.labels.txt`, `labels.txt`, `label_map.pbtxt`, `labelmap.pbtxt` or similar files in the same
folder; numbers that are negative or missing there are not classes. The records' split is that in
the file's name, as in `flowers-train.tfrecord-00000-of-00002`.
"""

# Locations may be URIs, which pathlib would change.
# ruff: noqa: PTH112, PTH113, PTH119, PTH120, PTH208

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from google.protobuf.message import DecodeError

from components import storage
from components.errors import BadDataError
from components.framing import TooLargeError
from components.image_example_gen import files
from components.image_example_gen.options import Options
from components.image_example_gen.source_name import RECORDS
from components.image_example_gen.sources import records
from components.image_example_gen.sources.base import (
    SPLIT_OF,
    Content,
    Item,
    Listing,
    Unit,
    printable,
)

_IMAGE = ("image/encoded", "image")
_LABEL = (
    "image/class/text",
    "image/class/label",
    "label",
    "image/object/class/text",
    "image/object/class/label",
)
# Files of class names; TensorFlow Datasets writes `NAME.labels.txt`.
_NAMES = re.compile(
    r"(.*\.)?labels\.txt|classes\.txt|class_names\.txt|.*label[_-]?map\.pbtxt|labels?\.pbtxt"
)
_MAX_TEXT_BYTES = 2**24
_OTHER_FEATURES_BYTES = 2**20  # of a record besides the image


def recognises(location: str) -> bool:
    """Return whether a local folder directly contains files named like TFRecords."""
    with os.scandir(location) as entries:
        return any(RECORDS.search(entry.name) and entry.is_file() for entry in entries)


def listing(location: str, options: Options) -> Listing:
    """List a TFRecord file or a folder of them. Raises BadDataError."""
    names, others = _names(location)
    if not names and not others:
        raise BadDataError(f"{location}: no such file or folder of TFRecords")
    root = location[: -len(names[0])] if names and location.endswith(names[0]) else location
    texts = {name: _text(root, name) for name in others if _tells_names(name)}
    image, label = _features(texts, options)
    classes = _class_names(texts, root)
    return Listing(
        units=_Units(
            _RecordUnit(root, name, image, label, tuple(sorted(classes.items())), options.max_bytes)
            for name in names
        ),
        contents=lambda: [
            Content(json.dumps([name, image, label]), files.join(root, name))
            for name in [*names, *texts]
        ],
        is_remote=storage.is_uri(location),
        ignored=Counter({"not a TFRecord file": len(others) - len(texts)}),
        declared=tuple(sorted(set(classes.values()))),
        reading=[
            ("Classes", _told(classes, texts, label)),
            ("Splits", "by the names of the files if these have one, else by content"),
        ],
        hint="expected files such as train.tfrecord or name-train.tfrecord-00000-of-00001",
    )


def _names(location: str) -> tuple[list[str], list[str]]:
    """List TFRecord files and other files, relative to the folder."""
    if storage.is_uri(location):
        found = list(files.list_remote(location))
        if found == [""]:
            return [os.path.basename(location)], []
    elif os.path.isdir(location):
        found = [entry.name for entry in os.scandir(location) if entry.is_file()]
    elif os.path.isfile(location):
        # Given by the user; may have any name.
        folder = os.path.dirname(location) or "."
        beside = [name for name in os.listdir(folder) if _tells_names(name)]
        return [os.path.basename(location)], sorted(beside)
    else:
        return [], []
    visible = sorted(name for name in found if not os.path.basename(name).startswith("."))
    chosen = [name for name in visible if RECORDS.search(name)]
    return chosen, [name for name in visible if name not in set(chosen)]


def _tells_names(name: str) -> bool:
    return name in ("features.json", "dataset_info.json") or bool(_NAMES.fullmatch(name))


def _told(classes: Mapping[int, str], texts: Mapping[str, str], label: tuple[str, ...]) -> str:
    if not classes:
        return f"texts or numbers of {' or '.join(label)}"
    named = ", ".join(file for file in sorted(texts) if _NAMES.fullmatch(file))
    first, last = min(classes), max(classes)
    return f"{len(classes):,} names of {named}, for the numbers {first} to {last}"


def _text(root: str, name: str) -> str:
    try:
        return files.read(files.join(root, name), _MAX_TEXT_BYTES).decode("utf-8-sig")
    except (files.Unusable, UnicodeDecodeError) as error:
        raise BadDataError(f"{files.join(root, name)}: {error}") from error


def _features(
    texts: Mapping[str, str], options: Options
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of image and label features: as set, as TFDS declares, or common ones."""
    declared: dict[str, str] = {}
    try:
        info = json.loads(texts.get("dataset_info.json", "{}"))
        declared_features = json.loads(texts.get("features.json", "{}"))
        features: dict[str, Any] = declared_features.get("featuresDict", {}).get("features", {})
        for name, feature in features.items():
            declared.setdefault(str(feature["pythonClassName"]).rpartition(".")[2], name)
        stored = info.get("fileFormat", "tfrecord")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise BadDataError(f"not the description of a TFDS data set: {error!r}") from error
    if stored != "tfrecord":
        raise BadDataError(
            f"the data set is stored as {stored}; prepare it again with file_format='tfrecord'"
        )
    image = options.image_feature or declared.get("Image", "")
    label = options.label_feature or declared.get("ClassLabel", "")
    return (image,) if image else _IMAGE, (label,) if label else _LABEL


def _class_names(texts: Mapping[str, str], root: str) -> dict[int, str]:
    """Return class names by number, {} if there is no file of them.

    Raises BadDataError if a number has two names, or a name two numbers: classes would be merged.
    """
    names: dict[int, str] = {}
    for file, text in sorted(texts.items()):
        for number, name in _numbered(file, text):
            if names.setdefault(number, name) != name:
                raise BadDataError(
                    f"{files.join(root, file)}: {number} is named {names[number]!r} and {name!r}"
                )
    numbers: dict[str, int] = {}
    for number, name in names.items():
        if numbers.setdefault(name, number) != number:
            raise BadDataError(
                f"{root}: {name!r} is the name of {numbers[name]} and of {number}; "
                "give each number a name of its own"
            )
    return names


def _numbered(file: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbers and names of classes in a file; blank lines are skipped."""
    if file.endswith(".pbtxt"):
        for block in re.findall(r"item\s*\{(.*?)\}", text, re.S):
            number = re.search(r"\bid\s*:\s*(\d+)", block)
            name = re.search(r"\bname\s*:\s*(?:\"([^\"]*)\"|'([^']*)')", block)
            if number and name:
                yield int(number[1]), printable((name[1] or name[2] or "").strip())
    elif _NAMES.fullmatch(file):
        for index, line in enumerate(text.splitlines()):
            numbered = re.fullmatch(r"(\d+):(.+)", line)
            number_text, name_text = numbered.groups() if numbered else (str(index), line)
            if name_text.strip():
                yield int(number_text), printable(name_text.strip())


@dataclasses.dataclass(frozen=True)
class _RecordUnit(Unit):
    """A file of records, or `count` of them from number `first` at `position` on."""

    root: str
    name: str
    image: tuple[str, ...]
    label: tuple[str, ...]
    classes: tuple[tuple[int, str], ...]
    max_bytes: int
    first: int = 0
    position: int = 0
    count: int | None = None

    def parts(self) -> Iterator[_RecordUnit]:
        """Divide the unit if the file is large, local and not compressed."""
        path = files.join(self.root, self.name)
        if storage.is_uri(path):
            yield self
            return
        for first, position, count in records.parts(path, self._limit):
            yield dataclasses.replace(self, first=first, position=position, count=count)

    @property
    def _limit(self) -> int:
        return self.max_bytes + _OTHER_FEATURES_BYTES

    def items(self) -> Iterator[Item]:
        import tensorflow as tf  # slow, and not needed to list files

        words = re.split(r"[^a-z]+", os.path.basename(self.name).lower())
        split = next((SPLIT_OF[word] for word in reversed(words) if word in SPLIT_OF), "")
        classes = dict(self.classes)
        number = self.first
        try:
            with files.local_copy(files.join(self.root, self.name)) as path:
                found = records.read(path, self.position, self._limit)
                for record in itertools.islice(found, self.count):
                    name = f"{printable(self.name)}#{number:06d}"
                    yield self._item(name, split, record, classes, tf.train.Example.FromString)
                    number += 1
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if isinstance(error, TooLargeError):
                reason = f"{reason}, see data.max_pixels"
            until = "" if self.count is None else f" up to {self.first + self.count - 1:06d}"
            detail = f"this record and all after it{until} cannot be read: {reason}"
            name = f"{printable(self.name)}#{number:06d}"
            yield Item(name, "", bytes, 0, problem=("damaged", detail))

    def _item(
        self,
        name: str,
        split: str,
        record: bytes,
        classes: Mapping[int, str],
        parse: Callable[[bytes], Any],
    ) -> Item:
        load = functools.partial(bytes, record)
        try:
            features = parse(record).features.feature
        except DecodeError:
            return Item(name, "", load, len(record), problem=("not a tf.Example", ""))
        image = next((key for key in self.image if features[key].bytes_list.value), None)
        if image is None:
            wanted = " or ".join(self.image)
            known = ", ".join(sorted(key for key in features if features[key].WhichOneof("kind")))
            detail = f"no bytes in {wanted}; there are {known}; see data.image_feature"
            return Item(name, "", load, len(record), problem=("no image", detail[:300]))
        load = functools.partial(bytes, features[image].bytes_list.value[0])
        problem, label = None, ""
        try:
            label = self._label(features, classes)
        except ValueError as error:
            problem = ("no class", f"{error}; see data.label_feature")
        return Item(name, label, load, len(record), split, problem)

    def _label(self, features: Any, classes: Mapping[int, str]) -> str:
        """Return the class of a record. Raises ValueError if it has none, or several."""
        for key in self.label:
            texts = {
                value.decode("utf-8", "backslashreplace").strip()
                for value in features[key].bytes_list.value
            } - {""}
            numbers = set(features[key].int64_list.value)
            unknown = sorted(n for n in numbers if n < 0 or (classes and n not in classes))
            if unknown:
                known = f"the class names are for {min(classes)} to {max(classes)}"
                raise ValueError(f"number {unknown[0]}: {known if classes else 'it is negative'}")
            labels = texts | {classes.get(number, str(number)) for number in numbers}
            if len(labels) > 1:
                raise ValueError(f"objects of {len(labels)} classes")
            if labels:
                return printable(labels.pop())
            if features[key].float_list.value:
                raise ValueError(f"{key} is a number with a point, not a text or a whole number")
        raise ValueError("none of " + ", ".join(self.label))


class _Units(Sequence[Unit]):
    """The units of files, whose parts are found when they are needed first."""

    def __init__(self, whole: Iterable[_RecordUnit]) -> None:
        self._whole = list(whole)

    @functools.cached_property
    def _parts(self) -> list[_RecordUnit]:
        return [part for unit in self._whole for part in unit.parts()]

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Unit]: ...
    def __getitem__(self, index: int | slice) -> Unit | Sequence[Unit]:
        return self._parts[index]
