"""Settings of object stores and of the copies of artifacts; `[storage]`."""

from __future__ import annotations

from pydantic import BaseModel, Field

from components.storage.staging import FOLDER, LIMIT_GB

_NAME = r"^[^\x00-\x1f]+$"  # an environment variable holds it


class Options(BaseModel):
    """Settings of S3, and of the copies of artifacts that nodes work on.

    Keys are never settings: they come from the environment, from a profile of ~/.aws, or from a
    pod's web identity.
    """

    endpoint_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#@\s\x00-\x1f]+/?$",
        description="Server of s3://, such as http://minio:9000; unset: AWS, or what "
        "AWS_ENDPOINT_URL_S3 or the profile names.",
    )
    region: str | None = Field(
        default=None, pattern=_NAME, description="Region of s3://; unset: that of the profile."
    )
    profile: str | None = Field(
        default=None,
        pattern=_NAME,
        description="Profile of ~/.aws; unset: AWS_PROFILE, or default.",
    )
    staging: str | None = Field(
        default=None,
        pattern=r"^/[^\x00]+$",
        description="Folder for copies of artifacts, which pods may share; unset: a temporary one.",
    )
    staging_gb: float | None = Field(
        default=None,
        gt=0,
        description="Most that these copies take; those used longest ago make room. Unset: the "
        "disk.",
    )

    def environment(self) -> dict[str, str]:
        """Return the environment variables that hand these settings to other processes and pods."""
        given = {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_PROFILE": self.profile,
            FOLDER: self.staging,
            LIMIT_GB: self.staging_gb,
        }
        return {name: str(value) for name, value in given.items() if value is not None}
