"""Driver that takes pushes out of the cache whose version was removed since."""

from __future__ import annotations

from tfx.dsl.components.base import base_driver
from tfx.orchestration import metadata
from tfx.orchestration.portable import base_driver as portable_base_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2

from components import storage
from components.atomic_pusher.executor import base_of
from components.lineage import DESTINATION, PUSHED, Lineage


# Only the portable driver runs; components must name a class that is the older kind as well.
class Driver(base_driver.BaseDriver, portable_base_driver.BaseDriver):
    """Marks pushes as deleted whose version is gone; else their node would be cached."""

    def __init__(self, metadata_handle: metadata.Metadata) -> None:
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_base_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        base = base_of(execution_info.exec_properties)
        with self._mlmd_connection as handle:
            lineage = Lineage(handle.store)
            pushed = {
                each.id: each.custom_properties[DESTINATION].string_value
                for each in lineage.of_type(PUSHED)
            }
            lineage.delete(
                [
                    push
                    for push, version in pushed.items()
                    if version
                    and storage.parent(version) == base.rstrip("/")
                    and not storage.exists(version)
                ]
            )
        return driver_output_pb2.DriverOutput()
