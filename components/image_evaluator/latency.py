"""The latency of an exported model for one image."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from components import servable
from components.image_evaluator.figures import Latency

SIGNATURE = servable.IMAGES
WARM_UP, FEWEST, MOST = 5, 20, 200  # requests
SECONDS = 5.0  # after which the fewest are enough


def measure(model_path: str, images: Sequence[bytes]) -> Latency:
    """Predict one encoded image at a time, over and over; the first do not count."""
    predict = tf.saved_model.load(model_path).signatures[SIGNATURE]
    taken: list[float] = []
    while len(taken) < WARM_UP + MOST:
        if len(taken) >= WARM_UP + FEWEST and sum(taken[WARM_UP:]) > SECONDS:
            break
        image = tf.constant([images[len(taken) % len(images)]])
        started = time.perf_counter()
        predict(image)["probabilities"].numpy()
        taken.append(time.perf_counter() - started)
    p50, p95 = np.percentile(np.array(taken[WARM_UP:]) * 1000, [50, 95])
    return Latency(p50_ms=float(p50), p95_ms=float(p95), requests=len(taken) - WARM_UP)
