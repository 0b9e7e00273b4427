"""Pushes a blessed model to where servers find it, whole, and only once."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.pusher import executor as pusher
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from components import storage
from components.image_evaluator import figures
from components.model_registry import Keys, Registry
from components.progress import report

EVALUATION_KEY = "evaluation"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How versions are kept, signed and served.

    keep: how many of the newest versions remain. served_config: file, or ConfigMap as
    configmap://NAMESPACE/NAME, that says which versions are served, and so never removed; empty for
    models.config beside the versions. served_name: of the model in it; empty for that of the folder
    of versions. private_key: file of the key that signs versions; empty to sign none. public_key:
    file of the key that servers check them with. promote: label that the version is given: canary,
    stable or none.
    """

    keep: int = 10
    served_config: str = ""
    served_name: str = ""
    private_key: str = ""
    public_key: str = ""
    promote: str = "none"


class Executor(pusher.Executor):
    """TFX's executor with a push that a model server watching the directory never sees half done.

    TFX copies into the final version directory, whose name is the time in seconds, and where that
    name exists it skips the copy and still reports success.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Push if blessed, and record destination and version on the `pushed_model` artifact.

        Raises:
            ConfigError: the destination cannot take it.
            UserError: it cannot be labelled. It is pushed, and the next attempt finds it.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.PUSHED_MODEL_KEY]
        )
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        base = base_of(exec_properties)
        settings = Settings(
            **json.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
        )
        public = Path(settings.public_key) if settings.public_key else None
        registry = Registry(base, settings.served_config, settings.served_name, public)
        private, public_key = Path(settings.private_key), Path(settings.public_key)
        keys = Keys(private, public_key) if settings.private_key else None
        with storage.local_copy(self.GetModelPath(input_dict)) as model:
            version = registry.push(model, self._record(input_dict), settings.keep, keys)
        if settings.promote != "none":
            report("note", text=registry.label(version, settings.promote))
        self._MarkPushed(
            pushed,
            pushed_destination=storage.join(base, str(version)),
            pushed_version=str(version),
        )

    def _record(self, input_dict: dict[str, list[types.Artifact]]) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC)
        run = self._context.pipeline_run_id if self._context else None
        record = {
            "run": run,
            "pushed": now.isoformat(timespec="seconds"),
            "metrics": _metrics(artifact_utils.get_single_instance(input_dict[EVALUATION_KEY])),
        }
        infra = input_dict.get(standard_component_specs.INFRA_BLESSING_KEY)
        if infra:
            blessing = artifact_utils.get_single_instance(infra)
            record["validated"] = blessing.get_string_custom_property("server")
        return record


def base_of(exec_properties: Mapping[str, Any]) -> str:
    """Return the path or URI of the folder of versions."""
    destination = pusher_pb2.PushDestination()
    proto_utils.json_to_proto(
        exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination
    )
    return str(destination.filesystem.base_directory)


def _metrics(evaluation: types.Artifact) -> dict[str, float]:
    """Read the candidate's metrics over all examples, by name."""
    found = figures.read_figures(evaluation.uri).candidate.metrics
    return {name: each.value for name, each in found.items() if each.value is not None}
