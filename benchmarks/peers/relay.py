"""The floor of an idle call: ``python -m benchmarks.peers.relay PROCESSES ROUNDS``.

A byte goes from this process through a chain of others, each asleep until its socket has it, as caller, broker, worker
and child of a call are. Prints a line a round: the seconds from before it is sent to when the last one has it.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep

LARGEST = 65_536
PAUSE = 0.002


def hand_on(heard: socket.socket, work: Callable[[bytes], object]) -> None:
    """Do a process's work for whatever it hears, asleep meanwhile; ends with the process before it."""
    asleep = selectors.DefaultSelector()
    asleep.register(heard, selectors.EVENT_READ)
    while True:
        asleep.select()
        frame = heard.recv(LARGEST)
        if not frame:
            return
        work(frame)


def arrive(arrived: int) -> None:
    """Tell by a pipe that it has come to the last process now."""
    os.write(arrived, struct.pack("d", monotonic()))


def print_rounds(rounds: int, send: Callable[[], object], came: int) -> None:
    """Send again and again, and print how long it took to come to the last process."""
    for _ in range(rounds):
        sleep(PAUSE)
        before = monotonic()
        send()
        (then,) = struct.unpack("d", os.read(came, 8))
        print(then - before)


def main(processes: int, rounds: int) -> None:
    """Fork the others, each with the two sockets that it needs, and send."""
    came, arrived = os.pipe()
    first: socket.socket | None = None
    following: socket.socket | None = None  # what the process in front of those made so far writes to
    for _ in range(processes - 1):
        first, heard = socket.socketpair()
        if not os.fork():
            first.close()
            hand_on(heard, following.send if following is not None else lambda _: arrive(arrived))
            os._exit(0)
        heard.close()
        if following is not None:
            following.close()
        following = first
    assert first is not None
    print_rounds(rounds, partial(first.send, b"."), came)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
