"""Where a served broker listens: a Unix socket, or a TCP port of this machine.

``liap-broker:///abs/path.sock`` is a Unix socket; ``liap-broker://`` with nothing behind it is the user's own, in the
user's runtime directory. ``liap-broker://:token@127.0.0.1:5680/vhost`` is TCP; only loopback addresses are taken.
"""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from transports.engine.errors import InvalidArgument

__all__ = ["DEFAULT_PORT", "MOST_PATH_BYTES", "TcpAddress", "UnixAddress", "default_socket", "private_directory"]

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
        return f"{self.host}:{self.port}"


def default_socket() -> str:
    """Return the path of the user's own socket, whose directory belongs to the user alone.

    ``$XDG_RUNTIME_DIR/liap-tasks/broker.sock``; without that variable, in a directory named after the user in the
    system's directory for temporary files.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and os.path.isdir(runtime):
        directory = Path(runtime, "liap-tasks")
    else:
        directory = Path(tempfile.gettempdir(), f"liap-tasks-{os.getuid()}")
    return str(directory / "broker.sock")


def private_directory(directory: Path) -> None:
    """Make a directory that only this user can enter, or check that the existing one is such.

    Raises InvalidArgument for one that belongs to somebody else, is a link, or lets others in.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise InvalidArgument(
            "directory", str(directory), "a directory of your own that nobody else can enter (chmod 700), and no link"
        )
