"""Random sequences with consumers: each message goes to the same consumer as on RabbitMQ, in the same order.

The companion of ``test_same_answers.py`` for pushed messages: turns, windows, consumer priorities, single active
consumers, and what happens to all that when consumers come and go. After each operation every consumer looks at what it
got before the next operation begins; without that RabbitMQ's own answer would depend on timing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import kombu
import pytest

from tests.conformance.conftest import OURS
from tests.conformance.driver import Driver
from tests.conformance.inbox import Inbox

STEPS = 50

# The operations and how often each is chosen.
WEIGHTS = {"publish": 8, "consume": 3, "leave": 2, "ack": 4, "requeue": 3, "reject": 1}

Deliveries = list[tuple[int, Any, bool]]


class Party:
    """One queue and its consumers, each on a connection of its own, numbered in the order they came."""

    def __init__(self, driver: Driver, kind: str) -> None:
        self.driver = driver
        self.kind = kind
        arguments = {"x-single-active-consumer": True} if kind == "single active" else {}
        self.queue = driver.queue(queue_arguments=arguments)
        self.inboxes: dict[int, tuple[kombu.Connection, Inbox]] = {}
        self.held: list[tuple[int, kombu.Message]] = []
        self.came = 0

    def do(self, operation: str, rng: random.Random, number: int) -> None:
        """Carry out one operation."""
        index, window, priority = rng.randrange(1000), rng.choice([1, 1, 2, 3, None]), rng.randint(0, 2)
        if operation == "publish":
            self.driver.publish(number, self.queue)
        elif operation == "consume" and len(self.inboxes) < 4:
            connection = self.driver.connect()
            options = {"priority": priority} if self.kind == "priorities" else {}
            inbox = self.driver.consume(self.queue, channel=connection.channel(), prefetch=window, **options)
            self.inboxes[self.came] = connection, inbox
            self.came += 1
        elif operation == "leave" and self.inboxes:
            who = list(self.inboxes)[index % len(self.inboxes)]
            connection, _ = self.inboxes.pop(who)
            self.held = [(holder, message) for holder, message in self.held if holder != who]
            self.driver.close_connection(connection)
        elif self.held and operation in ("ack", "requeue", "reject"):
            _, message = self.held.pop(index % len(self.held))
            getattr(message, operation)()
            # Settling has no answer; with one from the same channel it is known to be on its way to the queue.
            message.channel.queue_declare(self.queue.name, passive=True)

    def look(self, expected: Deliveries | None) -> Deliveries:
        """Return what has arrived, consumer by consumer; with ``expected``, wait for as many as that."""
        arrived: Deliveries = []
        for who, (_, inbox) in self.inboxes.items():
            if expected is None:
                messages = inbox.all_of_it()
            else:
                messages = inbox.receive(sum(1 for consumer, *_ in expected if consumer == who))
            self.held += [(who, message) for message in messages]
            arrived += [(who, message.payload, message.delivery_info["redelivered"]) for message in messages]
        return arrived

    def run(self, seed: int, expected: list[Deliveries] | None = None) -> list[Deliveries]:
        """Carry out the whole sequence and return what arrived after each operation."""
        rng = random.Random(seed)
        operations = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=STEPS)
        seen = []
        for number, operation in enumerate(operations):
            self.do(operation, rng, number)
            seen.append(self.look(expected and expected[number]))
        return seen


@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker", OURS)
@pytest.mark.parametrize("kind", ["equal", "priorities", "single active"])
@pytest.mark.parametrize("seed", range(3))
def test_a_random_party_of_consumers_gets_the_deliveries_of_rabbitmq(
    open_driver: Callable[[str], Driver], broker: str, kind: str, seed: int
) -> None:
    ours, oracle = Party(open_driver(broker), kind), Party(open_driver("amqp"), kind)

    deliveries = ours.run(seed)

    assert deliveries == oracle.run(seed, deliveries)
    oracle.driver.wait_for_count(oracle.queue, ours.driver.count(ours.queue))
    assert all(inbox.nothing_arrives() for _, inbox in oracle.inboxes.values())
