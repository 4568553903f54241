"""Publishing game events, and subscribing tasks to them.

The event's type is the routing key, so patterns match types: ``game.*``, ``player.*``, ``#``. Its room is a header,
which the broker matches too, and the key of its order: a room's events reach a subscriber in the order of publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from game_tasks.application import app, game_events
from game_tasks.events import GameEvent, GameEventType
from liap_tasks import MessagePriority

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
    name: str,
    types: Iterable[GameEventType] = (),
    room: str | None = None,
    filter: Callable[[GameEvent], bool] | None = None,
    queue: str | None = None,
    ordered: bool = True,
    **options: Any,
) -> Callable[[Callable[..., Any]], Any]:
    """Make a function, plain or async, a task that gets every event whose type matches.

    patterns, types: of which it must match one. room: only this room's events; the broker sees to it. filter: only the
    events it accepts; the worker asks it. queue: one to share with other subscribers (one message for all of them);
    default is one of its own. ordered: False lets a room's events come at once, in batches say. name: the task's
    name. options: of ``app.task``: retry_policy, timeout and the others. The function takes the event as its one
    argument; annotate it with GameEvent to get it as one. Raises ValueError without any pattern or type.
    """
    wanted = [*patterns, *(GameEventType(one).value for one in types)]
    if not wanted:
        raise ValueError(f"subscriber {name!r} needs a pattern or types")
    match = {} if room is None else {ROOM_HEADER: room}
    accepts = None if filter is None else _on_body(filter)

    def decorate(function: Callable[..., Any]) -> Any:
        task: Any = app.task(name=name, **options)
        made = task(function)
        for pattern in wanted:
            game_events.subscribe(pattern, name, match=match, filter=accepts, queue=queue, ordered=ordered)
        return made

    return decorate


def _on_body(accepts: Callable[[GameEvent], bool]) -> Callable[[dict[str, Any]], bool]:
    return lambda body: accepts(GameEvent.model_validate(body))
