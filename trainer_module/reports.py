"""What is left of a training to look at: TensorBoard's event files and the learning curves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape

import tensorflow as tf

LOGS = "logs"  # `tensorboard --logdir` shows it, after `pip install tensorboard`
CURVES_FILE = "curves.svg"

Row = Mapping[str, float]

_WIDTH, _HEIGHT, _MARGIN = 360, 240, 48
_COLORS = {"": "#1f77b4", "val_": "#d62728"}


# tf.summary.scalar is TensorBoard's, which TensorFlow does not bring along.
_SCALAR = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
)


class EventFiles:
    """Scalars of each epoch for TensorBoard, in `folder`/logs/train and /eval."""

    def __init__(self, folder: str) -> None:
        self._writers = {
            prefix: tf.summary.create_file_writer(os.path.join(folder, LOGS, name))
            for prefix, name in (("", "train"), ("val_", "eval"))
        }

    def write(self, row: Row) -> None:
        """Write one epoch's values, visible at once."""
        for prefix, writer in self._writers.items():
            with writer.as_default(step=int(row["epoch"])):
                for key, value in row.items():
                    if key != "epoch" and key.startswith("val_") == bool(prefix):
                        tag = f"epoch_{key.removeprefix(prefix)}"
                        tf.summary.write(tag, tf.constant(value, tf.float32), metadata=_SCALAR)
            writer.flush()


def curves(rows: Sequence[Row], phase_starts: Sequence[int]) -> str:
    """Loss and accuracy by epoch, training (blue) and evaluation (red), as an SVG image.

    A dashed line is drawn before each epoch of `phase_starts`, as where fine-tuning begins.
    """
    charts = "".join(
        f'<g transform="translate({index * (_WIDTH + 2 * _MARGIN)},0)">'
        f"{_chart(rows, metric, phase_starts)}</g>"
        for index, metric in enumerate(("loss", "accuracy"))
    )
    width, height = 2 * (_WIDTH + 2 * _MARGIN), _HEIGHT + 2 * _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{charts}</svg>\n'
    )


def _chart(rows: Sequence[Row], metric: str, phase_starts: Sequence[int]) -> str:
    series = {prefix: [row[prefix + metric] for row in rows] for prefix in _COLORS}
    values = [value for each in series.values() for value in each]
    low, high = (0.0, 1.0) if metric == "accuracy" else (min([0.0, *values]), max(values))
    last = max(len(rows), 2)

    def x(epoch: float) -> float:
        return round(_MARGIN + (epoch - 1) / (last - 1) * _WIDTH, 1)

    def y(value: float) -> float:
        return round(_MARGIN + (high - value) / ((high - low) or 1) * _HEIGHT, 1)

    parts = [
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" '
        'stroke="#999"/>',
        _text(_MARGIN, _MARGIN - 12, metric, "start"),
        _text(_MARGIN - 6, y(high) + 4, f"{high:.3g}", "end"),
        _text(_MARGIN - 6, y(low) + 4, f"{low:.3g}", "end"),
        _text(x(1), _MARGIN + _HEIGHT + 18, "1", "middle"),
        _text(x(last), _MARGIN + _HEIGHT + 18, f"epoch {last}", "middle"),
    ]
    parts += [
        f'<path d="M{x(start - 0.5)} {_MARGIN}v{_HEIGHT}" stroke="#999" stroke-dasharray="4"/>'
        for start in phase_starts
    ]
    for order, (prefix, each) in enumerate(series.items()):
        points = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in enumerate(each, 1))
        color, name = _COLORS[prefix], "evaluation" if prefix else "training"
        label = _text(_MARGIN + 120 + 90 * order, _MARGIN - 12, name, "start")
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
            f'<circle cx="{x(len(each))}" cy="{y(each[-1])}" r="3" fill="{color}"/>'
            f'<g fill="{color}">{label}</g>'
        )
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
