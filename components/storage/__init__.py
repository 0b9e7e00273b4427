"""Files by path or URI, wherever they are; the only part that knows object stores.

Locations are plain strings: a path of this machine, or a URI such as s3://bucket/models. What is
written is there whole or not at all. Object stores are reached by fsspec, of which the one path
type, `path`, is universal-pathlib's: pathlib itself for paths. Every error is an OSError.

Nodes meet local files only: `components.storage.staging`.
"""

from components.storage.content import (
    changed,
    checksum,
    copy,
    copy_tree,
    digest,
    download,
    exists,
    files,
    local_copy,
    local_file,
    make_folder,
    move,
    names,
    opened,
    read_bytes,
    read_text,
    remove,
    remove_tree,
    size,
    sync,
    upload,
    write_bytes,
    write_text,
    writing,
    writing_folder,
)
from components.storage.locations import is_uri, join, name, parent, path, supported, unsupported
from components.storage.shared import append_line, create, locked, replace, state

__all__ = [
    "append_line",
    "changed",
    "checksum",
    "copy",
    "copy_tree",
    "create",
    "digest",
    "download",
    "exists",
    "files",
    "is_uri",
    "join",
    "local_copy",
    "local_file",
    "locked",
    "make_folder",
    "move",
    "name",
    "names",
    "opened",
    "parent",
    "path",
    "read_bytes",
    "read_text",
    "remove",
    "remove_tree",
    "replace",
    "size",
    "state",
    "supported",
    "sync",
    "unsupported",
    "upload",
    "write_bytes",
    "write_text",
    "writing",
    "writing_folder",
]
