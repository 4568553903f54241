"""The events that an app has published, to be asserted on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from liap_tasks.signals import event_published
from transports.engine import TopicTrie

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["PublishedEvent", "PublishedEvents"]


@dataclass(frozen=True, kw_only=True)
class PublishedEvent:
    """One event. body: what its subscribers get. headers, ordering_key: as its publisher gave them."""

    routing_key: str
    body: dict[str, Any]
    event_id: str
    exchange: str
    headers: Mapping[str, Any]
    ordering_key: str | None


class PublishedEvents(Sequence[PublishedEvent]):
    """The events of an app since this was entered, in the order in which their publishes ended; also eager ones."""

    def __init__(self, app: LiapApp) -> None:
        self._app = app
        self._events: list[PublishedEvent] = []
        self._changed = threading.Condition()

    def __enter__(self) -> PublishedEvents:
        event_published.connect(self._note, weak=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        event_published.disconnect(self._note)

    def _note(self, sender: Any, *, routing_key: str, body: Any, event_id: str, **told: Any) -> None:
        if sender.app is not self._app:
            return
        event = PublishedEvent(
            routing_key=routing_key,
            body=dict(body),
            event_id=event_id,
            exchange=sender.exchange.name,
            headers=told["headers"],
            ordering_key=told["ordering_key"],
        )
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    @property
    def routing_keys(self) -> list[str]:
        """The routing keys of all, in order."""
        return [event.routing_key for event in self]

    def of(self, pattern: str) -> list[PublishedEvent]:
        """Return those whose routing key matches a pattern: ``game.*``, ``#``."""
        with self._changed:
            return self._matching(pattern)

    def wait(self, pattern: str, *, count: int = 1, timeout: float = 60.0) -> list[PublishedEvent]:
        """Return those that match as soon as there are ``count``.

        timeout: seconds of real time, then AssertionError is raised, showing what was published.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._matching(pattern)) >= count, timeout):
                raise AssertionError(f"{count} events {pattern!r} did not come within {timeout:g} s; {self}")
            return self._matching(pattern)

    def _matching(self, pattern: str) -> list[PublishedEvent]:
        patterns: TopicTrie[bool] = TopicTrie()
        patterns.add(pattern, True)
        return [event for event in self._events if patterns.match(event.routing_key)]

    def clear(self) -> None:
        """Forget those published so far."""
        with self._changed:
            self._events.clear()

    # -- as a sequence -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[PublishedEvent]:
        return iter(list(self._events))

    @overload
    def __getitem__(self, index: int) -> PublishedEvent: ...

    @overload
    def __getitem__(self, index: slice) -> list[PublishedEvent]: ...

    def __getitem__(self, index: int | slice) -> PublishedEvent | list[PublishedEvent]:
        return self._events[index]

    def __repr__(self) -> str:
        lines = [f"  {event.routing_key} {event.body}" for event in self]
        return "\n".join(["published events:", *lines]) if lines else "no published events"
