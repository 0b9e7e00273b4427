"""The record of a training: written by the Trainer into its model_run, read by reports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

HISTORY_FILE = "history.json"


class History(BaseModel):
    """What a training did, epoch by epoch; epochs and phase_starts count from 1.

    images: number by split. base_model: serving path of the model whose weights it began with, ""
    for none. epochs: see `fit.EpochMetrics`.
    """

    # Losses of a training that diverged are NaN.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    images: dict[str, int]
    base_model: str = ""
    seconds: float
    steps: int
    best_epoch: int
    phase_starts: list[int]
    epochs: list[dict[str, float]]
