"""A pod whose training leaves a checkpoint after every step: `python -m tests.eager_pod ...`."""

from __future__ import annotations

import math
import sys

from kubeflow import entrypoint
from trainer_module import fit

if __name__ == "__main__":
    fit.CHECKPOINT_SECONDS, fit.CHECKPOINT_SHARE = 0.0, math.inf
    sys.exit(entrypoint.main())
