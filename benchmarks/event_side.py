"""What an event costs in one process: to publish it, to deliver it, and how long it is under way.

Four subscribers: two with queues of their own, two that share one. So each event is three messages and four tasks.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from time import perf_counter

from benchmarks.measure import Figure, interleaved, per_second, percentile
from liap_tasks import EmbeddedWorker, create_app, load_settings
from liap_tasks.events import EventExchange

__all__ = ["rows"]

QUEUES = ("", "", "shared", "shared")  # one for each subscriber; empty: its own
PACE = 0.005
DEADLINE = 120.0


class Events:
    """An app with an exchange and its subscribers, who note how long each event was under way."""

    def __init__(self) -> None:
        url = f"liap-memory:///bench-{uuid.uuid4().hex[:8]}"
        settings = load_settings(message_queue_url=url, max_queue_size=10_000_000, dlq_store_url="none")
        self.app = create_app(settings, main="bench", set_as_current=False)
        self.exchange = EventExchange(self.app, "events")
        self.taken: list[float] = []
        self._wanted = 0
        self._arrived = threading.Condition()
        for number, queue in enumerate(QUEUES):
            name = f"bench.subscriber_{number}"
            self.app.task(name=name, shared=False)(self._subscriber())
            self.exchange.subscribe("game.#", name, queue=queue or None)

    def _subscriber(self) -> Callable[[dict[str, float]], None]:
        def subscriber(event: dict[str, float]) -> None:
            seconds = perf_counter() - event["at"]
            with self._arrived:
                self.taken.append(seconds)
                if len(self.taken) >= self._wanted:
                    self._arrived.notify_all()

        return subscriber

    def publish(self, room: int = 1) -> None:
        """Publish one event with the time of its publish."""
        self.exchange.publish("game.moved", {"at": perf_counter()}, ordering_key=f"room-{room}")

    def wait(self, events: int) -> None:
        """Wait until every subscriber has had ``events`` events since the last :meth:`forget`."""
        with self._arrived:
            self._wanted = events * len(QUEUES)
            if not self._arrived.wait_for(lambda: len(self.taken) >= self._wanted, DEADLINE):
                raise TimeoutError(f"{len(self.taken)} of {self._wanted} deliveries after {DEADLINE:g} s")

    def forget(self) -> None:
        """Forget what was taken so far."""
        with self._arrived:
            self.taken.clear()


def latencies(events: int, pace: float) -> tuple[float, float]:
    """Return p50 and p99 of the seconds from publish to handler, an event every ``pace`` seconds."""
    world = Events()
    with EmbeddedWorker(world.app):
        world.publish()
        world.wait(1)
        world.forget()
        for _ in range(events):
            world.publish()
            time.sleep(pace)
        world.wait(events)
    return percentile(world.taken, 0.50), percentile(world.taken, 0.99)


def publish_rate(events: int) -> float:
    """Return events published per second, to three queues each."""
    world = Events()
    world.publish()
    return per_second(events, lambda: [world.publish(number % 50) for number in range(events)])


def deliver_rate(events: int) -> float:
    """Return deliveries (tasks) per second of events that wait."""
    world = Events()
    for number in range(events):
        world.publish(number % 50)
    began = perf_counter()
    with EmbeddedWorker(world.app, pool="solo"):
        world.wait(events)
        return events * len(QUEUES) / (perf_counter() - began)


def rows(scale: float, repeat: int) -> list[Figure]:
    """Measure publishing, delivering and latency."""
    events = max(20, int(4000 * scale))
    rates = interleaved(repeat, {"publish": lambda: publish_rate(events), "deliver": lambda: deliver_rate(events)})
    p50, p99 = latencies(max(20, int(1000 * scale)), PACE)
    return [
        Figure("events published, to 3 queues each", f"{rates['publish']:,.0f}/s"),
        Figure("deliveries to 4 subscribers, solo worker", f"{rates['deliver']:,.0f} tasks/s"),
        Figure("publish to handler, p50, 200 events/s, 4 threads", f"{p50 * 1000:.2f} ms", "at most 1 ms", p50 <= 1e-3),
        Figure("publish to handler, p99, 200 events/s, 4 threads", f"{p99 * 1000:.2f} ms", "at most 5 ms", p99 <= 5e-3),
    ]
