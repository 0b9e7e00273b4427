"""Which recipe `train.recipe = "auto"` stands for."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from typing import NamedTuple

from components import environment

AUTO = "auto"
SMALL = 64  # pixels of a side: below, a pretrained network's last feature maps are too small
MANY = 20_000  # images: below, training from scratch falls behind
LEAST_MEMORY = 3e9  # bytes: what mobilenet takes beside TensorFlow, at 256 px
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
# Server of keras.applications, and its file of MobileNetV2.
PUBLISHER = ("storage.googleapis.com", 443)
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
WAIT_S = 3.0


class Choice(NamedTuple):
    """A recipe, and the reason for it."""

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
    if side is not None and side < SMALL:
        return Choice(
            "vit",
            f"images of {side:.0f} px are too small for pretrained networks (below {SMALL} px)",
        )
    if gpus and images is not None and images >= MANY:
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
    """Tell whether mobilenet's weights are in the cache, or their server can be reached."""
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
