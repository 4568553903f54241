"""Game events for handlers that are objects, and run in the program's own loop.

The events are those of the game's exchange: what is published here reaches its subscribers that are tasks, and what
they are published reaches the handlers here. The queue is bound to all events of the exchange; those who process it,
in however many programs, share it. A room's events are processed in order, one at a time.

Why one queue for all handlers: they come and go with the program, and an event that was published before a handler was
subscribed is still there for it. A handler that fails disturbs no other: it gets a dead letter of its own, which names
it, so that a retry of that letter reaches no other. What came after in the room has not waited for it. One that ends
with CancelledError has failed, too (``CoroutineCancelledError``, as in a task): it, or what it awaited, was cancelled.

Why objects of one queue give events to each other's handlers: an event is in the queue once, so the object that takes
it takes it for all. In one program they know each other. Programs do not: those that share a queue must have the same
handlers, as the workers of a task queue must have the same tasks; a program with others has a queue of its own
(``queue``), which gets every event, too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

from game_tasks.application import app as game_app
from game_tasks.events import GameEvent
from game_tasks.messaging.event_handler import GameEventHandler, event_of
from game_tasks.publishing import publish_options
from liap_tasks import LiapApp, MessagePriority
from liap_tasks.errors import CoroutineCancelledError
from liap_tasks.events import EventExchange, delivery_id
from liap_tasks.keys import GROUP_HEADER
from liap_tasks.messaging import DeadLetterQueue, Message, MessageQueue
from liap_tasks.messaging.dead_letter_handler import reason_of
from liap_tasks.policies.durations import Duration
from liap_tasks.routing import RoutedMessage, TopicRouter

__all__ = ["GameEventQueue"]

HANDLER_HEADER = "x-liap-handler"
"""Header of an event that is for one handler alone."""


class GameEventQueue:
    """Publishes game events, and gives them to handlers.

    name: of the exchange; "game_events" is the game's own. queue: where the events wait, default ``<name>.handlers``.
    app: whose exchange and broker, default is the game's. dlq: where events go that one of this object's handlers
    failed on, default is the app's dead letters. max_concurrent: events processed at once, default
    MAX_CONCURRENT_HANDLERS.

    Objects of one queue in this program are one to the events: whichever takes an event gives it to the handlers of all
    of them, in its own loop, until they are closed. A program with other handlers needs another ``queue``; each queue
    gets every event that is published from its first use on.
    """

    def __init__(
        self,
        name: str = "game_events",
        *,
        queue: str | None = None,
        app: LiapApp | None = None,
        dlq: DeadLetterQueue | None = None,
        max_concurrent: int | None = None,
    ) -> None:
        app = app or game_app
        self.name = name
        self.exchange = app.event_exchanges.get(name) or EventExchange(app, name)
        self.max_concurrent = max_concurrent or app.settings.max_concurrent_handlers
        url = str(app.conf.broker_url)
        self.dlq = dlq or DeadLetterQueue(url=url, settings=app.settings)
        self.queue = MessageQueue(
            queue or f"{name}.handlers",
            url=url,
            settings=app.settings,
            priorities=True,
            bindings=[self.exchange.binding_of("#")],
        )
        self._handlers: dict[str, GameEventHandler] = {}
        self._patterns = TopicRouter(name)
        self._counts: Counter[str] = Counter()

    async def publish(self, event: GameEvent, priority: MessagePriority | int | None = None) -> str:
        """Publish an event with the priority of its type, or ``priority``, and return its id.

        When this returns, the broker has it for the handlers here and for every subscriber that matches. Raises
        ``QueueFullError`` when one of their queues is full, ``BrokerUnavailableError`` when the broker is away.
        """
        await self.queue.declare()
        return await self.exchange.apublish(event.event_type.value, event, **publish_options(event, priority))

    def subscribe(self, pattern: str, handler: GameEventHandler, name: str | None = None) -> str:
        """Give a handler every event whose type matches ``pattern`` (topic words: ``game.*``, ``#``); return its name.

        A handler may be subscribed several times; an event that several of its patterns match still comes once.
        name: by which its dead letters find it again, also after a restart; default is its class's, numbered if there
        are several. Where objects of one queue have subscribed handlers by one name, an event comes to one of these.
        """
        self.exchange.takers[self] = None
        known = next((one for one, subscribed in self._handlers.items() if subscribed is handler), None)
        if known is None:
            known = name or self._new_name(type(handler).__qualname__)
            if known in self._handlers:
                raise ValueError(f"another handler is subscribed as {known!r}: give this one a name of its own")
            self._handlers[known] = handler
        self._patterns.register_route(pattern, known)
        return known

    def _new_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while any(name in one._handlers for one in self._sharing()):
            number += 1
            name = f"{wanted}-{number}"
        return name

    def _sharing(self) -> Iterator[GameEventQueue]:
        """Return the objects of this program that take events out of this queue, this one first."""
        yield self
        known = (reference() for reference in self.exchange.takers.keyrefs())  # of a copy: others may come meanwhile
        for one in known:
            if isinstance(one, GameEventQueue) and one is not self and one._takes_from(self.queue):
                yield one

    def _takes_from(self, queue: MessageQueue) -> bool:
        return (self.queue.url, self.queue.name) == (queue.url, queue.name)

    async def process_events(self, wait: Duration = 0.0) -> int:
        """Give the waiting events to their handlers, and return how many this object has taken.

        wait: seconds (or a timedelta) that must pass without an event before this returns, ``math.inf`` for never.
        An event is acknowledged when all its handlers are done with it; one that fails gets a dead letter first.
        Cancelled, or when a dead letter cannot be kept, the events under way go back to the queue.
        """
        self.exchange.takers[self] = None
        done: Counter[str] = Counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(self.max_concurrent):
                group.create_task(self._process_one_by_one(wait, done))
        return done["events"]

    async def _process_one_by_one(self, wait: Duration, done: Counter[str]) -> None:
        while (message := await self.queue.dequeue(wait)) is not None:
            try:
                await self._process(message)
            except BaseException:
                await self.queue.reject(message.metadata.message_id, requeue=True)
                raise
            await self.queue.acknowledge(message.metadata.message_id)
            done["events"] += 1

    async def _process(self, message: Message) -> None:
        try:
            event = event_of(message)
        except Exception as error:  # noqa: BLE001 - kept with its reason
            self._counts["failed"] += 1
            await self.dlq.add(message, reason_of(error), error, self.queue.name)
            return
        owners = self._owners_of_handlers(event, message.headers.get(HANDLER_HEADER))
        self._counts["handled" if owners else "unhandled"] += 1
        await asyncio.gather(*(self._give(name, owner, event, message) for name, owner in owners.items()))

    def _owners_of_handlers(self, event: GameEvent, only: str | None) -> dict[str, GameEventQueue]:
        """Return the names of the handlers that get an event, each with the object that has subscribed it.

        only: the one that it is for.
        """
        if only is not None:
            return {only: next((one for one in self._sharing() if only in one._handlers), self)}
        routed = RoutedMessage(key=event.event_type.value, payload=event)
        owners: dict[str, GameEventQueue] = {}
        for one in self._sharing():
            for name in one._patterns.find_all(routed):
                owners.setdefault(name, one)
        return owners

    async def _give(self, name: str, owner: GameEventQueue, event: GameEvent, message: Message) -> None:
        copy = Message(
            payload=event,
            priority=message.priority,
            metadata=message.metadata.model_copy(update={"message_id": delivery_id(str(event.event_id), name)}),
            headers={HANDLER_HEADER: name},
        )
        if GROUP_HEADER in message.headers:
            copy.headers[GROUP_HEADER] = message.headers[GROUP_HEADER]
        handler = owner._handlers.get(name)
        if handler is None:
            error: Exception | None = LookupError(f"no handler is subscribed as {name!r}")
        else:
            error = await _failed(handler, copy)
        if error is not None:
            self._counts["failed"] += 1
            await owner.dlq.add(copy, reason_of(error), error, self.queue.name)

    def get_stats(self) -> dict[str, Any]:
        """Return the counts of the queue (see ``MessageQueue.get_stats``) and of what was done with events taken here.

        ``handled``, ``unhandled`` (no handler had asked for them), ``failed`` (dead letters made).
        """
        return {**self.queue.get_stats(), **{name: self._counts[name] for name in ("handled", "unhandled", "failed")}}

    async def close(self) -> None:
        """Put back what is not acknowledged, let other objects give nothing to this one's handlers, and disconnect."""
        self.exchange.takers.pop(self, None)
        await self.queue.close()
        await self.dlq.close()


async def _failed(handler: GameEventHandler, message: Message) -> Exception | None:
    """Have a message handled, and return what the handler failed with.

    In a task of its own, so that a cancellation from inside is told from one of the processing, which is raised here.
    """

    async def handle() -> None:
        await handler.handle(message)

    [error] = await asyncio.gather(handle(), return_exceptions=True)
    if isinstance(error, asyncio.CancelledError):
        inside = CoroutineCancelledError(f"{type(handler).__qualname__}.process_event")
        inside.__cause__ = error
        return inside
    if error is None or isinstance(error, Exception):
        return error
    raise error
