"""Nodes that share a pod."""

from __future__ import annotations

from typing import Any

import pytest

from kubeflow.groups import Node, group
from pipeline.config import load

NODES = [
    Node(id, tuple(upstream.split()), False)
    for id, upstream in {  # noqa: A001
        "Gen": "",
        "Statistics": "Gen",
        "Transform": "Gen Statistics",
        "Trainer": "Transform",
        "Resolver": "Trainer",
        "Evaluator": "Gen Trainer Resolver",
        "InfraValidator": "Gen Trainer",
        "Pusher": "Evaluator InfraValidator",
    }.items()
]


BEFORE, AFTER = ["Gen", "Statistics", "Transform"], ["Resolver", "Evaluator"]


@pytest.mark.parametrize(
    ("pools", "pods"),
    [
        (
            {},
            {
                "data": BEFORE,
                "trainer": ["Trainer"],
                "judgement": [*AFTER, "InfraValidator", "Pusher"],
            },
        ),
        (
            {"InfraValidator": "gpu"},
            {
                "data": BEFORE,
                "trainer": ["Trainer"],
                "infra-validator": ["InfraValidator"],
                "judgement": [*AFTER, "Pusher"],
            },
        ),
        (
            {"Statistics": "gpu", "Pusher": "push"},
            {
                "gen": ["Gen"],
                "statistics": ["Statistics"],
                "transform": ["Transform"],
                "trainer": ["Trainer"],
                "judgement": [*AFTER, "InfraValidator"],
                "pusher": ["Pusher"],
            },
        ),
        (
            {"Evaluator": "gpu", "Transform": "gpu", "Trainer": "gpu"},
            {
                "data": ["Gen", "Statistics"],
                "transform": ["Transform"],
                "trainer": ["Trainer"],
                "judgement": ["Resolver", "InfraValidator"],
                "evaluator": ["Evaluator"],
                "pusher": ["Pusher"],
            },
        ),
        (
            {"Resolver": "gpu", "InfraValidator": "gpu"},
            {
                "data": BEFORE,
                "trainer": ["Trainer"],
                "judgement": ["Resolver", "InfraValidator"],
                "judgement-2": ["Evaluator", "Pusher"],
            },
        ),
    ],
)
def test_nodes_share_a_pod_within_a_stage_and_a_pool(
    pools: dict[str, str], pods: dict[str, list[str]]
) -> None:
    settings: dict[str, Any] = {f"kubeflow.pools.{name}.cpu": "2" for name in pools.values()}
    kubeflow = load(None, {**settings, "kubeflow.nodes": pools}).config.kubeflow
    found = group(NODES, kubeflow)
    assert {each.task: each.ids for each in found} == pods
    assert [pools.get(each.ids[0], "cpu") for each in found] == [each.pool for each in found]
    assert [each.plans for each in found] == [True] + [False] * (len(found) - 1)
    order = [node for each in found for node in each.ids]
    assert sorted(order) == sorted(node.id for node in NODES)
    for node in NODES:
        assert {*node.upstream} <= {*order[: order.index(node.id)]}


@pytest.mark.parametrize(
    ("id", "task"),
    [("ImageExampleGen", "image-example-gen"), ("A.b_C", "a-b-c"), ("Trainer2", "trainer2")],
)
def test_task_names(id: str, task: str) -> None:  # noqa: A002
    assert Node(id, (), False).task == task
