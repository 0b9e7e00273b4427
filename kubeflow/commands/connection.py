"""The address of Kubeflow Pipelines and the credentials for it, as options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import with_options
from pipeline.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Connection:
    """The address of the API, and at most one way to authenticate."""

    host: Annotated[
        str | None,
        typer.Option(
            envvar="KF_PIPELINES_ENDPOINT",
            metavar="URL",
            help="URL of Kubeflow Pipelines, such as http://localhost:8080 behind kubectl "
            "port-forward.",
        ),
    ] = None
    ui_host: Annotated[
        str | None,
        typer.Option(
            envvar="KF_PIPELINES_UI_ENDPOINT",
            metavar="URL",
            help="URL of Kubeflow's pages for links, if --host is the API only, such as "
            "https://kubeflow.example/pipeline.",
        ),
    ] = None
    namespace: Annotated[
        str | None, typer.Option(help="Namespace of the profile, for Kubeflow with several users.")
    ] = None
    in_cluster: Annotated[
        bool,
        typer.Option(
            "--in-cluster",
            help="Authenticate as the pod that the command runs in.",
        ),
    ] = False
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Authenticate with the bearer token in this file."),
    ] = None
    cookies_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Authenticate with the cookies in this file, such as authservice_session=...",
        ),
    ] = None
    iap_client_id: Annotated[
        str | None,
        typer.Option(
            envvar="KF_PIPELINES_IAP_OAUTH2_CLIENT_ID",
            help="Authenticate to Google's Identity-Aware Proxy with this OAuth client id and the "
            "account of gcloud.",
        ),
    ] = None
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file of certificates to trust.")
    ] = None

    def __post_init__(self) -> None:
        """Raise ConfigError for options that exclude each other."""
        ways = {
            "--in-cluster": self.in_cluster,
            "--token-file": self.token_file is not None,
            "--cookies-file": self.cookies_file is not None,
            "--iap-client-id": self.iap_client_id is not None,
        }
        given = [way for way, is_given in ways.items() if is_given]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: give one of them")
        for option, url in (("--host", self.host), ("--ui-host", self.ui_host)):
            if url is not None and not url.startswith(("http://", "https://")):
                raise ConfigError(f"{option} {url!r}: must start with http:// or https://")


connected = with_options(connection=Connection)
