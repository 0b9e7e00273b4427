"""Learning rates that change with the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="perennial")
class WarmupStaircase(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 at step 0, then falls to a tenth after each boundary.

    Args:
        peak: highest rate.
        steps: end of the warm-up, the boundaries, end of the training. The step at a boundary has
            the rate before it; from the end on, the lowest rate stays.
    """

    def __init__(self, peak: float, steps: Sequence[int]) -> None:
        super().__init__()
        self.peak = peak
        self.steps = tuple(steps)

    def __call__(self, step: Any) -> Any:
        """Compute the rate of `step`, an integer scalar from 0."""
        warmup, *boundaries, _ = self.steps
        # One power instead of repeated division, which rounds each time.
        drops = sum((ops.cast(step > boundary, "float32") for boundary in boundaries), 0.0)
        staircase = self.peak * ops.power(10.0, -ops.cast(drops, "float32"))
        rising = self.peak * ops.cast(step, "float32") / warmup
        return ops.where(step < warmup, rising, staircase)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"peak": self.peak, "steps": self.steps}


def warmup_cosine(peak: float, steps: int, warmup: int) -> keras.optimizers.schedules.CosineDecay:
    """Rises linearly from 0 over the first `warmup` of `steps` steps, then falls to 0 by a cosine.

    With a `warmup` of 0 it begins at `peak`.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else peak,
        decay_steps=max(steps - warmup, 1),
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )
