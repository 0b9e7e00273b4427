"""The choice of the recipe that `train.recipe = "auto"` stands for."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from typing import NamedTuple

from components import environment

AUTO = "auto"
TINY = 32  # pixels of a side: below, enlarging for a pretrained network was not found better
SMALL = 64  # pixels of a side: below, images are too small for networks that shrink them 32 times
MANY = 20_000  # images: below, training from scratch falls behind
LEAST_MEMORY = 3e9  # bytes: what mobilenet takes beside TensorFlow, at 256 px
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
# Server of keras.applications, and its file of MobileNetV2.
PUBLISHER = ("storage.googleapis.com", 443)
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
WAIT_S = 3.0


class Choice(NamedTuple):
    """A recipe, and the reason for it, in words."""

    recipe: str
    reason: str


def choose(
    images: int | None,
    side: float | None,
    gpus: int,
    *,
    weights: bool = True,
    memory: float | None = None,
) -> Choice:
    """Choose by the data and the machine.

    `bit` and `vit_finetune` are never chosen: they are good with pretrained weights only, and those
    must be named.

    Args:
        images: their number; None: not known before they are fetched.
        side: their usual shorter side in pixels; None as for `images`.
        gpus: of this machine.
        weights: whether those of ImageNet are available.
        memory: bytes of this machine, None where it is not known.
    """
    if side is not None and side < TINY:
        return Choice(
            "vit",
            f"images of {side:.0f} px are too small for pretrained networks (below {TINY} px)",
        )
    is_small = side is not None and side < SMALL
    if gpus and images is not None and images >= MANY and not is_small:
        return Choice("fixres", f"{images:,} images and a GPU are enough to train from scratch")
    if not weights:
        return Choice(
            "vit",
            f"the weights of ImageNet are not in {environment.keras_home() / 'models'}, and "
            f"{PUBLISHER[0]} cannot be reached, so a small network is trained from scratch; with a "
            "file of weights, mobilenet is far better",
        )
    if memory is not None and memory < LEAST_MEMORY and not gpus:
        return Choice("vit", f"{memory / 1e9:.1f} GB of memory are too few for mobilenet")
    if is_small:
        return Choice(
            "mobilenet",
            f"images of {side:.0f} px, enlarged, are told apart better by a pretrained network "
            "than by a small one from scratch",
        )
    if images is None:
        return Choice("mobilenet", "the data is not on this machine yet")
    if images < MANY:
        return Choice(
            "mobilenet", f"{images:,} images are too few to train from scratch (below {MANY:,})"
        )
    return Choice(
        "mobilenet", f"{images:,} images, but no GPU to train a larger network from scratch"
    )


def count_gpus(listing: Path = NVIDIA_GPUS) -> int:
    """Count the NVIDIA GPUs that the driver lists."""
    return len(list(listing.iterdir())) if listing.is_dir() else 0


def weights_at_hand(publisher: tuple[str, int] = PUBLISHER) -> bool:
    """Return whether mobilenet's weights were fetched before, or probably can be now."""
    if (environment.keras_home() / "models" / WEIGHTS).is_file():
        return True
    # Who has a proxy has it for this.
    if "https" in urllib.request.getproxies():
        return True
    try:
        socket.create_connection(publisher, timeout=WAIT_S).close()
    except OSError:
        return False
    return True
