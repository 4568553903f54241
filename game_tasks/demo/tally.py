"""Counts what became of every event: for each subscriber of it, done or dead."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from celery import signals

from game_tasks.application import game_events
from game_tasks.events import GameEvent
from game_tasks.latency import Latencies
from liap_tasks import BatchTask
from liap_tasks.events import delivery_id

__all__ = ["Tally"]


class Tally:
    """Compares the deliveries that published events must cause with those that tasks have ended.

    Celery's signals tell about the tasks of this process. Use as a context manager around the work.
    """

    def __init__(self) -> None:
        self.published = 0
        self.expected: dict[str, str] = {}  # delivery id: event id
        self.done: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()
        self.retried: Counter[str] = Counter()
        self.tasks = 0
        self.latencies = Latencies()
        """From just before an event's publish to the start of each of its handlers."""
        self._published_at: dict[str, float] = {}  # by delivery id
        self._ended: Counter[str] = Counter()
        self._changed = threading.Condition()

    def publish(self, event: GameEvent) -> None:
        """Note an event that is about to be published."""
        event_id = str(event.event_id)
        deliveries = [delivery_id(event_id, name) for name in game_events.subscribers(event.event_type.value)]
        with self._changed:
            self.published += 1
            self.expected.update(dict.fromkeys(deliveries, event_id))
            self._published_at.update(dict.fromkeys(deliveries, time.perf_counter()))

    @property
    def handled(self) -> int:
        """Deliveries that have ended, done or dead."""
        return len(self._ended.keys() & self.expected.keys())

    @property
    def events_handled(self) -> int:
        """Events that every one of their subscribers has ended with."""
        missing = {event for delivery, event in self.expected.items() if delivery not in self._ended}
        return self.published - len(missing)

    @property
    def twice(self) -> int:
        """Deliveries that ended more than once."""
        return sum(1 for times in self._ended.values() if times > 1)

    def wait(self, timeout: float) -> bool:
        """Wait until every delivery has ended; False when ``timeout`` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: self.handled == len(self.expected), timeout)

    def __enter__(self) -> Tally:
        signals.task_prerun.connect(self._on_start)
        signals.task_success.connect(self._on_success)
        signals.task_failure.connect(self._on_failure)
        signals.task_retry.connect(self._on_retry)
        return self

    def __exit__(self, *_: object) -> None:
        signals.task_prerun.disconnect(self._on_start)
        signals.task_success.disconnect(self._on_success)
        signals.task_failure.disconnect(self._on_failure)
        signals.task_retry.disconnect(self._on_retry)

    def _on_start(self, sender: Any, task_id: str, **_: Any) -> None:
        published = self._published_at.pop(task_id, None)  # once: a retry waits for its delay
        if published is not None and not isinstance(sender, BatchTask):  # a batch waits for company on purpose
            self.latencies.note(time.perf_counter() - published)

    def _on_success(self, sender: Any, **_: Any) -> None:
        self._end(sender.request.id, sender.name, self.done)

    def _on_failure(self, sender: Any, task_id: str, **_: Any) -> None:
        self._end(task_id, sender.name, self.dead)

    def _on_retry(self, sender: Any, **_: Any) -> None:
        with self._changed:
            self.retried[sender.name] += 1

    def _end(self, task_id: str, name: str, count: Counter[str]) -> None:
        with self._changed:
            self.tasks += 1
            count[name] += 1
            if task_id in self.expected:
                self._ended[task_id] += 1
                self._changed.notify_all()
