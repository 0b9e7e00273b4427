"""Group nodes into pods, as each pod costs seconds of scheduling and imports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from kubeflow.results import words
from pipeline.settings.cluster import DEFAULT_POOL, KubeflowConfig

TRAINER = "Trainer"
PLAN, DATA, JUDGEMENT = "plan", "data", "judgement"


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the DAG. reports: whether a report is written after it."""

    id: str
    upstream: tuple[str, ...]
    reports: bool

    @property
    def task(self) -> str:
        """Return the name of its task in letters that Argo allows: image-example-gen."""
        return "-".join(words(self.id))


@dataclasses.dataclass(frozen=True)
class Group:
    """The work of one pod.

    Attributes:
      task: name of the pod's task in Kubeflow.
      pool: name of the pod's pool.
      nodes: nodes to run in turn; may be empty if the pod plans.
      plans: whether it makes the plan of the run first.
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
        """Return the display name."""
        parts = [PLAN] * self.plans + self.ids
        return parts[0] if len(parts) == 1 else f"{self.task}: {', '.join(parts)}"

    @property
    def reports(self) -> bool:
        return any(node.reports for node in self.nodes)

    def needs(self, other: Group) -> bool:
        """Return whether it can only start after `other`."""
        return any(set(node.upstream) & set(other.ids) for node in self.nodes)


def group(nodes: Sequence[Node], kubeflow: KubeflowConfig) -> list[Group]:
    """Assign nodes to pods. The first pod plans, and each pod follows those that it needs.

    Args:
      nodes: nodes in the order of their dependencies.
      kubeflow: `grouping` and the pools of nodes.
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
    """Split nodes into as few parts as possible, each of one pool, that can run in turn."""
    starts = dict.fromkeys(pools[node.id] for node in nodes)
    return min((_parts(nodes, pools, start) for start in starts), key=len, default=[])


def _parts(nodes: Sequence[Node], pools: dict[str, str], pool: str) -> list[list[Node]]:
    parts: list[list[Node]] = []
    waiting = list(nodes)
    while waiting:
        part: list[Node] = []
        # Nodes are in order, so one pass is enough.
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
