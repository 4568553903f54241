"""The program that calls: it has no broker and no worker in it.

In two terminals, at the top of the repository; whichever comes first starts the broker:

    celery -A examples.two_processes.tasks worker
    python -m examples.two_processes.backend
"""

from __future__ import annotations

import os

from examples.two_processes.tasks import score
from liap_tasks import QueueFullError


def main() -> None:
    hands = [[14, 11, 2], [12, 11, 14, 13], [1] * 8]
    try:
        calls = [score.delay(hand) for hand in hands]
    except QueueFullError as full:
        print(f"try again in {full.retry_after:.0f} s: {full}")
        return
    for hand, call in zip(hands, calls, strict=True):
        print(f"process {os.getpid()} was told that {hand} scores {call.get(timeout=30)}")


if __name__ == "__main__":
    main()
