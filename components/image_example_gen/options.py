"""The settings of an ingest beside its source and splits, as they travel through MLMD."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of reading data and refusing it.

    Attributes:
      depth: level of the folder that names the class, 1 for ROOT/<class>/..., 2 for
        ROOT/<anything>/<class>/...; folder sources only.
      layout: what the folders of the root are: "classes", "splits" above class folders, or "auto"
        where their names tell; folder sources only, as all up to `ignore`.
      train_folder, eval_folder, test_folder: patterns of the folders that are these splits.
      name_pattern: regular expression that whole names of files match and whose first group is the
        class; "" where folders name the classes.
      ignore: patterns of names of files and folders that are left out.
      image_feature, label_feature: features of tf.Examples; empty: the names in general use.
      spans: number of latest spans to read; for sources with {SPAN} or a date.
      first_span, last_span: read these spans, ends included, instead of the latest.
      held_out: "all" reads the eval and test images of all spans up to the latest that is read,
        and train images of those only; "window" reads all images of those only.
      max_pixels: images of more pixels are quarantined without being decoded.
      max_bad_fraction: share of quarantined inputs, 0 to 1, beyond which the data is refused.
      min_eval: images that the eval split must have outside its largest class.
      group_near_duplicates: put images that look the same into the same split.
      similar_classes: "stop" refuses class names that look alike, "keep" takes them as they are.
    """

    depth: int = 1
    layout: str = "auto"
    train_folder: str = ""
    eval_folder: str = ""
    test_folder: str = ""
    name_pattern: str = ""
    ignore: tuple[str, ...] = ()
    image_feature: str = ""
    label_feature: str = ""
    spans: int = 1
    first_span: int | None = None
    last_span: int | None = None
    held_out: str = "window"
    max_pixels: int = 100_000_000
    max_bad_fraction: float = 0.1
    min_eval: int = 0
    group_near_duplicates: bool = False
    similar_classes: str = "stop"

    @property
    def max_bytes(self) -> int:
        """Bytes that no image of `max_pixels` exceeds: 16-bit RGBA, and 1 MiB more."""
        return 8 * self.max_pixels + 2**20

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Options:
        values = json.loads(text)
        return cls(**{**values, "ignore": tuple(values.get("ignore", ()))})
