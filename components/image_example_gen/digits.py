"""The handwritten digits that scikit-learn ships, as a folder of class folders.

1,797 scans of 8x8 pixels with 17 gray levels (UCI ML hand-written digits, test set), by
E. Alpaydin and C. Kaynak, CC BY 4.0.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

IMAGES = 1797
CLASSES = 10


def write_digits(target: Path) -> None:
    """Write `target`/<digit>/<index>.png once; an existing `target` is complete and stays.

    Pixels are 8-bit gray, 0 (paper) to 255 (ink). The folder appears in one rename, so that a
    killed call leaves none.
    """
    if target.exists():
        return
    # Slow to import, and only the first run needs them.
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    staging = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            folder = staging / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            scan = Image.fromarray((pixels * (255 / 16)).round().astype("uint8"))
            scan.save(folder / f"{index:04d}.png")
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
