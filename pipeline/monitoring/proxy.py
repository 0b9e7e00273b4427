"""The proxy in front of a model server: nginx that mirrors a share of the requests to a recorder.

One configuration serves this machine and the manifests. A response never waits for the recorder:
nginx forwards it at once. Only the next request on the same connection may wait, for at most
`patience`; after a failure, mirroring pauses for `_PAUSE`.

The directives are those of nginx 1.22, the Debian package nginx-light: mirror, split_clients, map.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from pipeline.errors import ConfigError

ID_HEADER = "X-Request-Id"
URI_HEADER = "X-Original-Uri"
TIME_HEADER = "X-Received"  # seconds since 1970, with milliseconds
GRPC_PATH = "/tensorflow.serving.PredictionService/Predict"

PATIENCE = "200ms"
_PAUSE = "10s"
_MIRROR = "/.record"

_HEAD = """\
# Made by `perennial traffic proxy --print`.
daemon off;
pid {folder}/nginx.pid;
error_log stderr crit;
worker_processes {workers};
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    server_tokens off;
    client_max_body_size 0; # the model server has limits of its own
    client_body_buffer_size 1m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    tcp_nodelay on;

    # A caller may name its requests; what is not a name gets one.
    map $http_x_request_id $recorded_id {{
        "~^[A-Za-z0-9._-]{{1,64}}$" $http_x_request_id;
        default $request_id;
    }}
    # By nginx's own number, so that no caller chooses what is recorded.
    split_clients $request_id $is_recorded {{
        {recorded}* "";
    }}
    upstream rest {{
        server {rest};
        keepalive 64;
        keepalive_timeout 5s; # shorter than a model server's, so that no request meets a closed one
    }}
    upstream grpc {{
        server {grpc};
        keepalive 64;
        keepalive_timeout 5s;
    }}
    # The second one takes what the first does not, and answers at once.
    upstream recorder {{
        server {recorder} max_fails=1 fail_timeout={pause};
        server {nowhere} backup;
        keepalive 8;
    }}
    server {{
        listen {rest_listen};
        server_name recorder.invalid;
        return 204;
    }}
"""

_SERVER = """\
    server {{
        listen {listen} default_server{http2};
        add_header {id_header} $recorded_id always;
        {kind}_read_timeout 600s;
        {kind}_send_timeout 600s;
        {kind}_set_header {id_header} $recorded_id;
{own}
        location / {{
            {kind}_pass {scheme}://{kind_upstream};
        }}
        location {predict} {{
            mirror {mirror};
            {kind}_pass {scheme}://{kind_upstream};
        }}
        location = {mirror} {{
            internal;
            if ($is_recorded = "") {{
                return 204;
            }}
            proxy_pass http://recorder/;
            proxy_method POST;
            proxy_http_version 1.1;
            proxy_pass_request_headers off; # the recorder must not see credentials
            proxy_set_header Host recorder.invalid;
            proxy_set_header Connection "";
            proxy_set_header {id_header} $recorded_id;
            proxy_set_header {uri_header} $request_uri;
            proxy_set_header {time_header} $msec;
            proxy_set_header Content-Encoding $http_content_encoding;
            proxy_set_header Grpc-Encoding $http_grpc_encoding;
            proxy_connect_timeout {patience};
            proxy_send_timeout {patience};
            proxy_read_timeout {patience};
            proxy_next_upstream off;
        }}
    }}
"""
_REST_OWN = """\
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Connection "";"""


@dataclasses.dataclass(frozen=True)
class Proxy:
    """The proxy's addresses, HOST:PORT, and the share of requests to record, 0 to 1.

    folder: for nginx's files; an existing absolute path.
    patience: time-out of the recorder, as nginx writes times.
    """

    rest_listen: str
    grpc_listen: str
    rest: str
    grpc: str
    recorder: str
    share: float
    folder: str
    workers: int = 2
    patience: str = PATIENCE

    def configuration(self) -> str:
        """Write the text of nginx.conf. Raises ConfigError for a share outside 0 to 1."""
        if not 0 <= self.share <= 1:
            raise ConfigError(f"a share of {self.share:g} of the requests: it must be in 0..1")
        common = {
            "id_header": ID_HEADER,
            "uri_header": URI_HEADER,
            "time_header": TIME_HEADER,
            "mirror": _MIRROR,
            "patience": self.patience,
        }
        percent = f"{100 * self.share:.2f}"
        head = _HEAD.format(
            folder=self.folder,
            workers=self.workers,
            # nginx refuses a share of 0 %.
            recorded=f"{percent}% 1;\n        " if float(percent) else "",
            rest=self.rest,
            grpc=self.grpc,
            recorder=self.recorder,
            pause=_PAUSE,
            rest_listen=self.rest_listen,
            nowhere=_reached(self.rest_listen),
        )
        rest = _SERVER.format(
            listen=self.rest_listen,
            http2="",
            kind="proxy",
            scheme="http",
            kind_upstream="rest",
            own=_REST_OWN,
            predict="~* :predict$",
            **common,
        )
        grpc = _SERVER.format(
            listen=self.grpc_listen,
            http2=" http2",
            kind="grpc",
            scheme="grpc",
            kind_upstream="grpc",
            own="",
            predict=f"= {GRPC_PATH}",
            **common,
        )
        return f"{head}{rest}{grpc}}}\n"

    def command(self) -> list[str]:
        """Write the configuration into the folder; return the command that starts nginx with it.

        Raises ConfigError if nginx is not installed.
        """
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
        if program is None:
            raise ConfigError("nginx is not installed; on Debian: apt-get install nginx-light")
        file = Path(self.folder, "nginx.conf")
        file.write_text(self.configuration(), "utf-8")
        # Started as root, its workers run as user nobody, and keep large requests in it.
        Path(self.folder).chmod(0o711)
        # -p: nothing of the machine's own nginx; -e: before the file is read it would log there.
        return [program, "-p", self.folder, "-c", str(file), "-e", "stderr"]


def _reached(listen: str) -> str:
    """Return a local address of a server that listens on HOST:PORT or PORT."""
    host, _, port = listen.rpartition(":")
    return f"{'127.0.0.1' if host in ('', '0.0.0.0', '*') else host}:{port}"
