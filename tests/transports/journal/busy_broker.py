"""A process that works on a journal until it is killed and says what it has committed: one line for each commit.

``python -m tests.transports.journal.busy_broker PATH SEED``; a line is ``+ body ...`` for what was published and
``- body ...`` for what was acknowledged, written to the standard output when the commit has returned.
"""

from __future__ import annotations

import random
import sys

from tests.transports.journal.stored_broker import carried
from transports.broker.journal import FileJournal
from transports.engine import Broker, Sink


def main() -> None:
    path, seed = sys.argv[1:]
    rng = random.Random(seed)
    journal = FileJournal(path, segment_bytes=16 * 1024)
    brokers = journal.recover(lambda vhost: Broker(vhost, journal=journal))
    broker = brokers.get("/") or Broker(journal=journal)
    connection = broker.connect()
    broker.declare_queue(connection, "q", durable=True)
    channel = broker.open_channel(connection, Sink())
    journal.commit()
    print("ready", flush=True)
    serial = 0
    while True:
        published, acknowledged = [], []
        for _ in range(rng.randrange(1, 30)):
            serial += 1
            body = f"{seed}.{serial}"
            broker.publish(carried(body.encode() + b" " * rng.randrange(300), "q"))
            published.append(body)
        for _ in range(rng.randrange(1, 30)):
            got = broker.get(channel, "q")
            if got is not None:
                acknowledged.append(got.entry.message.body.decode().strip())
                broker.ack(channel, got.delivery_tag)
        print("try -", *acknowledged)
        sys.stdout.flush()
        journal.commit()
        print("+", *published)
        print("-", *acknowledged)
        sys.stdout.flush()
        journal.compact_step()


if __name__ == "__main__":
    main()
