"""One socket and many threads: nobody sleeps through what has come for him, and a broken frame ends the connection."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.transports.in_process_client import in_thread
from tests.transports.served.raw import eventually
from transports.served.stream import ConnectionLost, FrameStream
from transports.wire.frames import FrameReader, pack_frame
from transports.wire.protocol import GOODBYE, PING, PONG


class Ends:
    """A stream and the broker's end of its socket. came: the frames that were handed out."""

    def __init__(self) -> None:
        self.far, near = socket.socketpair()
        self.far.settimeout(60)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        self.came: list[Any] = []
        self.stream = FrameStream(near, self.on_frame)

    def on_frame(self, fields: list[Any]) -> None:
        if fields[0] == PING:
            self.stream.reply(pack_frame((PONG,)))
        elif fields[0] == GOODBYE:
            raise ConnectionLost(fields[1])
        elif fields[0] == "broken":
            raise KeyError("frame_max")
        else:
            self.came.append(fields[0])

    def send(self, *frames: Any) -> None:
        self.far.sendall(b"".join(pack_frame((frame,)) for frame in frames))

    def receive_all(self, count: int) -> list[Any]:
        reader, found = FrameReader(2**30), []
        while len(found) < count:
            found.extend(reader.feed(self.far.recv(65536)))
        return [fields[0] for fields in found]


@pytest.fixture
def ends() -> Iterator[Ends]:
    both = Ends()
    yield both
    both.stream.close()
    both.far.close()


def test_what_another_thread_has_read_is_found_by_who_begins_to_follow_later(ends: Ends) -> None:
    """The reader has taken our frame and goes on waiting for its own: nothing more will come to wake us."""
    reader = in_thread(lambda: ends.stream.wait_until(lambda: "its own" in ends.came, 60))
    eventually(ends.stream._reading.locked)
    ends.send("ours")
    eventually(lambda: ends.came, ["ours"])
    eventually(ends.stream._reading.locked)

    assert ends.stream._follow(lambda: "ours" in ends.came, 60)
    assert ends.stream.receive(lambda: "ours" in ends.came, 60)

    ends.send("its own")
    assert reader() is True


def test_eight_threads_that_wait_each_for_its_own_all_get_it(ends: Ends) -> None:
    turns = 50

    def wait_for_each(number: int) -> bool:
        return all(ends.stream.wait_until(partial(ends.came.__contains__, [number, turn]), 60) for turn in range(turns))

    waits = [in_thread(lambda number=number: wait_for_each(number)) for number in range(8)]
    for turn in range(turns):
        for number in range(8):
            ends.send([number, turn])

    assert all(wait() for wait in waits)


def test_a_ping_in_the_middle_of_a_large_frame_does_not_stop_it(ends: Ends) -> None:
    large = pack_frame((b"x" * 1_000_000,))
    ends.send(PING)
    sending = in_thread(lambda: ends.stream.send(large))

    assert ends.receive_all(1) == [b"x" * 1_000_000]

    sending()
    ends.send(PING)
    ends.stream.receive(lambda: False, 60)
    assert ends.receive_all(1) == [PONG]


def test_two_sides_that_both_send_much_do_not_wait_for_ever(ends: Ends) -> None:
    sending = in_thread(lambda: ends.stream.send(pack_frame((b"x" * 2_000_000,))))
    ends.send("y" * 2_000_000)

    assert len(ends.receive_all(1)[0]) == 2_000_000
    sending()
    assert len(ends.came[0]) == 2_000_000


def test_a_broker_that_takes_nothing_is_given_up(ends: Ends) -> None:
    ends.stream.patience = 0.05

    with pytest.raises(ConnectionLost, match=r"the broker took nothing for 0\.05 s"):
        ends.stream.send(b"x" * 10_000_000)

    assert not ends.stream.usable


def test_who_cannot_send_any_more_says_why_in_the_broker_s_words(ends: Ends) -> None:
    ends.far.sendall(pack_frame((GOODBYE, "the broker stops")))
    ends.far.close()

    with pytest.raises(ConnectionLost, match="the broker stops"):
        ends.stream.send(pack_frame((PING,)))


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff", pack_frame(("broken",)), b"\x00\x00\x00\x01\xc1"])
def test_what_is_not_from_a_broker_ends_the_connection(ends: Ends, sent: bytes) -> None:
    ends.far.sendall(sent)

    with pytest.raises(ConnectionLost, match="what came is not from a broker"):
        ends.stream.receive(lambda: False, 60)

    assert not ends.stream.usable


def test_closing_wakes_a_thread_that_waits_and_the_socket_is_closed_after_it(ends: Ends) -> None:
    waiting = in_thread(lambda: ends.stream.receive(lambda: False, None))
    follower = in_thread(lambda: ends.stream.wait_until(lambda: False, None))
    eventually(ends.stream._reading.locked)

    ends.stream.close("closed in a test")

    for wait in (waiting, follower):
        with pytest.raises(ConnectionLost, match="closed in a test"):
            wait()
    eventually(ends.stream.fileno, -1)


def test_each_thread_gets_an_error_of_its_own(ends: Ends) -> None:
    ends.stream.close()
    errors = []
    for _ in range(3):
        with pytest.raises(ConnectionLost) as raised:
            ends.stream.check()
        errors.append(raised.value)
    assert len({id(error) for error in errors}) == 3


class _Interrupted(Exception):
    pass


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread")
def test_a_frame_broken_off_by_a_signal_ends_the_connection(ends: Ends) -> None:
    """Half of it is gone: another frame behind that half would mean something else."""

    def interrupt(*_: object) -> None:
        raise _Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        signaller = in_thread(lambda: (eventually(lambda: ends.stream._in_send), os.kill(os.getpid(), signal.SIGUSR1)))
        with pytest.raises(_Interrupted):
            ends.stream.send(b"x" * 10_000_000)
        signaller()
    finally:
        signal.signal(signal.SIGUSR1, before)

    with pytest.raises(ConnectionLost, match="broken off in the middle"):
        ends.stream.send(pack_frame((PING,)))
