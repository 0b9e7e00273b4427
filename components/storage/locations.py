"""Paths and URIs, and the clients of the object stores that URIs are of.

How S3 is reached is told by its own variables and files, which every client of it knows:
AWS_ENDPOINT_URL_S3 (MinIO, SeaweedFS and others), AWS_PROFILE, AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, or a pod's web identity (AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Iterator
from typing import Any

import fsspec
from upath import UPath

_EXTRAS = {"az": "adlfs", "abfs": "adlfs", "hdfs": "pyarrow"}
_MOST_TEXT = 300  # characters of a client's message


def is_uri(location: str) -> bool:
    """Tell whether it is a URI such as s3://bucket/models, and not a path."""
    return "://" in location


def scheme(location: str) -> str:
    """Return the part before ://, in lower case; "" of a path."""
    before, mark, _ = location.partition("://")
    return before.lower() if mark else ""


def join(base: str, *names: str) -> str:
    """Append names to `base`."""
    return "/".join([base.rstrip("/"), *names])


def parent(location: str) -> str:
    """Return the folder of `location`."""
    return location.rstrip("/").rpartition("/")[0]


def name(location: str) -> str:
    """Return the last part of `location`."""
    return location.rstrip("/").rpartition("/")[2]


def path(location: str) -> UPath:
    """Return the location as a path object. Raises OSError where the store's client is missing."""
    with _told(location):
        return UPath(location, **_options(scheme(location)))


def filesystem(location: str) -> Any:
    """Fsspec's client of the store of a URI; the same one for all URIs of a scheme.

    Raises OSError where none is installed.
    """
    kind = scheme(location)
    options = _options(kind)
    try:
        return fsspec.filesystem(kind, **options)
    except (ImportError, ValueError) as error:
        # A client that is installed may refuse its own settings, as adlfs does without an account.
        text = unsupported(location) or _line(error)
        raise OSError(errno.EPROTONOSUPPORT, text, location) from error


def supported(location: str) -> bool:
    """Tell whether the client for a path or URI is installed."""
    return not unsupported(location)


@functools.cache
def _missing(kind: str) -> str:
    _before_import(kind)
    try:
        fsspec.get_filesystem_class(kind)
    except ImportError:
        extra = f": pip install {_EXTRAS[kind]}" if kind in _EXTRAS else ""
        return f"{kind}:// needs a client that is not installed{extra}"
    except ValueError:
        return f"{kind}:// is not a supported kind of storage; name a folder, gs:// or s3://"
    return ""


def unsupported(location: str) -> str:
    """Return why files of a URI can be neither read nor written here; "" where they can."""
    kind = scheme(location)
    if kind in ("http", "https", "ftp"):
        return f"{kind}:// is not storage: nothing can be listed or written there"
    return _missing(kind) if kind else ""


def _before_import(kind: str) -> None:
    """Set what a client reads from the environment only when it is imported."""
    if kind in ("gs", "gcs"):
        # Else gcsfs looks up the kind of each bucket by gRPC first, which emulators do not speak.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def _options(kind: str) -> dict[str, Any]:
    """Return a client's options: no listing may be an old one, and no wait endless."""
    _before_import(kind)
    if kind in ("s3", "s3a"):
        retries = {} if "AWS_MAX_ATTEMPTS" in os.environ else {"total_max_attempts": 8}
        mode = {} if "AWS_RETRY_MODE" in os.environ else {"mode": "standard"}
        config: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 60}
        if retries | mode:
            config["retries"] = retries | mode
        return {"use_listings_cache": False, "config_kwargs": config}
    if kind in ("gs", "gcs"):
        is_emulated = "STORAGE_EMULATOR_HOST" in os.environ
        return {"use_listings_cache": False, **({"token": "anon"} if is_emulated else {})}
    return {}


@contextlib.contextmanager
def _told(location: str) -> Iterator[None]:
    """Raise what the client of a store raises as an OSError that names the location."""
    try:
        yield
    except OSError as error:
        # A path's has the file; a client's has all sorts of things.
        if is_uri(location) and error.filename is None:
            text = error.strerror or str(error) or type(error).__name__
            raise type_of(error)(error.errno or errno.EIO, text[:_MOST_TEXT], location) from error
        raise
    except Exception as error:
        text = _line(error)
        code = errno.EACCES if "Credential" in type(error).__name__ else errno.EIO
        raise OSError(code, text, location) from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:_MOST_TEXT]


def type_of(error: OSError) -> type[OSError]:
    """Return the class of an error as callers tell them apart."""
    for kind in (FileNotFoundError, PermissionError, FileExistsError, TimeoutError):
        if isinstance(error, kind):
            return kind
    return OSError
