"""Selection of recorded images that a person should label, by active learning.

At most a quarter of the budget goes to images on which versions disagree, and another quarter to
images further from the training images than 99 % of the held-out ones. The rest goes to the images
with the smallest margin between the two likeliest classes, taken from each predicted class in turn,
because a few classes make up most traffic. Three times as many images are shortlisted; of these,
greedy k-centre in the penultimate layer (arXiv 1708.00489) picks a diverse subset. Images that have
a label, and all but one of near duplicates, are left out.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.image_example_gen import near_duplicates
from components.image_example_gen.files import Unusable
from components.image_example_gen.images import THUMB, read_image
from components.image_example_gen.options import Options
from pipeline.errors import ConfigError, DataError
from pipeline.monitoring.baseline import Answers
from pipeline.monitoring.compare import EMBEDDED, Embed
from pipeline.monitoring.label_table import IMAGES, ITEMS, TABLE, write_table
from pipeline.monitoring.rows import OK, Row

UNSURE, DISTANT, DISAGREE = "unsure", "distant", "versions disagree"
_SHARE = 4  # of the budget, one in so many for each of the other reasons
_POOL = 3  # times as many unsure images as are wanted, of which the diverse ones are taken
_FAR = 0.99  # of the held-out images are nearer than a distant one
CHOICES = 9  # of the likeliest classes, one for each key


class Candidates(NamedTuple):
    """Images to choose from.

    probabilities: float [N, classes].
    points: in the penultimate layer, float [N, D]; D is 0 without embeddings.
    is_far: bool [N], further from the training images than 99 % of the held-out ones.
    is_disputed: bool [N], whether versions disagree.
    """

    probabilities: np.ndarray
    points: np.ndarray
    is_far: np.ndarray
    is_disputed: np.ndarray


def choose(candidates: Candidates, number: int) -> list[tuple[int, str]]:
    """Choose at most `number` candidates with reasons, in the order in which to label them."""
    best = np.sort(candidates.probabilities, axis=1)[:, ::-1]
    second = best[:, 1] if best.shape[1] > 1 else np.zeros(len(best))
    order = np.argsort(best[:, 0] - second, kind="stable")
    chosen: dict[int, str] = {}
    for flags, reason in (
        (candidates.is_disputed, DISAGREE),
        (candidates.is_far, DISTANT),
    ):
        found = [int(index) for index in order if flags[index] and index not in chosen]
        few = min(-(-number // _SHARE), number - len(chosen))
        chosen |= dict.fromkeys(_diverse(candidates.points, found[: _POOL * few], few), reason)
    left = number - len(chosen)
    rest = [int(index) for index in order if index not in chosen]
    pool = _by_turns(rest, candidates.probabilities.argmax(axis=1))[: _POOL * left]
    chosen |= dict.fromkeys(_diverse(candidates.points, pool, left, list(chosen)), UNSURE)
    return list(chosen.items())


def _by_turns(indices: Sequence[int], predicted: np.ndarray) -> list[int]:
    """Interleave `indices` by predicted class, keeping the order within a class."""
    groups: dict[int, list[int]] = {}
    for index in indices:
        groups.setdefault(int(predicted[index]), []).append(index)
    turns = itertools.zip_longest(*groups.values())
    return [index for turn in turns for index in turn if index is not None]


def _diverse(
    points: np.ndarray, pool: Sequence[int], number: int, given: Sequence[int] = ()
) -> list[int]:
    """Choose at most `number` of the pool by greedy k-centre, with `given` as first centres."""
    if len(pool) <= number or not points.shape[1]:
        return list(pool[:number])
    chosen: list[int] = []
    nearest = np.full(len(pool), np.inf)
    inside = points[list(pool)]
    for centre in given:
        nearest = np.minimum(nearest, np.linalg.norm(inside - points[centre], axis=1))
    place = 0 if not len(given) else int(nearest.argmax())
    for _ in range(number):
        chosen.append(pool[place])
        nearest = np.minimum(nearest, np.linalg.norm(inside - inside[place], axis=1))
        nearest[place] = -1.0  # what is chosen, also where others are equal to it
        place = int(nearest.argmax())
    return chosen


@dataclasses.dataclass(frozen=True)
class LabelRequest:
    """An image to label. choices: all classes, the likeliest first."""

    row: Row
    reason: str
    choices: list[str]

    @property
    def name(self) -> str:
        return f"{IMAGES}/{self.row.sha256[:16]}.{'jpg' if self.row.format == 'jpeg' else 'png'}"


def select(
    rows: Sequence[Row], answers: Answers, embed: Embed, known: Collection[str], number: int
) -> list[LabelRequest]:
    """Choose images that the main version predicted; rows of others show disagreement.

    Args:
      rows: of a window.
      answers: of the main version, on the held-out images.
      embed: see `compare`.
      known: SHA-256 of images that have a label.
      number: most images.

    Raises DataError if there is no image to choose from.
    """
    usable = [row for row in rows if row.status == OK and row.image and row.sha256 not in known]
    version = main_version(usable)
    votes: dict[str, set[str]] = {}
    for row in usable:
        votes.setdefault(row.sha256, set()).add(row.predicted)
    mine = {row.sha256: row for row in reversed(usable) if row.version == version}
    kept = _without_near_duplicates(
        sorted(mine.values(), key=lambda row: float(max(row.probabilities)))
    )
    if not kept:
        raise DataError(
            "no recorded image can be labelled: images were not recorded, have a label, or were "
            "refused"
        )
    probabilities = np.array([row.probabilities for row in kept], np.float64)
    points, far = _places(version, kept, answers, embed)
    candidates = Candidates(
        probabilities, points, far, np.array([len(votes[row.sha256]) > 1 for row in kept])
    )
    return [
        LabelRequest(
            kept[index],
            reason,
            [answers.classes[each] for each in np.argsort(-probabilities[index], kind="stable")],
        )
        for index, reason in choose(candidates, number)
    ]


def main_version(rows: Sequence[Row]) -> int:
    """Return the version that answered most requests; 0 without any."""
    counts: dict[int, int] = {}
    for row in rows:
        if row.status == OK and not row.is_shadow:
            counts[row.version] = counts.get(row.version, 0) + 1
    return max(counts, key=lambda version: (counts[version], version), default=0)


def _places(
    version: int, rows: Sequence[Row], answers: Answers, embed: Embed
) -> tuple[np.ndarray, np.ndarray]:
    """Return `points` and `is_far` of `Candidates`."""
    space = answers.space()
    parts = [rows[start : start + EMBEDDED] for start in range(0, len(rows), EMBEDDED)]
    found = [embed(version, part) for part in parts] if space else []
    if space is None or any(each is None for each in found):
        return np.zeros((len(rows), 0)), np.zeros(len(rows), bool)
    embeddings = np.concatenate([each for each in found if each is not None])
    limit = np.quantile(space.distances(answers.held_out), _FAR)
    return space.project(embeddings), space.distances(embeddings) > limit


def _without_near_duplicates(rows: Sequence[Row]) -> list[Row]:
    """Keep the first of each group of images that look the same."""
    thumbs, found = [], []
    for row in rows:
        try:
            thumbs.append(read_image(row.image, Options.max_pixels).thumb)
        except Unusable:
            continue
        found.append(row)
    pixels = np.frombuffer(b"".join(thumbs), np.uint8).reshape(len(thumbs), 3 * THUMB**2)
    dropped = {
        place
        for group in near_duplicates.groups(near_duplicates.find(pixels))
        for place in group[1:]
    }
    return [row for place, row in enumerate(found) if place not in dropped]


def write(asked: Sequence[LabelRequest], classes: Sequence[str], folder: Path) -> None:
    """Write the images, TABLE with an empty column `label`, and ITEMS for the page.

    Raises ConfigError if the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; name a new folder")
    (folder / IMAGES).mkdir(parents=True)
    for each in asked:
        (folder / each.name).write_bytes(each.row.image)
    items = [{"image": each.name, "choices": each.choices[:CHOICES]} for each in asked]
    (folder / ITEMS).write_text(
        json.dumps({"classes": sorted(classes), "images": items}, ensure_ascii=False), "utf-8"
    )
    write_table(folder / TABLE, _lines(asked))


def _lines(asked: Sequence[LabelRequest]) -> Iterator[dict[str, str]]:
    for each in asked:
        yield {
            "image": each.name,
            "label": "",  # a guess that nobody has looked at is not a label
            "guess": each.row.predicted,
            "confidence": f"{float(max(each.row.probabilities)):.3f}",
            "reason": each.reason,
            "request": each.row.request,
            "version": str(each.row.version),
        }
