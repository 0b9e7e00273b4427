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
        description="Server for s3://, such as http://minio:9000. Unset: that of "
        "AWS_ENDPOINT_URL_S3 or of the profile, otherwise AWS.",
    )
    region: str | None = Field(
        default=None, pattern=_NAME, description="Region for s3://. Unset: that of the profile."
    )
    profile: str | None = Field(
        default=None,
        pattern=_NAME,
        description="Profile of ~/.aws. Unset: AWS_PROFILE, or default.",
    )
    staging: str | None = Field(
        default=None,
        pattern=r"^/[^\x00]+$",
        description="Folder for local copies of artifacts, which pods may share. Unset: a "
        "temporary folder.",
    )
    staging_gb: float | None = Field(
        default=None,
        gt=0,
        description="Maximum size of these copies in GB; the least recently used ones are "
        "removed. Unset: limited by the disk.",
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
