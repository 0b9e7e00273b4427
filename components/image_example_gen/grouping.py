"""The final splits of images, after decoding, when it is known which look the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence

from components.image_example_gen import near_duplicates, splitting
from components.image_example_gen.inputs import Input, Problem
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.near_duplicates import Pair


def settle(
    ledger: Ledger,
    pairs: Sequence[Pair],
    shares: Mapping[str, int],
    group: bool,
    window: Collection[int] | None,
) -> None:
    """Decide on the final splits of the kept images.

    Args:
      ledger: all inputs; those that look like images in two splits are quarantined.
      pairs: ids of kept images that look the same.
      shares: split name to its share.
      group: whether images that look the same are put into one split.
      window: numbers of the spans to train on, None for all.
    """
    ledger.redraw()
    groups = near_duplicates.groups(pairs)
    if group:
        _bring_together(ledger, pairs, groups)
    splitting.fill(ledger, shares, window, groups, group)


def _bring_together(ledger: Ledger, pairs: Sequence[Pair], groups: Sequence[Sequence[int]]) -> None:
    kept = ledger.of([at for members in groups for at in members])
    beside: dict[int, list[int]] = {}
    for first, second in pairs:
        beside.setdefault(first, []).append(second)
        beside.setdefault(second, []).append(first)
    for members in groups:
        fixed = [at for at in members if kept[at].is_given or kept[at].is_known]
        # The first image keeps its split, so that later copies move no image.
        first = min(members, key=lambda at: (kept[at].span, kept[at].sha256))
        splits = {kept[at].split for at in fixed or [first]}
        if len(splits) == 1:
            for at in set(members) - set(fixed):
                kept[at].split = next(iter(splits))
        else:
            _spread(kept, sorted(fixed, key=lambda at: kept[at].sha256), set(members), beside)
    ledger.update(kept.values())


def _spread(
    kept: Mapping[int, Input], fixed: list[int], members: set[int], beside: Mapping[int, list[int]]
) -> None:
    """Give images the split of fixed images that look like them; quarantine those of two splits.

    In either split, such an image would look like one in the other split.
    """
    settled, waiting = set(fixed), deque(fixed)
    while waiting:
        around = beside[waiting.popleft()]
        for at in sorted(set(around) & members - settled, key=lambda each: kept[each].sha256):
            settled.add(at)
            near = [kept[other] for other in beside[at] if other in settled and other != at]
            near = sorted((e for e in near if e.problem is None), key=lambda e: (e.split, e.name))
            kept[at].split = near[0].split
            if near[0].split != near[-1].split:
                told = " and ".join(f"{e.name} in {e.split}" for e in (near[0], near[-1]))
                kept[at].problem = Problem("between splits", f"looks the same as {told}")
            else:
                waiting.append(at)
