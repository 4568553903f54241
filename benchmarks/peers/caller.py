"""Call one task after the other on an idle worker: ``python -m benchmarks.peers.caller KIND ROUNDS``.

Prints a line a round: the seconds from before the call here to the first line of the task there.
"""

from __future__ import annotations

import os
import struct
import sys
from time import monotonic, sleep

from benchmarks.peers.marks import STAMPED

WARM_UP = 5


def main(kind: str, rounds: int) -> None:
    """Call, wait until the task has told when it started, and go on."""
    if kind == "celery":
        from benchmarks.peers.celery_tasks import note

        send = note.delay
    else:
        from benchmarks.peers.dramatiq_tasks import note as actor

        send = actor.send
    pipe = os.open(os.environ[STAMPED], os.O_RDWR)  # also for writing, so that it never ends
    for number in range(WARM_UP + rounds):
        sleep(0.002)
        before = monotonic()
        send()
        (started,) = struct.unpack("d", os.read(pipe, 8))
        if number >= WARM_UP:
            print(started - before)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
