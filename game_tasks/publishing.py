"""Publishing game events, and subscribing tasks to them.

The event's type is the routing key, so patterns match types: ``game.*``, ``player.*``, ``#``. Its room is a header,
which the broker matches too, and the key of its order: a room's events reach a subscriber in the order of publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celery import Task

from game_tasks.application import app, game_events
from game_tasks.events import GameEvent, GameEventType
from liap_tasks import MessagePriority
from liap_tasks.routing import RoutedMessage, TopicRouter

__all__ = ["apublish", "publish", "publish_options", "subscribe"]

ROOM_HEADER = "room"


def publish(event: GameEvent, priority: MessagePriority | int | None = None) -> str:
    """Publish an event with the priority of its type, or ``priority``, and return its id.

    When this returns, the queue of every subscriber whose pattern matches has it. Raises ``QueueFullError`` when one of
    them is full.
    """
    return game_events.publish(event.event_type.value, event, **publish_options(event, priority))


async def apublish(event: GameEvent, priority: MessagePriority | int | None = None, *, timeout: float = 5.0) -> str:
    """Publish an event from a coroutine without blocking its loop; see :func:`publish`.

    timeout: seconds it may take. Raises ``BrokerUnavailableError`` when the broker has not taken it by then.
    """
    return await game_events.apublish(
        event.event_type.value, event, timeout=timeout, **publish_options(event, priority)
    )


def publish_options(event: GameEvent, priority: MessagePriority | int | None) -> dict[str, Any]:
    """Return the options of ``EventExchange.publish`` for an event."""
    return {
        "event_id": event.event_id,
        "priority": event.priority if priority is None else priority,
        "ordering_key": event.room_id,
        "headers": {} if event.room_id is None else {ROOM_HEADER: event.room_id},
    }


def subscribe(
    *patterns: str,
    room: str | None = None,
    types: Iterable[GameEventType] | None = None,
    filter: Callable[[GameEvent], bool] | None = None,
    queue: str | None = None,
    name: str | None = None,
    ordered: bool = True,
    **options: Any,
) -> Callable[[Callable[..., Any]], Any]:
    """Make a function, plain or async, a task that gets every event whose type matches; or let a task get them.

    patterns: of which the type must match one (``game.*``, ``#``). types: only these; without patterns, all of these.
    room: only this room's events; the broker sees to it, as to all of the above. filter: only the events it accepts;
    the worker asks it. queue: one to share with other subscribers (one message for all of them); default is one of its
    own. name: the task's name, default is Celery's automatic one. ordered: False lets a room's events come at once, in
    batches say. options: of ``app.task`` (retry_policy, timeout and the others), which a task has already. The function
    takes the event as its one argument; annotate it with GameEvent to get it as one.
    Raises ValueError without any pattern or type, for a pattern that no type matches, or when no type matches both.
    """
    wanted = _wanted(patterns, None if types is None else [GameEventType(one) for one in types])
    match = {} if room is None else {ROOM_HEADER: room}
    accepts = None if filter is None else _on_body(filter)

    def decorate(function: Callable[..., Any]) -> Any:
        made: Any = function
        if isinstance(function, Task):
            if options or name is not None:
                raise TypeError(f"{function.name} is a task already: give its name and options where it is made")
        else:
            task: Any = app.task
            made = task(**({} if name is None else {"name": name}), **options)(function)
        for pattern in wanted:
            game_events.subscribe(pattern, made.name, match=match, filter=accepts, queue=queue, ordered=ordered)
        return made

    return decorate


def _wanted(patterns: Sequence[str], types: Sequence[GameEventType] | None) -> list[str]:
    """Return the patterns to bind."""
    if not patterns:
        if not types:
            raise ValueError("a subscriber needs a pattern or types")
        return [one.value for one in types]
    matching = TopicRouter()
    for pattern in patterns:
        matching.register_route(pattern, pattern)
    matched = {one: matching.find_all(RoutedMessage(key=one.value)) for one in GameEventType}
    for pattern in patterns:
        if not any(pattern in found for found in matched.values()):
            raise ValueError(f"no type of event matches {pattern!r}; there are {', '.join(GameEventType)}")
    if types is None:
        return list(patterns)
    wanted = [one.value for one in types if matched[one]]
    if not wanted:
        raise ValueError(f"none of the types {', '.join(types)} matches {' or '.join(patterns)}")
    return wanted


def _on_body(accepts: Callable[[GameEvent], bool]) -> Callable[[dict[str, Any]], bool]:
    return lambda body: accepts(GameEvent.model_validate(body))
