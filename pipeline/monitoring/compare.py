"""Compare a window of traffic with the baseline's data, at a known rate of false alarms.

Each check is a statistical test of the hypothesis that traffic and baseline have the same
distribution: Kolmogorov-Smirnov for numbers, chi-squared for class shares, Fisher's exact test for
the estimated accuracy, a binomial test for the share of unseen formats and sizes. A check is a
finding if its p-value is below false_alarms divided by the number of checks in the window
(Bonferroni correction) and its effect is above a limit. So the probability of any finding in an
undisturbed window is at most false_alarms, if images are independent of each other.

Images with equal bytes count once: a client that repeats a request adds no evidence.

Accuracy is estimated by average thresholded confidence (Garg et al., 2022, arXiv 2201.04234). The
threshold is the confidence that as many held-out images exceed as are classified correctly; the
estimate is the share of traffic above it. It assumes that confidence is as well calibrated on
traffic as on held-out images. It detects harder images, but not confident mistakes, such as images
of an unknown class.
"""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import stats

from components import features
from components.image_evaluator import estimates
from components.image_evaluator.figures import Estimate
from pipeline.monitoring import rows as recorded
from pipeline.monitoring.baseline import NUMBERS, Answers, Images
from pipeline.monitoring.figures import DRIFTED, LITTLE, STEADY, Check, Group, Pair, Report
from pipeline.monitoring.rows import Row
from pipeline.retraining import drift
from pipeline.settings.retraining import MonitorConfig

MOST = 5000  # images to compare; drawn at random from more
EMBEDDED = 1000  # images whose embeddings are computed if they were not recorded
_EXPECTED = 5.0  # expected count below which a category is merged with other rare ones
_UNSEEN_FACTOR = 2.0  # beyond the baseline's smallest and largest side, a size is unseen

_TITLES = {**recorded.FIELDS, features.MEAN: "brightness", features.BYTES: "bytes"}
ACCURACY = "estimated accuracy"

# Embeddings, float [N, D], by a version; None where there are none.
Embed = Callable[[int, Sequence[Row]], np.ndarray | None]


class _Draft(NamedTuple):
    """A `Check` before its level is known, which depends on their number."""

    name: str
    about: str
    images: int
    effect: float
    limit: float
    p: float
    text: str
    divergence: float | None = None


def compare(
    rows: Sequence[Row],
    since: datetime.datetime,
    until: datetime.datetime,
    images: Images,
    answers: Mapping[int, Answers | str],
    embed: Embed,
    config: MonitorConfig,
) -> Report:
    """Compare the rows of a window.

    Args:
      rows: of one model, of any versions and labels.
      since: beginning of the window, UTC.
      until: its end.
      images: of the baseline.
      answers: on the baseline's held-out images by version, or the reason for having none.
      embed: computes embeddings that were not recorded.
      config: limits.
    """
    asked = [row for row in rows if not row.is_shadow]
    different = _different(asked)
    drawn = _drawn(different)
    is_little = len(different) < config.min_images
    groups: list[Group] = []
    drafts: list[_Draft] = []
    notes: list[str] = []
    if not is_little:
        drafts += _of_images(drawn, images, config)
    else:
        notes.append(
            f"{len(different):,} different images are fewer than monitor.min_images = "
            f"{config.min_images}: too few for a verdict"
        )
    refused = Counter((row.model, row.label) for row in rows if row.status == "INVALID_ARGUMENT")
    answered = _by_group(rows)
    for (model, version, label), members in answered.items():
        known = answers.get(version, "it is not known")
        group = Group(
            model=model,
            version=version,
            label=label,
            images=len(members),
            refused=refused.pop((model, label), 0),
        )
        found: list[_Draft] = []
        if isinstance(known, str):
            group = group.model_copy(update={"note": known})
        elif any(len(row.probabilities) != len(known.classes) for row in members):
            group = group.model_copy(update={"note": "it has other classes than the baseline"})
        else:
            group, found = _of_answers(group, _drawn(members), known, embed, config)
        if len(members) < config.min_images:
            group = group.model_copy(update={"note": group.note or "too few images for a verdict"})
        elif not is_little:
            drafts += found
        groups.append(group)
    for (model, label), count in refused.items():
        groups.append(
            Group(model=model, version=0, label=label, images=0, refused=count, note="no answers")
        )
    pairs, found = _pairs(answered, config)
    drafts += [] if is_little else found
    level = config.false_alarms / max(1, len(drafts))
    checks = [
        Check(**each._asdict(), level=level, found=each.p < level and each.effect > each.limit)
        for each in drafts
    ]
    is_found = any(check.found for check in checks)
    return Report(
        since=since.isoformat(timespec="seconds"),
        until=until.isoformat(timespec="seconds"),
        verdict=DRIFTED if is_found else LITTLE if is_little else STEADY,
        images=len(different),
        repeats=len(asked) - len(different),
        compared=len(drawn),
        needed=config.min_images,
        false_alarms=config.false_alarms,
        detectable=None if is_little else _detectable(level, len(drawn), len(images)),
        reference=len(images),
        checks=checks,
        groups=groups,
        pairs=pairs,
        notes=notes,
    )


def _different(rows: Sequence[Row]) -> list[Row]:
    """Keep the first row of each image."""
    return list({row.sha256: row for row in reversed(rows)}.values())[::-1]


def _drawn(rows: Sequence[Row]) -> list[Row]:
    if len(rows) <= MOST:
        return list(rows)
    chosen = np.random.default_rng(0).choice(len(rows), MOST, replace=False)
    return [rows[index] for index in sorted(chosen)]


def _by_group(rows: Sequence[Row]) -> dict[tuple[str, int, str], list[Row]]:
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row.status == recorded.OK:
            found.setdefault((row.model, row.version, row.label), []).append(row)
    return {key: _different(found[key]) for key in sorted(found)}


def _detectable(level: float, images: int, reference: int) -> float:
    """Return the Kolmogorov-Smirnov distance that reaches the level."""
    size = images * reference / (images + reference)
    return min(1.0, math.sqrt(-0.5 * math.log(level / 2) / size))


def _of_images(rows: Sequence[Row], images: Images, config: MonitorConfig) -> Iterator[_Draft]:
    decoded = [row for row in rows if row.is_decoded]
    before = images.columns
    divergences = _divergences(decoded, before) if decoded else {}
    for name in NUMBERS if decoded else ():
        now = np.array([getattr(row, recorded.FIELDS[name]) for row in decoded], np.float64)
        test = stats.ks_2samp(now, before[name], method="asymp")
        yield _Draft(
            _TITLES[name],
            "images",
            len(now),
            float(test.statistic),
            config.min_effect,
            float(test.pvalue),
            f"median {np.median(now):,.4g} instead of {np.median(before[name]):,.4g}",
            divergences.get(name),
        )
    for name in (features.FORMAT, features.CHANNELS):
        chosen = rows if name == features.FORMAT else decoded
        found = [str(getattr(row, recorded.FIELDS[name])) for row in chosen]
        if found:
            yield _shares(
                _TITLES[name], "images", found, list(before[name]), config, divergences.get(name)
            )
    yield _unseen(rows, images, config)


def _divergences(rows: Sequence[Row], before: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Measure TFDV's distances between the derived features."""
    numbers = (*NUMBERS, features.CHANNELS)
    texts = (features.FORMAT,)
    now = {
        name: [getattr(row, recorded.FIELDS[name]) for row in rows] for name in (*numbers, *texts)
    }

    def batch(columns: Mapping[str, Iterable[Any]]) -> pa.RecordBatch:
        lists = {
            name: [[float(value)] if name in numbers else [str(value)] for value in columns[name]]
            for name in (*numbers, *texts)
        }
        return pa.RecordBatch.from_pydict(lists)

    found = drift.measured(
        drift.statistics(batch(now)), drift.statistics(batch(before)), texts, numbers
    )
    return {name: round(value, 4) for name, value in found}


def _shares(
    name: str,
    about: str,
    now: Sequence[str],
    before: Sequence[str],
    config: MonitorConfig,
    divergence: float | None = None,
) -> _Draft:
    """Test the shares of categories by chi-squared, rare ones merged."""
    counts, known = Counter(now), Counter(before)
    least = min(len(now), len(before)) / (len(now) + len(before))
    kept = [key for key in counts | known if (counts[key] + known[key]) * least >= _EXPECTED]
    table = np.array([[each[key] for key in kept] for each in (counts, known)], float)
    rest = np.array([[len(now)], [len(before)]]) - table.sum(axis=1, keepdims=True)
    table = np.hstack([table, rest])[:, np.append(np.ones(len(kept), bool), rest.sum() > 0)]
    p = float(stats.chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0
    moved = {key: counts[key] / len(now) - known[key] / len(before) for key in counts | known}
    most = max(moved, key=lambda key: abs(moved[key]))
    return _Draft(
        name,
        about,
        len(now),
        sum(map(abs, moved.values())) / 2,
        config.min_effect,
        p,
        f"{most!r} is {counts[most] / len(now):.1%} instead of {known[most] / len(before):.1%}",
        divergence,
    )


def _unseen(rows: Sequence[Row], images: Images, config: MonitorConfig) -> _Draft:
    """Test the share of images whose format or size the baseline does not have."""
    before = images.columns
    formats = set(before[features.FORMAT])
    sides = np.stack([before[features.HEIGHT], before[features.WIDTH]])
    least, most = sides.min() / _UNSEEN_FACTOR, sides.max() * _UNSEEN_FACTOR
    kinds = Counter(
        row.format
        if row.format not in formats
        else "undecodable"
        if not row.is_decoded
        else "smaller"
        if min(row.height, row.width) < least
        else "larger"
        if max(row.height, row.width) > most
        else ""
        for row in rows
    )
    del kinds[""]
    count = kinds.total()
    told = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(3))
    return _Draft(
        "unseen formats and sizes",
        "images",
        len(rows),
        count / len(rows),
        config.max_unseen,
        float(stats.binomtest(count, len(rows), config.max_unseen, alternative="greater").pvalue),
        f"{count:,} of {len(rows):,} images: {told}" if count else "none",
    )


def _of_answers(
    group: Group, rows: Sequence[Row], answers: Answers, embed: Embed, config: MonitorConfig
) -> tuple[Group, list[_Draft]]:
    now = np.array([row.probabilities for row in rows], np.float64)
    before = answers.probabilities.astype(np.float64)
    drafts = []
    classes = [answers.classes[index] for index in now.argmax(axis=1)]
    held_out = [answers.classes[index] for index in before.argmax(axis=1)]
    drafts.append(_shares("predicted classes", group.name, classes, held_out, config))
    figures = {"confidence": (now.max(axis=1), before.max(axis=1))}
    figures["entropy"] = (_entropy(now), _entropy(before))
    for name, (mine, theirs) in figures.items():
        drafts.append(_numbers(name, group, mine, theirs, config))
    accuracy, expected, p = _accuracy(*figures["confidence"], answers.right)
    assert accuracy.value is not None
    assert expected.value is not None
    drafts.append(
        _Draft(
            ACCURACY,
            group.name,
            len(rows),
            max(0.0, expected.value - accuracy.value),
            config.max_accuracy_drop,
            p,
            f"{accuracy.value:.1%} instead of {expected.value:.1%}",
        )
    )
    if found := _distances(group, rows, answers, embed, config):
        drafts.append(found)
    counts, known = Counter(classes), Counter(held_out)
    update = {
        "shares": {
            name: (
                estimates.proportion(counts[name], len(rows)),
                estimates.proportion(known[name], len(before)),
            )
            for name in answers.classes
            if name in counts | known
        },
        "confidence": estimates.sample_mean(figures["confidence"][0]),
        "entropy": estimates.sample_mean(figures["entropy"][0]),
        "accuracy": accuracy,
        "expected": expected,
    }
    return group.model_copy(update=update), drafts


def _numbers(
    name: str, group: Group, now: np.ndarray, before: np.ndarray, config: MonitorConfig
) -> _Draft:
    test = stats.ks_2samp(now, before, method="asymp")
    return _Draft(
        name,
        group.name,
        len(now),
        float(test.statistic),
        config.min_effect,
        float(test.pvalue),
        f"mean {now.mean():.4g} instead of {before.mean():.4g}",
    )


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Compute the entropy of each distribution, divided by the maximum, in 0 to 1."""
    most = math.log(max(2, probabilities.shape[1]))
    return stats.entropy(probabilities, axis=1) / most


def _accuracy(
    now: np.ndarray, before: np.ndarray, right: np.ndarray
) -> tuple[Estimate, Estimate, float]:
    """Estimate the accuracy; return it, the held-out accuracy, and the p-value of a drop."""
    count = int(right.sum())
    threshold = np.sort(before)[::-1][max(0, count - 1)]
    above, known = int((now >= threshold).sum()), int((before >= threshold).sum())
    # With ties, more may be above the threshold than are correct.
    excess = (known - count) / len(before)
    share = estimates.proportion(above, len(now))
    moved = {name: min(1.0, max(0.0, value - excess)) for name, value in share.model_dump().items()}
    table = [[above, len(now) - above], [known, len(before) - known]]
    p = float(stats.fisher_exact(table, alternative="less").pvalue)
    return Estimate(**moved), estimates.proportion(count, len(before)), p


def _distances(
    group: Group, rows: Sequence[Row], answers: Answers, embed: Embed, config: MonitorConfig
) -> _Draft | None:
    space = answers.space()
    if space is None:
        return None
    embeddings = embed(group.version, rows[:EMBEDDED])
    if embeddings is None or not len(embeddings):
        return None
    distances = space.distances(embeddings), space.distances(answers.held_out)
    return _numbers("embedding distance", group, *distances, config)


def _pairs(
    answered: Mapping[tuple[str, int, str], Sequence[Row]], config: MonitorConfig
) -> tuple[list[Pair], list[_Draft]]:
    """Compare the versions that answered about the same images."""
    pairs, drafts = [], []
    named = {
        Group(model=model, version=version, label=label, images=0, refused=0).name: (
            model,
            version,
            {row.sha256: row.predicted for row in rows},
        )
        for (model, version, label), rows in answered.items()
    }
    names = list(named)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            (model, version, mine), (other, number, theirs) = named[first], named[second]
            common = mine.keys() & theirs.keys()
            if model != other or version == number or not common:
                continue
            count = sum(mine[each] != theirs[each] for each in common)
            disagree = estimates.proportion(count, len(common))
            pairs.append(Pair(first=first, second=second, images=len(common), disagree=disagree))
            if len(common) >= config.min_images:
                test = stats.binomtest(
                    count, len(common), config.max_disagreement, alternative="greater"
                )
                drafts.append(
                    _Draft(
                        "disagreement",
                        f"{first} and {second}",
                        len(common),
                        count / len(common),
                        config.max_disagreement,
                        float(test.pvalue),
                        f"they disagree in {count:,} of {len(common):,} images",
                    )
                )
    return pairs, drafts
