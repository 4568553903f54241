"""Sockets that only those can use who may: a Unix socket of its owner, a loopback port with a token.

The lock beside a Unix socket (``PATH.lock``) is held as long as its broker lives, by the kernel's word and not by a
file that can be left behind. Whoever holds it may remove a socket file that a killed broker left; whoever does not get
it knows that a broker serves there, and which.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from transports.broker.server import BrokerServer
from transports.engine.errors import InvalidArgument
from transports.wire.address import TcpAddress, UnixAddress
from transports.wire.lock_file import LockFile
from transports.wire.places import default_socket, private_directory

__all__ = ["AlreadyServedError", "SocketLock", "listen_on_tcp", "listen_on_unix", "prepare_directory"]

BACKLOG = 512
LEAST_TOKEN = 16


class AlreadyServedError(Exception):
    """Another broker serves this socket. pid: its process, or None when it could not be read."""

    def __init__(self, path: str, pid: int | None) -> None:
        super().__init__(path, pid)
        self.path = path
        self.pid = pid

    def __str__(self) -> str:
        return f"a broker serves {self.path} already" + (f" (process {self.pid})" if self.pid else "")


class SocketLock:
    """The right to serve one socket path, held until :meth:`release` or the end of the process."""

    def __init__(self, path: str) -> None:
        """Take the lock and write this process's number into it; raises AlreadyServedError."""
        self._file = LockFile(f"{path}.lock")
        if not self._file.take():
            holder = self._file.holder()
            self._file.release()
            raise AlreadyServedError(path, holder)
        self._file.sign()

    def release(self) -> None:
        """Let another broker serve the path."""
        self._file.release()


async def listen_on_unix(server: BrokerServer, address: UnixAddress) -> asyncio.Server:
    """Serve a Unix socket that only this user can connect to (mode 0600). The caller holds its :class:`SocketLock`."""
    path = Path(address.path)
    if path.exists() or path.is_symlink():
        if not path.is_socket():
            raise InvalidArgument("socket", address.path, "a path where no file stands")
        path.unlink()  # we hold the lock, so nobody serves it
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(address.path)
        os.chmod(address.path, 0o600)  # nobody can connect before it listens, so the umask need not be touched
    except BaseException:
        listener.close()
        raise
    return await server.loop.create_unix_server(lambda: server.session(address.path), sock=listener, backlog=BACKLOG)


async def listen_on_tcp(server: BrokerServer, address: TcpAddress, token: str) -> asyncio.Server:
    """Serve a loopback port to clients that know ``token`` (at least 16 characters). Raises InvalidArgument."""
    if len(token) < LEAST_TOKEN:
        raise InvalidArgument("token", "*" * len(token), f"at least {LEAST_TOKEN} characters that nobody can guess")
    return await server.loop.create_server(
        lambda: server.session(str(address), token), address.host, address.port, backlog=BACKLOG
    )


def prepare_directory(address: UnixAddress) -> None:
    """Make the directory of a socket where there is none, for this user alone; the user's own one must be private.

    In any other directory that exists the socket's own mode decides who may connect.
    """
    directory = Path(address.path).parent
    if not directory.exists() or address.path == default_socket():
        private_directory(directory)
