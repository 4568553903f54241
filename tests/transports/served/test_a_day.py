"""A day of traffic in virtual time: at its end every message is accounted for exactly once, and nothing piled up."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kombu import Connection

from tests.transports.in_process_client import declare, drain_all, publish
from transports import QueueFullError, VirtualClock
from transports.broker import BrokerServer, BrokerThread

STEPS, STEP = 96, 15 * 60.0
A_STEP_S_JOBS = 60
MINUTE, HOUR = 60_000, 3_600_000


class Day:
    """Backends that publish, workers that succeed, retry, refuse and vanish, and what became of every message."""

    def __init__(self, broker: BrokerThread, clock: VirtualClock, opened: ExitStack) -> None:
        self.broker = broker
        self.clock = clock
        self.dice = random.Random(20)
        self.published = 0
        self.refused: list[int] = []
        self.done: Counter[int] = Counter()
        self._opened = opened
        self.backend = self.connect()
        self.publisher = self.backend.channel()
        self.declare()
        self.workers = [self.start_worker() for _ in range(3)]

    def connect(self) -> Connection:
        connection = Connection(f"liap-broker://{self.broker.address}")
        self._opened.callback(connection.close)
        return connection

    def declare(self) -> None:
        channel = self.publisher
        channel.exchange_declare("dead", "fanout", durable=True, auto_delete=False)
        declare(channel, "morgue")
        channel.queue_bind("morgue", "dead", "")
        dead = {"dead_letter_exchange": "dead"}
        declare(channel, "jobs", message_ttl=HOUR, delivery_limit=3, **dead)
        declare(channel, "urgent", max_priority=9, expires=48 * HOUR, max_length=40, overflow="drop-lowest", **dead)
        declare(channel, "bounded", max_length=20, overflow="reject-publish", message_ttl=2 * HOUR, **dead)
        declare(channel, "retries", message_ttl=30 * MINUTE, dead_letter_exchange="", dead_letter_routing_key="jobs")
        declare(channel, "grouped", message_groups=True, delivery_limit=5, **dead)

    def start_worker(self) -> Connection:
        connection = self.connect()
        channel = connection.channel()
        channel.basic_qos(0, 5, False)
        for queue in ("jobs", "urgent", "bounded", "grouped"):
            channel.basic_consume(queue, callback=self.work)
        return connection

    def work(self, message: Any) -> None:
        fate = self.dice.random()
        if fate < 0.6:
            message.ack()
            self.done[int(message.body)] += 1
        elif fate < 0.7:
            message.reject()
        elif fate < 0.8:
            message.requeue()
        elif fate < 0.9:  # a later attempt: published before the first is settled
            publish(self.publisher, "retries", message.body)
            message.ack()
        # else it is still at work when the next step begins

    def job(self) -> None:
        body, dice = str(self.published).encode(), self.dice
        self.published += 1
        queue = dice.choice(("jobs", "urgent", "bounded", "grouped"))
        options: dict[str, Any] = {"headers": {"x-group-id": f"g{dice.randrange(5)}"}}
        if dice.random() < 0.3:
            options["headers"]["x-delay"] = dice.randrange(6 * HOUR)
        if dice.random() < 0.2:
            options["properties"] = {"expiration": str(dice.randrange(3 * HOUR))}
        if queue == "urgent":
            options["priority"] = dice.randrange(10)
        try:
            publish(self.publisher, queue, body, **options)
        except QueueFullError:
            self.refused.append(int(body))

    def pass_by(self) -> None:
        for step in range(STEPS):
            for _ in range(A_STEP_S_JOBS):
                self.job()
            for worker in self.workers:
                drain_all(worker)
            if step % 6 == 5:  # one is killed, with what it holds, and another comes
                self.workers.pop(0).connection.collect()
                self.workers.append(self.start_worker())
            self.broker.settle()
            self.clock.advance(STEP)

    def left(self) -> list[int]:
        """Return what is still in the queues, once no worker is there any more."""
        for worker in self.workers:
            worker.close()
        self.broker.settle()
        return [
            int(entry.message.body)
            for queue in self.broker.call(lambda server: list(server.brokers["/"].queues.values()))
            for entry in [*queue.peek(100_000), *queue.delayed_entries()]
        ]


def held_by_timers(server: BrokerServer) -> int:
    broker = server.brokers["/"]
    return len(broker._timers) + sum(len(q.expiries._heap) + len(q.delays._heap) for q in broker.queues.values())


def test_a_day_of_traffic_leaves_every_message_in_one_place(tmp_path: Path) -> None:
    clock = VirtualClock()
    with BrokerThread(str(tmp_path / "b.sock"), clock=clock) as broker, ExitStack() as opened:
        day = Day(broker, clock, opened)
        day.pass_by()

        assert clock.now() == 24 * 3600
        left = day.left()
        accounted = Counter(left) + day.done + Counter(day.refused)
        assert accounted == Counter(range(STEPS * A_STEP_S_JOBS))
        assert min(len(left), len(day.done), len(day.refused)) > 50  # the day has had something of everything

        statistics = day.publisher.queue_stats()
        for name, numbers in statistics.items():
            gone = sum(numbers[way] for way in ("acknowledged", "rejected", "expired", "dropped", "purged"))
            assert numbers["enqueued"] == gone + numbers["ready"] + numbers["delayed"], name
            assert numbers["unacked"] == 0
        still = sum(numbers["ready"] + numbers["delayed"] for numbers in statistics.values())
        assert still == len(left)
        assert broker.call(held_by_timers) < 2 * still + 100
        assert broker.call(lambda server: len(server.sessions)) == 1
