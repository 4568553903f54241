"""Sockets that only those can use who may: a Unix socket of its owner, a loopback port with a token.

The lock beside a Unix socket (``PATH.lock``) is held as long as its broker lives, by the kernel's word and not by a
file that can be left behind. Whoever holds it may remove a socket file that a killed broker left; whoever does not get
it knows that a broker serves there, and which.

Others can remove both files from under a broker that lives: who cleans up temporary files, or the runtime directory of
a user who has logged out. Nobody could connect then, and no other broker could take the journal; so a broker looks
every few seconds, binds its socket again, and ends when it cannot. Clients that are connected notice nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from transports.broker.server import BrokerServer
from transports.engine.errors import EngineError, InvalidArgument
from transports.wire.address import TcpAddress, UnixAddress
from transports.wire.lock_file import LockFile
from transports.wire.places import default_socket, private_directory

__all__ = ["AlreadyServedError", "UnixListener", "listen_on_tcp"]

BACKLOG = 512
LOOK_SECONDS = 2.0
MOST_TRIES = 5
LEAST_TOKEN = 16

logger = logging.getLogger("transports.broker")


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
            holder = self._file.holder().pid
            self._file.release()
            raise AlreadyServedError(path, holder)
        self._file.sign()

    @property
    def in_place(self) -> bool:
        """Whether another broker would find the path taken: nobody has removed the lock's file."""
        return self._file.in_place

    def release(self) -> None:
        """Let another broker serve the path."""
        self._file.release()


class UnixListener:
    """A Unix socket that only this user can connect to (mode 0600): its lock, its file, and who listens there."""

    def __init__(self, address: UnixAddress) -> None:
        """Make the directory and take the lock; raises AlreadyServedError, InvalidArgument, OSError."""
        self.address = address
        prepare_directory(address)
        self._lock = SocketLock(address.path)
        self._listener: asyncio.Server | None = None
        self._bound: os.stat_result | None = None
        self._watch: asyncio.Task[None] | None = None

    async def listen(self, server: BrokerServer, on_lost: Callable[[str], None]) -> None:
        """Serve the path. on_lost: called, with the reason, when the socket is gone and cannot be bound again."""
        await self._bind(server)
        self._watch = server.loop.create_task(self._stay(server, on_lost))

    async def _bind(self, server: BrokerServer) -> None:
        before, self._listener = self._listener, await _listen(server, self.address)
        self._bound = os.stat(self.address.path)
        if before is not None:
            before.close()

    async def _stay(self, server: BrokerServer, on_lost: Callable[[str], None]) -> None:
        failed = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._lock.in_place and self._is_ours():
                continue
            try:
                prepare_directory(self.address)
                if not self._lock.in_place:
                    lost, self._lock = self._lock, SocketLock(self.address.path)
                    lost.release()
                await self._bind(server)
            except (AlreadyServedError, EngineError, OSError) as error:
                failed += 1
                if failed == MOST_TRIES:  # not at once: it may be another broker that is just told that we are here
                    on_lost(f"its socket was removed and cannot be made again: {error}")
                    return
            else:
                failed = 0
                logger.warning("the socket %s had been removed; serving it again", self.address)

    def _is_ours(self) -> bool:
        try:
            return self._bound is not None and os.path.samestat(os.stat(self.address.path), self._bound)
        except OSError:
            return False

    def close(self) -> None:
        """Let nobody connect any more, and remove the socket."""
        if self._watch is not None:
            self._watch.cancel()
        if self._listener is not None:
            if self._is_ours():
                os.unlink(self.address.path)
            self._listener.close()

    def release(self) -> None:
        """Close, and let another broker serve the path."""
        self.close()
        self._lock.release()


async def _listen(server: BrokerServer, address: UnixAddress) -> asyncio.Server:
    """Bind a Unix socket, whose lock is held, and listen there."""
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
