"""A client that says exactly what a test wants it to say, and the words for what a broker has to show afterwards."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from transports.broker import BrokerThread
from transports.wire.address import TcpAddress
from transports.wire.frames import FrameReader, pack_frame
from transports.wire.protocol import ANSWER, CALL, GOODBYE, HELLO, MAGIC, VERSION, WELCOME

__all__ = ["DEADLINE", "RawClient", "eventually", "resident", "sessions"]

DEADLINE = 60.0  # seconds until a wait counts as failed; far more than anything here takes


class RawClient:
    """A socket on a broker. name: what it calls itself in its greeting; None for a client that does not greet."""

    def __init__(self, address: str | TcpAddress, *, name: str | None = "raw", **options: Any) -> None:
        if isinstance(address, TcpAddress):
            self.socket = socket.create_connection((address.host, address.port), DEADLINE)
        else:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(DEADLINE)
            self.socket.connect(address)
        self._reader = FrameReader(2**30)
        self._frames: deque[list[Any]] = deque()
        if name is not None:
            self.send((HELLO, MAGIC, VERSION, {"name": name, "pid": os.getpid(), **options}))
            self.until(WELCOME)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close()

    def send_bytes(self, data: bytes) -> None:
        """Send bytes, or as many as the broker takes before it ends the connection."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def send(self, *frames: Any) -> None:
        """Send frames."""
        self.send_bytes(b"".join(pack_frame(frame) for frame in frames))

    def call(self, operation: str, *arguments: Any, channel: int = 1) -> Any:
        """Ask for an operation and return its answer; deliveries that come before it are left out."""
        self.send((CALL, 7, channel, operation, list(arguments)))
        return self.until(ANSWER)[2]

    def open_channel(self, number: int = 1) -> RawClient:
        """Open a channel."""
        self.call("open_channel", number, channel=0)
        return self

    def receive(self) -> list[Any] | None:
        """Return the next frame, None at the end of the connection."""
        while not self._frames:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._frames.extend(self._reader.feed(data))
        return self._frames.popleft()

    def until(self, kind: int) -> list[Any]:
        """Return the next frame of a kind."""
        while (fields := self.receive()) is not None:
            if fields[0] == kind:
                return fields
            assert fields[0] != GOODBYE, fields
        raise AssertionError(f"the broker ended the connection before a frame of kind {kind}")

    def farewell(self) -> str:
        """Wait until the broker ends the connection, and return the reason that it gives."""
        reason = ""
        while (fields := self.receive()) is not None:
            if fields[0] == GOODBYE:
                reason = fields[1]
        return reason


def eventually(observe: Callable[[], Any], expected: Any = True) -> None:
    """Wait until ``observe()`` returns what is expected."""
    deadline = time.monotonic() + DEADLINE
    while (seen := observe()) != expected:
        assert time.monotonic() < deadline, f"{seen!r} did not become {expected!r}"
        time.sleep(0.005)


def sessions(served: BrokerThread) -> int:
    """Return how many clients the broker has."""
    return served.call(lambda server: len(server.sessions))


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    with open(f"/proc/{pid}/statm", "rb") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
