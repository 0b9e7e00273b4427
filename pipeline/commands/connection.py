"""How the commands that talk to Kubeflow Pipelines are told where it is and who asks."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Connection:
    """Where the API is, and one way to be let in at most."""

    host: Annotated[
        str | None,
        typer.Option(
            envvar="KF_PIPELINES_ENDPOINT",
            metavar="URL",
            help="Of Kubeflow Pipelines: http://localhost:8080 behind kubectl port-forward.",
        ),
    ] = None
    ui_host: Annotated[
        str | None,
        typer.Option(
            envvar="KF_PIPELINES_UI_ENDPOINT",
            metavar="URL",
            help="Of Kubeflow's pages, for the links that are shown, where --host is an address of "
            "the API only: https://kubeflow.example/pipeline.",
        ),
    ] = None
    namespace: Annotated[
        str | None, typer.Option(help="Profile, where Kubeflow has several users.")
    ] = None
    in_cluster: Annotated[
        bool,
        typer.Option(
            "--in-cluster",
            help="Ask as the pod that this runs in, by its projected token if it has one.",
        ),
    ] = False
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with a bearer token.")
    ] = None
    cookies_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with cookies, such as authservice_session=..."),
    ] = None
    iap_client_id: Annotated[
        str | None,
        typer.Option(
            envvar="KF_PIPELINES_IAP_OAUTH2_CLIENT_ID",
            help="OAuth client of Google's Identity-Aware Proxy; asks as the account of gcloud.",
        ),
    ] = None
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificates that are trusted, as PEM.")
    ] = None

    def __post_init__(self) -> None:
        """Raises ConfigError for what does not go together."""
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


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a Connection in place of its parameter `connection`."""
    hints = inspect.get_annotations(Connection, eval_str=True)
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hint
        )
        for field, hint in zip(dataclasses.fields(Connection), hints.values(), strict=True)
    ]
    own = inspect.signature(command, eval_str=True)
    parameters = [each for name, each in own.parameters.items() if name != "connection"]

    @functools.wraps(command)
    def with_options(*args: Any, **kwargs: Any) -> None:
        given = {option.name: kwargs.pop(option.name) for option in options}
        command(*args, connection=Connection(**given), **kwargs)

    # Typer looks at both.
    parameters += options
    with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options
