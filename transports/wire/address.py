"""Where a served broker listens: a Unix socket, or a TCP port of this machine.

``liap-broker:///abs/path.sock`` is a Unix socket; ``liap-broker://`` with nothing behind it is the user's own, in the
user's runtime directory. ``liap-broker://:token@127.0.0.1:5680/vhost`` is TCP; only loopback addresses are taken.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import ip_address

from transports.engine.errors import InvalidArgument

__all__ = ["DEFAULT_PORT", "MOST_PATH_BYTES", "TcpAddress", "UnixAddress"]

DEFAULT_PORT = 5680
#: Bytes of a Unix socket's path that every system takes.
MOST_PATH_BYTES = 103


@dataclass(frozen=True)
class UnixAddress:
    """A Unix socket. path: absolute, at most 103 bytes."""

    path: str

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise InvalidArgument("socket", self.path, "an absolute path")
        if len(os.fsencode(self.path)) > MOST_PATH_BYTES:
            raise InvalidArgument("socket", self.path, f"a path of at most {MOST_PATH_BYTES} bytes")

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class TcpAddress:
    """A port on a loopback address. host: an IP address, or localhost."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if self.host != "localhost":
            try:
                loopback = ip_address(self.host).is_loopback
            except ValueError:
                loopback = False
            if not loopback:
                raise InvalidArgument("host", self.host, "a loopback address: the broker serves one machine")
        if not 0 <= self.port <= 65535:
            raise InvalidArgument("port", self.port, "a number from 0 to 65535")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
