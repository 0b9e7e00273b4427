"""The CronJob that retrains in one pod, without Kubeflow."""

from __future__ import annotations

import pytest

from tests.cluster import kit

pytestmark = pytest.mark.cluster

SMALL = (
    "train.epochs=1",
    "train.recipe=vit",
    "transform.image_size=16",
    "train.hyperparameters.patch_size=4",
    "train.hyperparameters.depth=1",
    "train.hyperparameters.head_dims=[32]",
    "infra_validation.enabled=false",
)


def test_a_run_pushes_a_model_and_the_next_one_does_nothing_twice(namespace: str) -> None:
    resources = kit.moved(kit.kustomized(kit.MANIFESTS / "cronjob-one-pod"), namespace)
    for each in resources:
        if each["kind"] == "CronJob":
            pod = each["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            kit.small(pod, "4Gi")
            (container,) = pod["containers"]
            container["args"] += [part for s in SMALL for part in ("--set", s)]
            each["spec"]["suspend"] = True  # only when it is asked for
    kit.apply(resources)
    write = (
        "from pathlib import Path; from components.image_example_gen.sources import digits;"
        "root = Path('/workspace/data'); root.exists() or digits.write_folder(root)"
    )
    claims = {"/workspace": "perennial-workspace"}
    kit.apply([kit.job("images", namespace, ["python3", "-c", write], claims)])
    assert kit.ended("images", namespace)[0] == 0
    logs = []
    for name in ("first", "second"):
        kit.kubectl("create", "job", name, "--from=cronjob/perennial-retrain", "-n", namespace)
        code, log = kit.ended(name, namespace)
        # 4: a model after one epoch need not be good enough, which is no fault of the cluster.
        assert code in (0, 4), log
        logs.append(log)
    assert '"node": "Trainer", "state": "complete"' in logs[0].replace("'", '"')
    assert '"state": "cached"' in logs[1].replace("'", '"')
