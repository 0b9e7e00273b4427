"""TFDV statistics of made-up examples."""

from __future__ import annotations

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import statistics_pb2

from components import features


def statistics(
    labels: list[str],
    width: int = 8,
    image_format: str = "png",
    normalized: str = "none",
    span: int = 0,
) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Statistics of one image for each of `labels`."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            features.LABEL_TEXT: labels,
            features.LABEL: range(len(labels)),
            features.HEIGHT: 8,
            features.WIDTH: width,
            features.ASPECT: width / 8,
            features.CHANNELS: 1,
            features.MEAN: 100.5,
            features.CONTRAST: 20.5,
            features.FORMAT: image_format,
            features.BYTES: 100,
            features.NORMALIZED: normalized,
            features.SPAN: span,
        }
    )
    return tfdv.generate_statistics_from_dataframe(frame)
