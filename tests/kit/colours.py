"""Spans of small coloured images, and settings that learn them in seconds."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.kit import image_corpus

COLORS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}

# TOML whose last table is [evaluate], for a test to go on with.
SETTINGS = """
[data]
source = "data/{SPAN}"
max_bad_fraction = 0.2
[validation]
warn = ["*"]
[transform]
image_size = 8
[infra_validation]
enabled = false
[train]
epochs = 6
batch_size = 8
[train.hyperparameters]
patch_size = 4
depth = 1
key_dim = 8
heads = 1
head_dims = [16]
flip = false
[evaluate]
"""


def picture(seed: int, color: tuple[int, ...], light: float = 1.0) -> bytes:
    """Return a PNG of 10 x 10 noisy pixels around a colour, darkened by `light`."""
    noise = np.random.default_rng(seed).normal(0, 25, (10, 10, 3))
    pixels = np.clip((np.array(color) + noise) * light, 0, 255).astype(np.uint8)
    return image_corpus.encoded(Image.fromarray(pixels), "PNG")
