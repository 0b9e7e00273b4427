"""Builds the image and says what each layer weighs: no engine of Docker needed, but root.

    apt-get install buildah
    python -m tests.benchmarks.image_layers [--target gpu] [--base localhost/stand-in]
        [--volume /etc/pip.conf:/etc/pip.conf:ro ...]

Without --base, the base image is fetched from its registry. On Debian 13 with Python 3.11 as a
stand-in for it, in MB:

             base  packages  TensorFlow  project    all
    cpu       160     1,341       1,043        4  2,548
    gpu       160     1,341       5,944        4  7,449

of the GPU's 5,944, TensorFlow is 1,450 and NVIDIA's libraries are the rest. Bytecode is 401 of the
CPU's. What was built for it ran the digits with `perennial run` as its user to a verdict.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests import REPO


def main() -> None:
    """Print the uncompressed size of each layer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--base")
    parser.add_argument("--volume", action="append", default=[])
    options = parser.parse_args()
    command = ["buildah", "build", "--isolation=chroot", f"--target={options.target}"]
    command += [f"--volume={volume}" for volume in options.volume]
    if options.base:
        command += [f"--build-arg=BASE={options.base}"]
    image = f"localhost/perennial:{options.target}"
    command += ["--layers", f"--tag={image}", "--file=kubeflow/Dockerfile", "."]
    subprocess.run(command, cwd=REPO, check=True)
    with tempfile.TemporaryDirectory() as name:
        archive = Path(name) / "image.tar"
        subprocess.run(["buildah", "push", image, f"docker-archive:{archive}"], check=True)
        with tarfile.open(archive) as tar:
            manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
            sizes = [tar.getmember(layer).size for layer in manifest[0]["Layers"]]
    for size in sizes:
        print(f"{size / 1e6:8,.0f} MB")
    print(f"{sum(sizes) / 1e6:8,.0f} MB in all")


if __name__ == "__main__":
    main()
