"""Frames to and from a broker over one socket, for any number of threads.

Whoever waits for something reads for everybody: one thread at a time holds the reading end, hands each frame to
``on_frame``, and the others wait until it tells that something has come or that the reading end is free. So no thread
of our own is needed, an answer wakes exactly the process that asked, and in a program with one thread there is nobody
to hand over to.

A writer whose bytes do not fit reads while it waits: two sides that both only write would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

from transports.wire.frames import DEFAULT_FRAME_MAX, FrameError, FrameReader

__all__ = ["ConnectionLost", "FrameStream"]

READ_BYTES = 256 * 1024


class ConnectionLost(ConnectionError):
    """The connection to the broker is gone; the text says how."""


class FrameStream:
    """A connected socket that sends and receives frames.

    on_frame: called with each frame, with the reading end held; it must not wait. It may raise ConnectionLost.
    """

    def __init__(self, sock: socket.socket, on_frame: Callable[[list[Any]], None]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._on_frame = on_frame
        self._reader = FrameReader(DEFAULT_FRAME_MAX * 2)
        self._pid = os.getpid()
        self._sending = threading.Lock()
        self._reading = threading.Lock()
        self._changed = threading.Condition(threading.Lock())
        self._followers = 0
        self._buffer = bytearray(READ_BYTES)
        self.lost: ConnectionLost | None = None
        self.last_sent = self.last_heard = monotonic()
        weakref.finalize(self, sock.close).atexit = False  # dropped without being closed, it closes itself

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._socket.fileno()

    def check(self) -> None:
        """Raise ConnectionLost when frames can neither be sent nor received any more."""
        if self.lost is not None:
            raise self.lost
        if os.getpid() != self._pid:
            raise ConnectionLost(f"this connection belongs to process {self._pid}, which forked this one: open another")

    # -- sending -----------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write frames, waiting as long as the broker takes to read them."""
        self.check()
        with self._sending:
            try:
                try:
                    sent = self._socket.send(data)
                except (BlockingIOError, InterruptedError):
                    sent = 0
                if sent < len(data):
                    self._send_rest(memoryview(data)[sent:])
            except ConnectionLost:
                raise
            except OSError as error:
                raise self._lose(f"the broker is gone: {error}") from error
            self.last_sent = monotonic()

    def _send_rest(self, rest: memoryview) -> None:
        while rest:
            may_read = self._reading.acquire(blocking=False)
            try:
                self._poll(select.POLLOUT | (select.POLLIN if may_read else 0), 0.1)
                if may_read:
                    self._read()
            finally:
                if may_read:
                    self._reading.release()
                    self._tell()
            with contextlib.suppress(BlockingIOError, InterruptedError):
                rest = rest[self._socket.send(rest) :]

    # -- receiving ---------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None) -> bool:
        """Read what there is, waiting up to ``timeout`` seconds for something; tell whether anything came.

        timeout: None for ever, 0 not to wait. Returns True also when another thread read meanwhile.
        """
        self.check()
        if self._reading.acquire(blocking=False):
            try:
                if self._read():
                    return True
                if timeout == 0 or not self._poll(select.POLLIN, timeout):
                    return False
                self._read()
                return True
            finally:
                self._reading.release()
                self._tell()
        return self._follow(timeout)

    def wait_until(self, arrived: Callable[[], bool], timeout: float | None) -> bool:
        """Receive until ``arrived()``; False when ``timeout`` seconds passed before. Raises ConnectionLost."""
        deadline = None if timeout is None else monotonic() + timeout
        while not arrived():
            remaining = None if deadline is None else deadline - monotonic()
            if remaining is not None and remaining <= 0:
                return False
            self.check()
            if self._reading.acquire(blocking=False):
                try:
                    if arrived():
                        return True
                    if self._poll(select.POLLIN, remaining):
                        self._read()
                finally:
                    self._reading.release()
                    self._tell()
            else:
                self._follow(remaining)
        return True

    def _follow(self, timeout: float | None) -> bool:
        """Wait until the thread that reads has something to tell."""
        with self._changed:
            self._followers += 1
            try:
                if not self._reading.locked():
                    return True
                return self._changed.wait(timeout)
            finally:
                self._followers -= 1

    def _tell(self) -> None:
        if self._followers:
            with self._changed:
                self._changed.notify_all()

    def _poll(self, events: int, timeout: float | None) -> bool:
        poll = select.poll()  # a new one each time: two threads may wait at once, one of them to write
        try:
            poll.register(self._socket, events)
        except ValueError:
            raise self.lost or ConnectionLost("this connection is closed") from None
        return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))

    def _read(self) -> bool:
        """Take in all that the socket has; the reading end is held. Tells whether there was anything."""
        anything = False
        view = memoryview(self._buffer)
        while True:
            try:
                count = self._socket.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return anything
            except OSError as error:
                raise self._lose(f"the broker is gone: {error}") from error
            if not count:
                raise self._lose("the broker closed the connection")
            anything = True
            try:
                for fields in self._reader.feed(view[:count]):
                    self._on_frame(fields)
            except FrameError as error:
                raise self._lose(f"what came is not from a broker: {error}") from error
            except ConnectionLost as error:
                raise self._lose(str(error)) from error
            self.last_heard = monotonic()
            if count < len(self._buffer):
                return True

    # -- end ---------------------------------------------------------------------------------------------------

    def _lose(self, reason: str) -> ConnectionLost:
        if self.lost is None:
            self.lost = ConnectionLost(reason)
        self._shut()
        return self.lost

    def close(self, reason: str = "this connection is closed") -> None:
        """End the connection. In a forked child only its own copy of the socket is closed."""
        if self.lost is None:
            self.lost = ConnectionLost(reason)
        if os.getpid() == self._pid:
            self._shut()
            with self._changed:
                self._changed.notify_all()
        else:
            self._socket.close()

    def _shut(self) -> None:
        # shutdown wakes a thread that polls this socket; close alone would not.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
