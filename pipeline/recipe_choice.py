"""Which recipe `train.recipe = "auto"` stands for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

AUTO = "auto"
SMALL = 64  # pixels of a side: below, a pretrained network's last layers see next to nothing
MANY = 20_000  # images: below, training from scratch falls behind
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


class Choice(NamedTuple):
    """A recipe, and why it is the one, in words."""

    recipe: str
    reason: str


def choose(images: int | None, side: float | None, gpus: int) -> Choice:
    """Choose by the number of images, their usual shorter side in pixels, and the GPUs.

    None stands for what is not known before the data is fetched. `bit` and `vit_finetune` are never
    chosen: they are good with pretrained weights only, and those must be named.
    """
    if side is not None and side < SMALL:
        return Choice(
            "vit",
            f"images of {side:.0f} px are too small for pretrained networks (below {SMALL} px)",
        )
    if images is None:
        return Choice("mobilenet", "nothing is known of the data before it is fetched")
    if images < MANY:
        return Choice(
            "mobilenet", f"{images:,} images are too few to train from scratch (below {MANY:,})"
        )
    if not gpus:
        return Choice(
            "mobilenet", f"{images:,} images, but no GPU to train a larger network from scratch"
        )
    return Choice("fixres", f"{images:,} images and a GPU are enough to train from scratch")


def count_gpus(listing: Path = NVIDIA_GPUS) -> int:
    """NVIDIA GPUs that the driver lists."""
    return len(list(listing.iterdir())) if listing.is_dir() else 0
