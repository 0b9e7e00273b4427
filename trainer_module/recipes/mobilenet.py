"""Transfer learning with a pretrained MobileNetV2: the recipe transfer at its cheapest.

The defaults are what was found best in docs/results.md: a head on frozen features of 256 px, at ten
times the learning rate of the source. The values of the source itself, the TensorFlow tutorial
"Transfer learning and fine-tuning", are the preset `tensorflow-transfer`. With ImageNet weights at
160 px the tutorial reports, on cats versus dogs, some 96 % of the validation images right after the
first phase and 98.27 % after the second, and 98.96 % of the test images.

Command: `perennial run --recipe mobilenet --data DIR` with, below train.hyperparameters, alpha=0.35
and weights=FILE (ImageNet's, of keras.applications).

Result: 97 to 98 % of the 100 validation images that 300 cats and dogs come with, 93.7 % of all 300
in five parts, 84.6 % of 500 flowers, all held out (docs/results.md).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer_module.recipes import transfer
from trainer_module.recipes.transfer import TRAINING, check, weights

__all__ = ["TRAINING", "Config", "check", "image_sizes", "weights"]


# Pixels of a side: those of the network, and the images that are enlarged to fewer.
SIZE, SIZE_OF_SMALL, SMALL = 256, 160, 64


class Config(transfer.Config):
    """Hyperparameters of the network and of its two phases."""

    backbone: Literal["MobileNetV2"] = Field(
        "MobileNetV2",
        description="Always MobileNetV2. For other networks, use the recipe transfer.",
    )


def image_sizes(config: Config, height: float, width: float) -> dict[str, int]:  # noqa: ARG001
    """Return the transform settings: larger images show no more of a small one."""
    return {"image_size": SIZE_OF_SMALL if min(height, width) < SMALL else SIZE}
