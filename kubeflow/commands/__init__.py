"""Commands about Kubeflow, found by the entry point `perennial.commands`."""

from __future__ import annotations

from kubeflow.commands import schedule
from kubeflow.commands.compile import compile_dag
from kubeflow.commands.monitor import monitor_pipeline
from kubeflow.commands.submit import submit
from kubeflow.commands.watch import watch

COMMANDS = {
    "compile": compile_dag,
    "submit": submit,
    "watch": watch,
    "monitor-pipeline": monitor_pipeline,
}
GROUPS = {
    "schedule": (
        "Schedule recurring runs on Kubeflow",
        {
            "list": schedule.list_schedules,
            "create": schedule.create,
            "pause": schedule.pause,
            "resume": schedule.resume,
            "delete": schedule.delete,
        },
    )
}
