"""Which nodes of the DAG share a pod: each pod costs seconds of scheduling and of imports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from kubeflow.results import words
from pipeline.settings import DEFAULT_POOL, KubeflowConfig

TRAINER = "Trainer"
PLAN, DATA, JUDGEMENT = "plan", "data", "judgement"


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the DAG. reports: whether there is something to report of the run after it."""

    id: str
    upstream: tuple[str, ...]
    reports: bool

    @property
    def task(self) -> str:
        """Its name as a task, in the letters that Argo allows: image-example-gen."""
        return "-".join(words(self.id))


@dataclasses.dataclass(frozen=True)
class Group:
    """What one pod does, in its order.

    Attributes:
      task: name of the pod's task in Kubeflow.
      pool: name of the pool in which the pod runs.
      nodes: that it runs, which may be none where it plans.
      plans: whether it first makes the plan of the run.
    """

    task: str
    pool: str
    nodes: tuple[Node, ...]
    plans: bool = False

    @property
    def ids(self) -> list[str]:
        return [node.id for node in self.nodes]

    @property
    def title(self) -> str:
        """Its name for people."""
        parts = [PLAN] * self.plans + self.ids
        return parts[0] if len(parts) == 1 else f"{self.task}: {', '.join(parts)}"

    @property
    def reports(self) -> bool:
        return any(node.reports for node in self.nodes)

    def needs(self, other: Group) -> bool:
        """Whether it can only start after `other`."""
        return any(set(node.upstream) & set(other.ids) for node in self.nodes)


def group(nodes: Sequence[Node], kubeflow: KubeflowConfig) -> list[Group]:
    """The pods of a run, each after those that it needs; the first one plans.

    Args:
      nodes: each after those that it needs.
      kubeflow: with `grouping` and the pools of nodes.
    """
    pools = {node.id: kubeflow.nodes.get(node.id, DEFAULT_POOL) for node in nodes}
    if kubeflow.grouping == "nodes":
        single = [Group(node.task, pools[node.id], (node,)) for node in nodes]
        return [Group(PLAN, DEFAULT_POOL, (), plans=True), *single]
    found: list[Group] = []
    for stage, members in _stages(nodes).items():
        parts = _by_pool(members, pools)
        shared = 0
        for part in parts:
            name = part[0].task
            if len(part) > 1:
                shared += 1
                name = stage if shared == 1 else f"{stage}-{shared}"
            found.append(Group(name, pools[part[0].id], tuple(part), plans=not found))
    return found


def _stages(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    """Nodes by what they are for. The Trainer is alone: its retries and its memory are its own."""
    stages: dict[str, list[Node]] = {DATA: [], TRAINER: [], JUDGEMENT: []}
    after = {TRAINER}
    for node in nodes:
        if node.id == TRAINER:
            stages[TRAINER].append(node)
        elif after & set(node.upstream):
            after.add(node.id)
            stages[JUDGEMENT].append(node)
        else:
            stages[DATA].append(node)
    return stages


def _by_pool(nodes: Sequence[Node], pools: dict[str, str]) -> list[list[Node]]:
    """Split nodes into as few parts as possible that are of one pool each and can run in turn."""
    starts = dict.fromkeys(pools[node.id] for node in nodes)
    return min((_parts(nodes, pools, start) for start in starts), key=len, default=[])


def _parts(nodes: Sequence[Node], pools: dict[str, str], pool: str) -> list[list[Node]]:
    parts: list[list[Node]] = []
    waiting = list(nodes)
    while waiting:
        part: list[Node] = []
        # Nodes are in order, so that one pass takes all that follow from what it took.
        for node in nodes:
            blocked = {each.id for each in waiting} & set(node.upstream)
            if node in waiting and pools[node.id] == pool and not blocked:
                part.append(node)
                waiting.remove(node)
        if part:
            parts.append(part)
        if waiting:
            pool = next(
                pools[node.id]
                for node in waiting
                if not {each.id for each in waiting} & set(node.upstream)
            )
    return parts
