"""Processes that work on a journal until they are killed and say what they have committed.

``python -m tests.transports.journal.busy_broker PATH`` starts one for each line (a seed) on its standard input. It says
``pid N``, then for each commit, before it, ``? body ...`` (about to be acknowledged), and when it has returned
``+ body ...`` (published) and ``- body ...`` (acknowledged); after its end ``over``.
"""

from __future__ import annotations

import os
import random
import sys

from tests.transports.journal.stored_broker import carried
from transports.broker.journal import FileJournal
from transports.engine import Broker, Sink


def main() -> None:
    for seed in sys.stdin:
        child = os.fork()  # a start of the interpreter would take longer than what is tried here
        if not child:
            work(sys.argv[1], seed.strip())
        os.waitpid(child, 0)
        say("over")


def say(*words: object) -> None:
    """Write one line in one piece (it is shorter than what a pipe takes at once)."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def work(path: str, seed: str) -> None:
    rng = random.Random(seed)
    journal = FileJournal(path, segment_bytes=16 * 1024)
    brokers = journal.recover(lambda vhost: Broker(vhost, journal=journal))
    broker = brokers.get("/") or Broker(journal=journal)
    broker.declare_queue(broker.connect(), "q", durable=True)
    channel = broker.open_channel(broker.connect(), Sink())
    journal.commit()
    say("pid", os.getpid())
    serial = 0
    while True:
        published, acknowledged = [], []
        for _ in range(rng.randrange(1, 30)):
            serial += 1
            published.append(f"{seed}.{serial}")
            broker.publish(carried(published[-1].encode() + b" " * rng.randrange(300), "q"))
        for _ in range(rng.randrange(1, 30)):
            got = broker.get(channel, "q")
            if got is not None:
                acknowledged.append(got.entry.message.body.decode().strip())
                broker.ack(channel, got.delivery_tag)
        say("?", *acknowledged)
        journal.commit()
        say("+", *published)
        say("-", *acknowledged)
        journal.compact_step()


if __name__ == "__main__":
    main()
