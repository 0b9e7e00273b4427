"""A pod with a checkpoint after every training step: `python -m tests.kit.eager_pod ...`."""

from __future__ import annotations

import math
import os
import sys

from kubeflow import entrypoint, supervisor


def main() -> int:
    from trainer_module import fit  # not before the supervisor has forked

    fit.CHECKPOINT_SECONDS, fit.CHECKPOINT_SHARE = 0.0, math.inf
    return entrypoint.main()


if __name__ == "__main__":
    sys.exit(supervisor.run(main, os.environ))
