"""Random sequences of operations give the same answers in this process as on RabbitMQ, whatever they are.

The scenarios elsewhere were thought of; these were not. A sequence is made from its seed alone, runs on our broker and
on RabbitMQ, and every answer is compared: bodies, flags, counts, refusals, and at the end what is left and what died.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import kombu
import pytest

from tests.conformance.conftest import OURS
from tests.conformance.driver import Driver, PublishRefused

STEPS = 80
SOURCES = ("plain", "urgent", "dropping", "refusing", "heavy")
KEYS = ("game.started", "game.ended", "player.joined", "", "x")

# The operations and how often each is chosen.
WEIGHTS = {
    "publish": 8,
    "route": 3,
    "get": 8,
    "ack": 3,
    "reject": 3,
    "requeue": 4,
    "ack all": 1,
    "close": 1,
    "count": 2,
}
WEIGHTS |= {"purge": 1}


class World:
    """The queues of one run, each with a queue of its own for its dead letters, and what is out for delivery."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.held: list[kombu.Message] = []
        self.topic = driver.exchange("topic", "topic")
        self.queues = {name: self._queue(name) for name in SOURCES}
        for name, key in [("plain", "game.*"), ("dropping", "game.#"), ("refusing", "#.joined"), ("heavy", "#")]:
            self.queues[name].bind_to(self.topic.name, routing_key=key)

    def _queue(self, name: str) -> kombu.Queue:
        dead = self.driver.queue(f"dead-{name}", max_priority=4)
        arguments: dict[str, Any] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
        match name:
            case "dropping":
                arguments |= {"x-max-length": 4}
            case "refusing":
                arguments |= {"x-max-length": 3, "x-overflow": "reject-publish-dlx"}
            case "heavy":
                arguments |= {"x-max-length-bytes": 40, "x-max-priority": 3}
        return self.driver.queue(name, max_priority=4 if name == "urgent" else None, queue_arguments=arguments)

    def do(self, operation: str, rng: random.Random, number: int, expected: Any) -> Any:
        """Carry out one operation and return the broker's answer.

        expected: the answer of the other broker. RabbitMQ counts out of turn, ahead of messages that are just being put
        back, so counts are waited for.
        """
        # Chosen whether needed or not, so that the sequence depends on the seed and on nothing else.
        name, key, priority, index = rng.choice(SOURCES), rng.choice(KEYS), rng.randint(0, 5), rng.randrange(1000)
        queue = self.queues[name]
        message = self.held[index % len(self.held)] if self.held else None
        match operation:
            case "publish":
                return self._publish(f"{number} " + "x" * priority, queue, priority=priority if name == "urgent" else 0)
            case "route":
                return self._publish(f"{number}", self.topic, key)
            case "get":
                return self._get(queue)
            case "ack" | "reject" | "requeue" if message is not None:
                self.held.remove(message)
                getattr(message, operation)()
                return message.payload
            case "ack all" if message is not None:
                done = self.held.index(message) + 1
                message.ack(multiple=True)
                self.held = self.held[done:]
                return done
            case "close":
                self.driver.channel.close()
                self.driver.channel = self.driver.connection.channel()
                self.held.clear()
                return self._see(self._counts, expected)
            case "count":
                return self._see(lambda: self.driver.count(queue), expected)
            case "purge":
                return queue(self.driver.channel).purge()
        return None

    def _see(self, observe: Callable[[], Any], expected: Any) -> Any:
        if expected is None:
            return observe()
        self.driver.eventually(observe, expected)
        return expected

    def _counts(self) -> list[int]:
        return [self.driver.count(queue) for queue in self.queues.values()]

    def _publish(self, body: str, to: Any, key: str = "", **properties: Any) -> str:
        try:
            self.driver.publish(body, to, key, **properties)
        except PublishRefused:
            return "refused"
        return "taken"

    def _get(self, queue: kombu.Queue) -> Any:
        message = self.driver.get(queue)
        if message is None:
            return None
        self.held.append(message)
        return message.payload, message.delivery_info["redelivered"], message.delivery_info["message_count"]

    def run(self, seed: int, expected: list[tuple[str, Any]] | None = None) -> list[tuple[str, Any]]:
        """Carry out the whole sequence and return each operation with its answer (expected: those of another run)."""
        rng = random.Random(seed)
        operations = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=STEPS)
        return [
            (operation, self.do(operation, rng, number, expected and expected[number][1]))
            for number, operation in enumerate(operations)
        ]

    def left(self) -> dict[str, list[Any]]:
        """Return the bodies that are left in each queue."""
        return {name: self.driver.empty(queue) for name, queue in self.queues.items()}

    def dead(self, expected: dict[str, list[Any]] | None = None) -> dict[str, list[Any]]:
        """Return the dead letters of each queue with their history, waiting for as many as are expected."""
        found = {}
        for name in SOURCES:
            queue = kombu.Queue(self.driver.name(f"dead-{name}"))
            if expected is not None:
                self.driver.wait_for_count(queue, len(expected[name]))
            found[name] = self._with_history(queue)
        return found

    def _with_history(self, queue: kombu.Queue) -> list[Any]:
        letters = []
        while (message := self.driver.get(queue, no_ack=True)) is not None:
            deaths = message.headers["x-death"]
            history = [(death["reason"], death["count"], len(death["routing-keys"])) for death in deaths]
            letters.append((message.payload, history))
        return letters


@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker", OURS)
@pytest.mark.parametrize("seed", range(12))
def test_a_random_sequence_gives_the_answers_of_rabbitmq(
    open_driver: Callable[[str], Driver], broker: str, seed: int
) -> None:
    ours, oracle = World(open_driver(broker)), World(open_driver("amqp"))

    answers = ours.run(seed)

    assert answers == oracle.run(seed, answers)
    assert ours.left() == oracle.left()
    dead = ours.dead()
    assert dead == oracle.dead(dead)
