"""Connection of pods to ML Metadata, from their environment.

| variable `PERENNIAL_METADATA_...` | value |
| --- | --- |
| `KIND` | `mysql` (MariaDB too), `postgresql` or `sqlite` |
| `HOST`, `PORT` | the database server; default ports are 3306 and 5432 |
| `DATABASE`, `USER` | default: `perennial`. Both must exist; tables are created |
| `PASSWORD` | from a Kubernetes secret |
| `TLS` | `true` encrypts the connection; `mysql` only |
| `PATH` | file of `sqlite`, for trials on one machine |

Limits of ML Metadata 1.21: its MySQL client authenticates with mysql_native_password only, does not
verify the server's certificate, and does not require TLS (let the server require it, with
`ALTER USER ... REQUIRE SSL`). Its PostgreSQL client is built without TLS. Keep the connection
within the cluster's network, or add a proxy.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from ml_metadata.proto import metadata_store_pb2

from pipeline.errors import ConfigError

PREFIX = "PERENNIAL_METADATA_"
PORTS = {"mysql": 3306, "postgresql": 5432}
KINDS = (*PORTS, "sqlite")
_PROBE_S = 5.0


def connection_config(env: Mapping[str, str]) -> metadata_store_pb2.ConnectionConfig:
    """Read the connection from the variables above. The result contains the password.

    Raises ConfigError, whose message never contains the password.
    """
    kind = _value(env, "KIND", f"must be {', '.join(KINDS)}")
    config = metadata_store_pb2.ConnectionConfig()
    if kind == "sqlite":
        config.sqlite.filename_uri = _value(env, "PATH", "must be the path of the database file")
        config.sqlite.connection_mode = (
            metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        )
        return config
    if kind not in PORTS:
        raise ConfigError(f"{PREFIX}KIND = {kind!r}: must be {', '.join(KINDS)}")
    host = _value(env, "HOST", "must be the name or address of the database server")
    port = _port(env, PORTS[kind])
    database, user = _name(env, "DATABASE"), _name(env, "USER")
    password = _value(env, "PASSWORD", "must come from a Kubernetes secret")
    tls = _tls(env, kind)
    # The account of the pipeline may lack the right to create a database.
    if kind == "mysql":
        config.mysql.CopyFrom(
            metadata_store_pb2.MySQLDatabaseConfig(
                # MySQL clients use a socket file for this name.
                host="127.0.0.1" if host == "localhost" else host,
                port=port,
                database=database,
                user=user,
                password=password,
                skip_db_creation=True,
            )
        )
        if tls:
            config.mysql.ssl_options.SetInParent()
    else:
        # ML Metadata joins these to a connection string. Without quotes, a password with a blank
        # is refused and printed in part.
        config.postgresql.CopyFrom(
            metadata_store_pb2.PostgreSQLDatabaseConfig(
                host=_quoted(host),
                port=str(port),
                dbname=_quoted(database),
                user=_quoted(user),
                password=_quoted(password),
                skip_db_creation=True,
            )
        )
    return config


def location(env: Mapping[str, str]) -> str:
    """Describe the database of `connection_config(env)` without the password."""
    kind = env[f"{PREFIX}KIND"]
    if kind == "sqlite":
        return f"sqlite file {env[f'{PREFIX}PATH']}"
    database, user = _name(env, "DATABASE"), _name(env, "USER")
    address = f"{env[f'{PREFIX}HOST']}:{_port(env, PORTS[kind])}"
    return f"{kind} database {database} at {address} as {user}"


def refusal(env: Mapping[str, str]) -> str:
    """Return the probable reason of a failed connection, as a clause for a message.

    ML Metadata's clients give none. Connects to the server's port, for up to 5 s.
    """
    kind = env[f"{PREFIX}KIND"]
    if kind == "sqlite":
        return "the file cannot be opened or is not a database of ML Metadata"
    port = _port(env, PORTS[kind])
    try:
        socket.create_connection((env[f"{PREFIX}HOST"], port), timeout=_PROBE_S).close()
    except socket.gaierror:
        return f"no such host; check {PREFIX}HOST"
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror
        return f"{reason}; check that the database runs and that network policies let pods reach it"
    native = (
        ", and that the account uses mysql_native_password, which ML Metadata requires"
        if kind == "mysql"
        else ""
    )
    return (
        "the server answers but does not let this account in; check user and password, that the "
        f"database exists{native}; the server's log says more"
    )


def _value(env: Mapping[str, str], name: str, rule: str) -> str:
    value = env.get(PREFIX + name)
    if not value:
        raise ConfigError(f"{PREFIX}{name} is {'not set' if value is None else 'empty'}: {rule}")
    return value


def _port(env: Mapping[str, str], default: int) -> int:
    text = env.get(f"{PREFIX}PORT") or str(default)
    # Kubernetes sets the variable to this form if the Service is called perennial-metadata.
    number = text.rpartition(":")[2] if text.startswith("tcp://") else text
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        raise ConfigError(f"{PREFIX}PORT = {text!r}: must be a number from 1 to 65535")
    return int(number)


def _tls(env: Mapping[str, str], kind: str) -> bool:
    text = env.get(f"{PREFIX}TLS") or "false"
    if text not in ("true", "false"):
        raise ConfigError(f"{PREFIX}TLS = {text!r}: must be true or false")
    if text == "true" and kind != "mysql":
        raise ConfigError(f"{PREFIX}TLS: ML Metadata's {kind} client is built without TLS")
    return text == "true"


def _name(env: Mapping[str, str], variable: str) -> str:
    return env.get(PREFIX + variable) or "perennial"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
