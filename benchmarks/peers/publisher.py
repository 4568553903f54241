"""Publish in a process of its own, as a backend does: ``python -m benchmarks.peers.publisher KIND NUMBER``.

KIND: celery or dramatiq. Prints publishes per second.
"""

from __future__ import annotations

import sys
from time import perf_counter

WARM_UP = 20


def main(kind: str, number: int) -> None:
    """Publish ``number`` calls of the counting task, after a few that open the connection."""
    if kind == "celery":
        from benchmarks.peers.celery_tasks import count

        send = count.delay
    else:
        from benchmarks.peers.dramatiq_tasks import count as actor

        send = actor.send
    for index in range(WARM_UP):
        send(index, text="room-0001")
    began = perf_counter()
    for index in range(number):
        send(index, text="room-0001")
    print(number / (perf_counter() - began))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
