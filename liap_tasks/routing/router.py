"""The router: queues, routes, what becomes of a key that none of them matches, and how often each was taken.

A *call* goes to exactly one queue: that of the matching route with the largest priority, the first registered among
equals. An *event* goes to the queue of every matching route. A key that nothing matches goes to the alternate queue if
there is one; else :class:`RoutingError` names the key and the patterns that come nearest. Never into silence.

Left alone: calls that name their queue or exchange themselves (retries do), and Celery's own tasks (``celery.*``).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from kombu import Queue

from liap_tasks.errors import RoutingError
from liap_tasks.routing.matching import ExactPatterns, Patterns
from liap_tasks.routing.message import Filter, RoutedMessage

if TYPE_CHECKING:
    from liap_tasks.messaging.message import Message
    from liap_tasks.messaging.queues import MessageQueue
    from liap_tasks.policies import DeliveryOptions

__all__ = ["Route", "Router"]

NEAREST = 3
NEAR_ENOUGH = 0.3
PLACED_BY_CALLER = ("queue", "exchange", "routing_key")


@dataclass(frozen=True, eq=False, slots=True)
class Route:
    """One rule. pattern: which keys. queue: where to. filter: which messages of these keys, None for all.

    priority: the larger decides where several match. order: number of registration.
    """

    pattern: str
    queue: str
    filter: Filter | None = None
    priority: int = 0
    order: int = field(default=0, repr=False)

    def takes(self, message: RoutedMessage) -> bool:
        """Tell whether the filter lets the message pass."""
        return self.filter is None or bool(self.filter(message))


class Router:
    """Routes keys to queues by patterns of one kind; see the classes in :mod:`liap_tasks.routing.routers`.

    name: for logs and errors. alternate: the queue for what no route matches. Safe to use from several threads.
    """

    def __init__(self, name: str = "router", *, alternate: str | None = None) -> None:
        self.name = name
        self.alternate = alternate
        self._patterns: Patterns[Route] = self.new_patterns()
        self._queues: dict[str, Queue | None] = {}
        self._opened: dict[str, MessageQueue] = {}
        self._routes: list[Route] = []
        self._registered = 0
        self._lock = threading.Lock()
        self._destinations: Counter[str] = Counter()
        self._unroutable = 0

    def new_patterns(self) -> Patterns[Route]:
        """Return the empty set of patterns; a subclass says of which kind, here they match just themselves."""
        return ExactPatterns()

    # -- rules -------------------------------------------------------------------------------------------------

    def register_queue(self, name: str, queue: Queue | MessageQueue | None = None) -> None:
        """Make a queue known. queue: how it is declared; None leaves that to the app (bounds, TTL, dead letters).

        name: what routes call it; the queue itself may have another, by which calls are sent and workers consume it.
        A queue object (:class:`liap_tasks.messaging.MessageQueue`) is also what :meth:`route` puts messages into.
        """
        declared: Queue | None
        with self._lock:
            if queue is None or isinstance(queue, Queue):
                declared = queue
                self._opened.pop(name, None)
            else:
                declared = queue.declaration
                self._opened[name] = queue
            self._queues[name] = declared

    def register_route(self, pattern: str, queue: str, filter: Filter | None = None, priority: int = 0) -> Route:
        """Send messages whose key matches ``pattern``, and that ``filter`` lets pass, to ``queue``.

        Raises ValueError for a pattern that is none.
        """
        with self._lock:
            route = Route(pattern, queue, filter, priority, self._registered)
            self._patterns.add(pattern, route)
            self._registered += 1
            self._routes.append(route)
            self._queues.setdefault(queue, None)
        return route

    def unregister_route(self, pattern: str, queue: str | None = None) -> int:
        """Remove the routes of a pattern, only those to ``queue`` if it is given, and return how many there were."""
        with self._lock:
            gone = [
                route for route in self._routes if route.pattern == pattern and (queue is None or route.queue == queue)
            ]
            for route in gone:
                self._patterns.remove(pattern, route)
                self._routes.remove(route)
        return len(gone)

    def routes(self) -> list[Route]:
        """Return the routes in the order in which they are tried: larger priority first, then as registered."""
        with self._lock:
            return sorted(self._routes, key=_rank)

    def queue_names(self) -> list[str]:
        """Return the names of all queues that a message can be sent to."""
        with self._lock:
            return [*self._queues, *([self.alternate] if self.alternate and self.alternate not in self._queues else [])]

    def declared_queue(self, name: str) -> Queue | None:
        """Return how a queue was registered to be declared; None leaves it to the app."""
        return self._queues.get(name)

    def declared_name(self, name: str) -> str:
        """Return the name on the broker of the queue that was registered as ``name``."""
        declared = self.declared_queue(name)
        return name if declared is None else declared.name

    def registered_object(self, name: str) -> MessageQueue | None:
        """Return the queue object of a name, None if none was registered."""
        return self._opened.get(name)

    def task_queues(self) -> list[Queue]:
        """Return the queues for Celery's ``task_queues``, for an app that is not ours."""
        return [self.declared_queue(name) or Queue(name, routing_key=name) for name in self.queue_names()]

    # -- routing -----------------------------------------------------------------------------------------------

    def matching(self, message: RoutedMessage) -> list[Route]:
        """Return the routes that match, in the order in which they are tried."""
        found = [route for route in self._patterns.match(message.key) if route.takes(message)]
        if len(found) > 1:
            found.sort(key=_rank)
        return found

    def destination(self, message: RoutedMessage) -> str:
        """Return the one queue of a call; raises RoutingError when there is none."""
        return self.find(message) or self._refuse(message.key)

    def destinations(self, message: RoutedMessage) -> list[str]:
        """Return every queue of an event, each once; raises RoutingError when there is none."""
        return self.find_all(message) or [self._refuse(message.key)]

    def find(self, message: RoutedMessage) -> str | None:
        """Return the one queue of a call, None when there is none."""
        best: Route | None = None
        for route in self._patterns.match(message.key):
            if route.takes(message) and (best is None or _rank(route) < _rank(best)):
                best = route
        queue = self.alternate if best is None else best.queue
        return None if queue is None else self._count(queue)

    def find_all(self, message: RoutedMessage) -> list[str]:
        """Return every queue of an event, each once; empty when there is none."""
        return self.matched_queues(message) or self.alternate_queues()

    def matched_queues(self, message: RoutedMessage) -> list[str]:
        """Return the queue of every matching route, each once, and count them; the alternate is none of them."""
        return [self._count(queue) for queue in dict.fromkeys(route.queue for route in self.matching(message))]

    def alternate_queues(self) -> list[str]:
        """Return the alternate queue, if there is one, and count it."""
        return [] if self.alternate is None else [self._count(self.alternate)]

    async def route(
        self, message: Message, key: str | None = None, options: DeliveryOptions | None = None
    ) -> list[str]:
        """Put a message into the queue of every route that matches, and return the queues' names.

        key: what patterns are matched with; a router that looks at the content needs none. A queue that no object was
        registered for is opened by its name on the broker, as ``MessageQueue(name)``. Raises RoutingError when there is
        no queue. What a queue raises (QueueFullError) is raised when the others have the message, several errors as an
        ExceptionGroup.
        """
        names = self.destinations(
            RoutedMessage(
                key=key or "", payload=message.payload, headers=message.headers, priority=int(message.priority)
            )
        )
        errors: list[Exception] = []
        for name in names:
            try:
                await self._open(name).enqueue(message, options)
            except Exception as error:  # noqa: BLE001 - raised in the end
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup(f"several queues of router {self.name!r} refused a message", errors)
        return names

    def _open(self, name: str) -> MessageQueue:
        from liap_tasks.messaging.queues import MessageQueue  # that package offers the routers, too

        opened = self.registered_object(name)
        if opened is None:
            declared = MessageQueue(self.declared_name(name))
            with self._lock:
                opened = self._opened.setdefault(name, declared)
        return opened

    def _count(self, queue: str) -> str:
        with self._lock:
            self._destinations[queue] += 1
        return queue

    def _refuse(self, key: str) -> NoReturn:
        with self._lock:
            self._unroutable += 1
        patterns = dict.fromkeys(route.pattern for route in self.routes())
        raise RoutingError(self.name, key, tuple(get_close_matches(key, patterns, NEAREST, NEAR_ENOUGH)))

    def __call__(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        task: Any = None,
        **_: Any,
    ) -> dict[str, str] | None:
        """Answer Celery: where does this call go? None: wherever its caller or another router says."""
        options = options or {}
        if name.startswith("celery.") or any(options.get(option) for option in PLACED_BY_CALLER):
            return None
        return {"queue": self.declared_name(self.destination(message_of_call(name, args, kwargs, options)))}

    def stats(self) -> dict[str, Any]:
        """Return counts since the start: ``routed``, ``unroutable``, ``by_destination`` {queue: routed}."""
        with self._lock:
            return {
                "routed": self._destinations.total(),
                "unroutable": self._unroutable,
                "by_destination": dict(self._destinations),
            }


def message_of_call(
    name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> RoutedMessage:
    """Return what filters see of a call."""
    args = tuple(args or ())
    return RoutedMessage(
        key=name,
        payload=args[0] if len(args) == 1 else None,
        args=args,
        kwargs=kwargs or {},
        headers=options.get("headers") or {},
        priority=options.get("priority"),
    )


def _rank(route: Route) -> tuple[int, int]:
    return -route.priority, route.order
