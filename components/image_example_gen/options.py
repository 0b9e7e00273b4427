"""The settings of an ingest besides its source and splits, which are stored in MLMD."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Options:
    """How data is read, and which data is rejected.

    Attributes:
      depth: level of the folder that names the class, 1 for ROOT/<class>/..., 2 for
        ROOT/<anything>/<class>/...; folder sources only.
      layout: meaning of the folders of the root: "classes", "splits" above class folders, or "auto"
        to decide by their names; folder sources only, like all up to `ignore`.
      train_folder, eval_folder, test_folder: patterns of the folders of these splits.
      name_pattern: regular expression for whole file names, whose first group is the class; "" if
        folders name the classes.
      ignore: patterns of names of files and folders that are left out.
      image_feature, label_feature: features of tf.Examples; empty: the names in general use.
      spans: number of spans to read, the latest ones; for sources with {SPAN} or a date.
      first_span, last_span: read these spans, ends included, instead of the latest.
      held_out: "window" reads only these spans; "all" also reads the eval and test images of all
        earlier spans.
      max_pixels: images of more pixels are quarantined without being decoded.
      max_bad_fraction: largest share of quarantined inputs, 0 to 1.
      min_eval: fewest images of the eval split outside its largest class.
      group_near_duplicates: put images that look the same into the same split.
      similar_classes: "stop" rejects class names that look alike, "keep" accepts them.
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
        """The largest size of a file in bytes: `max_pixels` of 16-bit RGBA, and 1 MiB more."""
        return 8 * self.max_pixels + 2**20

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Options:
        values = json.loads(text)
        return cls(**{**values, "ignore": tuple(values.get("ignore", ()))})
