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
from time import monotonic, sleep

PAUSE = 0.002


def pass_on(heard: socket.socket, tell: socket.socket | None, arrived: int) -> None:
    """Hand each byte to the next process; the last one tells when it came. Ends with the process before it."""
    asleep = selectors.DefaultSelector()
    asleep.register(heard, selectors.EVENT_READ)
    while True:
        asleep.select()
        byte = heard.recv(1)
        if not byte:
            return
        if tell is None:
            os.write(arrived, struct.pack("d", monotonic()))
        else:
            tell.send(byte)


def main(processes: int, rounds: int) -> None:
    """Fork the others, each with the two sockets that it needs, and send."""
    came, arrived = os.pipe()
    first: socket.socket | None = None
    following: socket.socket | None = None  # what the process in front of those made so far writes to
    for _ in range(processes - 1):
        first, heard = socket.socketpair()
        if not os.fork():
            first.close()
            pass_on(heard, following, arrived)
            os._exit(0)
        heard.close()
        if following is not None:
            following.close()
        following = first
    assert first is not None
    for _ in range(rounds):
        sleep(PAUSE)
        before = monotonic()
        first.send(b".")
        (then,) = struct.unpack("d", os.read(came, 8))
        print(then - before)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
