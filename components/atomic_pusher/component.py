"""The interface of AtomicPusher."""

from __future__ import annotations

from tfx.components.pusher import component
from tfx.dsl.components.base import executor_spec

from components.atomic_pusher import executor


class AtomicPusher(component.Pusher):
    """Pusher to a filesystem: versions appear whole, strictly increase, and repeat no model."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
