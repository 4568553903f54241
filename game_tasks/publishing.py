"""Publishing game events, and subscribing tasks to them.

The event's type is the routing key, so patterns match types: ``game.*``, ``player.*``, ``#``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from game_tasks.application import app, game_events
from game_tasks.events import GameEvent
from liap_tasks import MessagePriority

__all__ = ["publish", "subscribe"]


def publish(event: GameEvent, priority: MessagePriority | int | None = None) -> str:
    """Publish an event with the priority of its type, or ``priority``, and return its id.

    When this returns, the queue of every subscriber whose pattern matches has it. Raises ``QueueFullError`` when one of
    them is full.
    """
    return game_events.publish(
        event.event_type.value,
        event,
        event_id=event.event_id,
        priority=event.priority if priority is None else priority,
    )


def subscribe(*patterns: str, name: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a task that gets every event whose type matches one of ``patterns``.

    name: the task's name, and that of its queue. options: of ``app.task``: retry_policy, timeout and the others.
    The function takes the event as its one argument; annotate it with GameEvent to get it as one.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        for pattern in patterns:
            game_events.subscribe(pattern, name)
        task: Any = app.task(name=name, **options)
        return task(function)

    return decorate
