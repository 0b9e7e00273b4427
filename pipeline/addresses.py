"""Addresses of servers, HOST:PORT."""

from __future__ import annotations

from pipeline.errors import ConfigError


def split(address: str) -> tuple[str, int | None]:
    """Split into host and port; None for a port that is missing or cannot be one."""
    host, _, port = address.rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() else 0
    return host, number if 0 < number < 2**16 else None


def check(name: str, *addresses: str) -> None:
    """Raise ConfigError for what is not HOST:PORT. name: the option or setting."""
    for address in addresses:
        host, port = split(address)
        if not host or port is None:
            raise ConfigError(f"{name} {address}: must be HOST:PORT, such as localhost:8500")
