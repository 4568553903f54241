"""Frames to and from a broker over one socket, for any number of threads.

Whoever waits for something reads for everybody: one thread at a time holds the reading end, hands each frame to
``on_frame``, and the others wait until it tells that something has come or that the reading end is free. So no thread
of our own is needed, an answer wakes exactly the process that asked, and in a program with one thread there is nobody
to hand over to.

A writer whose bytes do not fit reads while it waits: two sides that both only write would wait for ever.

A connection that is lost is shut down at once, which wakes whoever polls it, and its socket is closed by the last
thread that uses it: a number that is free again might be another file's by the time a thread polls it.

A forked child has the socket closed from its beginning: the connection is its parent's, and ends with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any

from transports.wire.frames import DEFAULT_FRAME_MAX, FrameReader
from transports.wire.inherited import close_in_children

__all__ = ["ConnectionLost", "FrameStream"]

READ_BYTES = 256 * 1024
#: So often a reader fills its buffer before it hands over; a broker that sends without end holds up nobody.
MOST_READS = 8
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
#: How long an answer is looked for before the thread sleeps. An answer takes some 40 microseconds; to be put to sleep
#: and woken takes longer, and the processor's caches with it: a confirmed ``.delay()`` takes two thirds of the time,
#: and less of the processor, when it looks. With one processor, looking would only keep the broker from answering.
LOOK_SECONDS = 0.0001 if PROCESSORS > 1 else 0.0


#: What a signal's handler gets that uses the connection its own thread was in the middle of using: it cannot wait for
#: that to end. (Celery's beat closes its connections in the handler of SIGTERM.)
INTERRUPTED = "a signal's handler wanted to use the connection in the middle of its use"


class ConnectionLost(ConnectionError):
    """The connection to the broker is gone; the text says how."""


class FrameStream:
    """A connected socket that sends and receives frames.

    on_frame: called with each frame, with the reading end held; it must not wait, and sends by :meth:`reply` only. It
    may raise ConnectionLost; any other exception means that the frame is none of a broker's.
    patience: seconds that the broker may take none of what is being sent.
    """

    def __init__(self, sock: socket.socket, on_frame: Callable[[list[Any]], None], *, patience: float = 30.0) -> None:
        sock.setblocking(False)
        self.patience = patience
        self.last_sent = self.last_heard = monotonic()
        self._socket = sock
        self._on_frame = on_frame
        self._reader = FrameReader(DEFAULT_FRAME_MAX * 2)
        self._pid = os.getpid()
        self._sending = threading.RLock()
        self._in_send = False
        self._reading = threading.Lock()
        self._reading_thread = 0  # who holds it
        self._changed = threading.Condition(threading.Lock())
        self._followers = 0
        self._buffer = bytearray(READ_BYTES)
        self._unsent = b""  # of a reply
        self._lost: str | None = None
        self._closed = False
        weakref.finalize(self, sock.close).atexit = False  # dropped without being closed, it closes itself
        close_in_children(self)  # or the broker would think us there for as long as a child lives

    def fileno(self) -> int:
        """Return the socket's file descriptor."""
        return self._socket.fileno()

    def take_frames_up_to(self, size: int) -> None:
        """Let the broker send frames of so many bytes (never less than 64 MB)."""
        self._reader.limit = max(size, DEFAULT_FRAME_MAX * 2)

    @property
    def usable(self) -> bool:
        """Whether frames can still be sent and received, as far as is known."""
        return self._lost is None and os.getpid() == self._pid

    def check(self) -> None:
        """Raise ConnectionLost when frames can neither be sent nor received any more."""
        if self._lost is not None:
            raise ConnectionLost(self._lost)
        if os.getpid() != self._pid:
            raise ConnectionLost(f"this connection belongs to process {self._pid}, which forked this one: open another")

    # -- sending -----------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write frames, waiting as long as the broker takes some of them within ``patience`` seconds."""
        self.check()
        try:
            with self._sending:
                self._check_not_in_send()
                try:
                    self._in_send = True
                    if self._unsent:
                        data, self._unsent = self._unsent + data, b""
                    try:
                        sent = self._socket.send(data)
                    except (BlockingIOError, InterruptedError):
                        sent = 0
                    if sent < len(data):
                        self._send_rest(memoryview(data)[sent:])
                except ConnectionLost:
                    raise
                except OSError as error:
                    raise self._cannot_send(error) from error
                except BaseException:  # a signal's handler: nobody knows how much of the frame is gone
                    self._lose("a frame was broken off in the middle")
                    raise
                finally:
                    self._in_send = False
                self.last_sent = monotonic()
        finally:
            if self._closed:
                self._close_if_free()

    def _check_not_in_send(self) -> None:
        if self._in_send:
            raise self._lose(INTERRUPTED)

    def _send_rest(self, rest: memoryview) -> None:
        stalled = monotonic() + self.patience
        while rest:
            may_read = self._take_reading()
            try:
                self._poll(select.POLLOUT | (select.POLLIN if may_read else 0), 0.1)
                if may_read:
                    self._read()
            finally:
                if may_read:
                    self._leave_reading()
                    self._tell()
            try:
                rest = rest[self._socket.send(rest) :]
                stalled = monotonic() + self.patience
            except (BlockingIOError, InterruptedError):
                if monotonic() > stalled:
                    raise self._lose(f"the broker took nothing for {self.patience:g} s") from None

    def _cannot_send(self, error: OSError) -> ConnectionLost:
        """Return why the broker takes nothing any more: in its own words, if it has sent some."""
        if self._take_reading():
            try:
                while self._read():
                    pass
            except ConnectionLost as told:
                return told
            finally:
                self._leave_reading()
                self._tell()
        return self._lose(f"the broker is gone: {error}")

    def reply(self, frame: bytes) -> None:
        """Send a small frame from within ``on_frame``, without waiting; left out while anything else is being sent."""
        if self._sending.acquire(blocking=False):
            try:
                if not self._in_send and not self._unsent:
                    self._unsent = frame[self._socket.send(frame) :]
                    self.last_sent = monotonic()
            except OSError:
                pass  # no room for it; and if the broker is gone, whoever reads learns it
            finally:
                self._sending.release()

    # -- receiving ---------------------------------------------------------------------------------------------

    def receive(self, arrived: Callable[[], bool], timeout: float | None) -> bool:
        """Read what there is, waiting up to ``timeout`` seconds for something; tell whether anything came.

        timeout: None for ever, 0 not to wait. Returns True also when another thread has read meanwhile, so that
        ``arrived()`` may be true.
        """
        self.check()
        if self._take_reading():
            try:
                if arrived() or self._read():
                    return True
                if timeout == 0 or not self._poll(select.POLLIN, timeout):
                    return False
                self._read()
                return True
            finally:
                self._leave_reading()
                self._tell()
        return self._follow(arrived, timeout)

    def wait_until(self, arrived: Callable[[], bool], timeout: float | None) -> bool:
        """Receive until ``arrived()``; False when ``timeout`` seconds passed before. Raises ConnectionLost."""
        deadline = None if timeout is None else monotonic() + timeout
        while not arrived():
            remaining = None if deadline is None else deadline - monotonic()
            if remaining is not None and remaining <= 0:
                return False
            self.check()
            if self._take_reading():
                try:
                    if arrived():
                        return True
                    if self._comes_soon() or self._poll(select.POLLIN, remaining):
                        self._read()
                finally:
                    self._leave_reading()
                    self._tell()
            else:
                self._follow(arrived, remaining)
        return True

    def _follow(self, arrived: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until the thread that reads has something to tell."""
        if self._reading_thread == threading.get_ident():
            raise self._lose(INTERRUPTED)
        with self._changed:
            self._followers += 1  # from here on it tells us; what it read before, ``arrived`` knows
            try:
                return arrived() or not self._reading.locked() or self._changed.wait(timeout)
            finally:
                self._followers -= 1

    def _take_reading(self) -> bool:
        if self._reading.acquire(blocking=False):
            self._reading_thread = threading.get_ident()
            return True
        return False

    def _leave_reading(self) -> None:
        self._reading_thread = 0
        self._reading.release()

    def _tell(self) -> None:
        if self._followers:
            with self._changed:
                self._changed.notify_all()
        if self._closed:
            self._close_if_free()

    def _comes_soon(self) -> bool:
        """Look whether something comes within LOOK_SECONDS, without sleeping; other threads run meanwhile."""
        if not LOOK_SECONDS:
            return False
        until = perf_counter() + LOOK_SECONDS
        poll = self._poll_for(select.POLLIN)
        while not poll.poll(0):
            if perf_counter() > until:
                return False
        return True

    def _poll_for(self, events: int) -> select.poll:
        poll = select.poll()  # a new one each time: two threads may wait at once, one of them to write
        try:
            poll.register(self._socket, events)
        except ValueError:
            self.check()
            raise ConnectionLost("this connection is closed") from None
        return poll

    def _poll(self, events: int, timeout: float | None) -> bool:
        return bool(self._poll_for(events).poll(None if timeout is None else max(0.0, timeout) * 1000))

    def _read(self) -> bool:
        """Take in what the socket has; the reading end is held. Tells whether there was anything."""
        anything = False
        try:
            for _ in range(MOST_READS):
                try:
                    count = self._socket.recv_into(self._buffer)
                except (BlockingIOError, InterruptedError):
                    break
                if not count:
                    raise ConnectionLost("the broker closed the connection")
                anything = True
                for fields in self._reader.feed(memoryview(self._buffer)[:count]):
                    self._on_frame(fields)
                self.last_heard = monotonic()
                if count < len(self._buffer):
                    break
        except ConnectionLost as error:
            raise self._lose(str(error)) from error
        except OSError as error:
            raise self._lose(f"the broker is gone: {error}") from error
        except Exception as error:
            raise self._lose(f"what came is not from a broker: {error or repr(error)}") from error
        except BaseException:  # a signal's handler: nobody knows which frames were taken
            self._lose("reading was broken off in the middle")
            raise
        return anything

    # -- end ---------------------------------------------------------------------------------------------------

    def _lose(self, reason: str) -> ConnectionLost:
        if self._lost is None:
            self._lost = reason
        # Not closed before somebody closes the stream: an event loop that watches the socket would never hear of it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        return ConnectionLost(self._lost)

    def close(self, reason: str = "this connection is closed") -> None:
        """End the connection; in a forked child there is none."""
        if os.getpid() != self._pid:
            self._lost = self._lost or reason
            self.close_copy()
            return
        self._lose(reason)
        self._closed = True
        with self._changed:
            self._changed.notify_all()
        self._close_if_free()

    def close_copy(self) -> None:
        """Close this process's socket without a word to the broker. Called in each forked child, when it begins."""
        self._socket.close()

    def _close_if_free(self) -> None:
        """Close the socket of a closed stream, unless a thread is using it: that one will."""
        if self._sending.acquire(blocking=False):
            try:
                if not self._in_send and self._take_reading():
                    try:
                        self._socket.close()
                    finally:
                        self._leave_reading()
            finally:
                self._sending.release()
