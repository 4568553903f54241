"""A broker that is killed again and again under load: with a journal, what it confirmed is delivered."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Queue

from tests.transports.in_process_client import in_thread
from tests.transports.served.processes import ClientProcess
from tests.transports.served.raw import eventually
from transports import BrokerUnavailableError

WINDOW = 20  # unacknowledged messages that the consumer may hold

#: Starts brokers from an interpreter that has loaded everything, one for each line that it reads.
NURSERY = """
import os, sys
from transports.broker.command import main

for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os._exit(main(sys.argv[1:]))
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


class Nursery:
    """One broker at a time, each in the place of the one before."""

    def __init__(self, program: ClientProcess) -> None:
        self._program = program
        self._pid = 0

    def start(self) -> None:
        assert self._program.process.stdin is not None
        assert self._program.process.stdout is not None
        self._program.process.stdin.write("\n")
        self._program.process.stdin.flush()
        self._pid = int(self._program.process.stdout.readline())

    def kill(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._pid = 0
            self._program.says("ended")


@contextmanager
def nursery(path: Path, sync: str) -> Iterator[Nursery]:
    options = ("--socket", str(path / "b.sock"), "--journal", str(path / "journal"), "--sync", sync)
    with ClientProcess(NURSERY, *options, "--log", str(path / "log")) as program:
        brokers = Nursery(program)
        try:
            yield brokers
        finally:
            brokers.kill()


class Traffic:
    """A publisher that waits for confirmations and a consumer that acknowledges; both connect again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.confirmed: set[int] = set()
        self.seen: Counter[int] = Counter()
        self.published = 0
        self.enough = threading.Event()
        self.done = threading.Event()
        self.queue = Queue("jobs", durable=True)

    def connect(self) -> Connection:
        return Connection(self.url).ensure_connection(interval_start=0.01, interval_step=0.0)

    def publish(self) -> None:
        while not self.enough.is_set():
            with suppress(ConnectionError, BrokerUnavailableError), self.connect() as connection:
                channel = connection.channel()
                self.queue(channel).declare()
                while not self.enough.is_set():
                    self.publish_some(channel, random.choice((1, 1, 1, 30)))

    def publish_some(self, channel: Any, count: int) -> None:
        numbers = range(self.published, self.published + count)
        self.published += count

        def say(number: int) -> None:
            message = channel.prepare_message(str(number), properties={"delivery_mode": 2})
            channel.basic_publish(message, "", "jobs")

        if count == 1:
            say(numbers[0])
        else:
            with channel.pipeline():
                for number in numbers:
                    say(number)
        self.confirmed.update(numbers)

    def consume(self) -> None:
        while not self.done.is_set():
            with suppress(ConnectionError, BrokerUnavailableError), self.connect() as connection:
                channel = connection.channel()
                queue = self.queue(channel)
                queue.declare()
                channel.basic_qos(0, WINDOW, False)
                queue.consume("consumer", callback=self.take)
                while not self.done.is_set():
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.1)

    def take(self, message: Any) -> None:
        self.seen[int(message.body)] += 1
        message.ack()


@pytest.mark.parametrize(("sync", "rounds"), [("os", 20), ("disk", 2)])
def test_every_confirmed_message_is_delivered_however_often_the_broker_is_killed(
    tmp_path: Path, sync: str, rounds: int
) -> None:
    traffic = Traffic(f"liap-broker://{tmp_path / 'b.sock'}")
    with nursery(tmp_path, sync) as brokers:
        brokers.start()
        working = [in_thread(traffic.publish), in_thread(traffic.consume)]
        for _ in range(rounds):
            target = len(traffic.confirmed) + random.randint(20, 400)
            eventually(lambda target=target: len(traffic.confirmed) >= target)
            brokers.kill()
            brokers.start()
        traffic.enough.set()
        working[0]()
        eventually(lambda: traffic.confirmed <= traffic.seen.keys())
        with traffic.connect() as connection:
            channel = connection.channel()
            eventually(lambda: [channel.queue_stats("jobs")["jobs"][n] for n in ("ready", "unacked")], [0, 0])
        traffic.done.set()
        working[1]()

    duplicates = traffic.seen.total() - len(traffic.seen)
    print(f"{sync}: {len(traffic.confirmed)} confirmed of {traffic.published}, {duplicates} delivered twice")
    assert duplicates <= rounds * WINDOW  # those whose acknowledgements were on their way
    assert len(traffic.seen) <= traffic.published
