"""Correct the paths that a workspace has stored, after it was moved or copied.

ML Metadata and the configuration of model servers hold absolute paths. Of a copy they would be
those of the original, which it must neither read nor change. Runs' records stay as they were.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components import storage

if TYPE_CHECKING:
    from components.lineage import Lineage


def has_moved(recorded: str, root: Path) -> bool:
    """Tell whether `root` is another folder than the recorded one.

    Another path of the same folder, such as a link to it, is none.
    """
    if not recorded or recorded == str(root):
        return False
    try:
        return not Path(recorded).samefile(root)
    except OSError:  # it is not there any more
        return True


def relocate(lineage: Lineage | None, serving: Path, old: str, new: str) -> int:
    """Replace the folder `old` by `new`. Can be cut off at any point, and be done again.

    Args:
      lineage: of the workspace, if it has any.
      serving: folder with configurations of model servers.
      old: the recorded folder.
      new: the present one.

    Returns the number of changed artifacts. Raises OSError.
    """
    for path in sorted(serving.glob("*.config")):
        text = path.read_text(encoding="utf-8")
        if (moved := text.replace(f'"{old}/', f'"{new}/')) != text:
            storage.write_text(str(path), moved)
    if lineage is None:
        return 0
    changed = []
    for artifact in lineage.artifacts():
        before = artifact.SerializeToString(deterministic=True)
        artifact.uri = _moved(artifact.uri, old, new)
        for value in artifact.custom_properties.values():
            if value.HasField("string_value"):
                value.string_value = _moved(value.string_value, old, new)
        if artifact.SerializeToString(deterministic=True) != before:
            changed.append(artifact)
    if changed:
        lineage.store.put_artifacts(changed)
    return len(changed)


def _moved(location: str, old: str, new: str) -> str:
    return f"{new}{location[len(old) :]}" if location.startswith(f"{old}/") else location
