"""The served broker alone: our kombu client in this process, the broker in its own, small messages.

publish: pipelined, 50 byte bodies. deliver+ack: to one consumer, prefetch 1,000. memory: what a queued message adds to
the broker's resident memory beyond its body. With the journal the messages are persistent and the queue durable.
"""

from __future__ import annotations

from pathlib import Path

import kombu

import transports  # noqa: F401 - registers the schemes
from benchmarks.measure import Figure, per_second
from benchmarks.peer_side import served

__all__ = ["rows"]

BODY = b"x" * 50
PREFETCH = 1_000


class _Broker:
    """A queue on a running broker, and the figures taken with it."""

    def __init__(self, path: str, *, persistent: bool) -> None:
        self.connection = kombu.Connection(f"liap-broker://{path}")
        self.channel = self.connection.channel()
        self.persistent = persistent
        kombu.Queue("bench", durable=persistent)(self.channel).declare()

    def publish(self, number: int) -> None:
        properties = {"delivery_mode": 2 if self.persistent else 1}
        message = self.channel.prepare_message(BODY, properties=properties)
        with self.channel.pipeline():
            for _ in range(number):
                self.channel.basic_publish(message, routing_key="bench")

    def consume(self, number: int) -> None:
        """Take and acknowledge ``number`` messages."""
        left = number
        channel = self.connection.channel()

        def take(message: kombu.Message) -> None:
            nonlocal left
            left -= 1
            message.ack()

        channel.basic_qos(0, PREFETCH, False)
        channel.basic_consume("bench", callback=take)
        while left:
            self.connection.drain_events(timeout=30)
        channel.close()

    def memory(self) -> int:
        """Return the resident bytes of the broker's process."""
        status = Path(f"/proc/{self.channel.broker_stats()['pid']}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def memory_per_message(self, number: int) -> float:
        """Return what each of ``number`` queued messages adds, beyond its body."""
        before = self.memory()
        self.publish(number)
        grown = self.memory() - before
        self.channel.queue_purge("bench")
        return grown / number - len(BODY)


def rows(scale: float, repeat: int) -> list[Figure]:
    """Measure with and without the journal, taking turns."""
    many = int(40_000 * scale)
    with served() as plain, served("--journal", "JOURNAL") as journalled:
        brokers = {"": _Broker(plain, persistent=False), ", journal": _Broker(journalled, persistent=True)}
        memory = {name: broker.memory_per_message(50_000 if scale >= 1 else many) for name, broker in brokers.items()}
        publish: dict[str, float] = dict.fromkeys(brokers, 0.0)
        deliver = dict(publish)

        def both(broker: _Broker) -> dict[str, float]:
            return {
                "publish": per_second(many, lambda: broker.publish(many)),
                "deliver": per_second(many, lambda: broker.consume(many)),
            }

        taken = {name: [both(broker) for _ in range(repeat)] for name, broker in brokers.items()}
        for name, figures in taken.items():
            publish[name] = sorted(one["publish"] for one in figures)[repeat // 2]
            deliver[name] = sorted(one["deliver"] for one in figures)[repeat // 2]
    found = []
    for name, goal in (("", 40_000), (", journal", 20_000)):
        for what, figure in (("publish, pipelined", publish[name]), ("deliver+ack, one consumer", deliver[name])):
            found.append(Figure(f"{what}{name}", f"{figure:,.0f}/s", f"{goal:,}/s", figure >= goal))
        figure = memory[name]
        found.append(
            Figure(
                f"memory of a queued message{name}", f"{figure:,.0f} B over the body", "at most 1,200 B", figure <= 1200
            )
        )
    return found
