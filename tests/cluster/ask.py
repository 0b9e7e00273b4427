"""In a pod: ask for the label stable again and again; prints what came of it every second.

With the standard library only. Usage: ask.py URL
"""

from __future__ import annotations

import base64
import collections
import io
import json
import sys
import time
import urllib.error
import urllib.request


def main(url: str) -> None:
    """Ask until the pod is deleted."""
    from PIL import Image

    image = io.BytesIO()
    Image.new("RGB", (12, 9), (30, 200, 40)).save(image, "PNG")
    row = {"b64": base64.b64encode(image.getvalue()).decode()}
    body = json.dumps({"instances": [row]}).encode()
    seen: collections.Counter[str] = collections.Counter()
    told = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(url, body, timeout=30) as answer:
                (found,) = json.load(answer)["predictions"]
            # Versions differ by how sure they are.
            seen[f"{found['label']} {max(found['probabilities']):.2f}"] += 1
        except (OSError, ValueError, urllib.error.URLError) as error:
            seen[f"failed: {error}"] += 1
        if time.monotonic() - told > 1:
            told = time.monotonic()
            print(json.dumps(seen), flush=True)
        time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1])
