"""Routers one after the other: for a call the first that has a route decides, an event goes where any of them says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu import Queue

from liap_tasks.routing.message import Filter, RoutedMessage
from liap_tasks.routing.router import Route, Router

if TYPE_CHECKING:
    from liap_tasks.messaging.queues import MessageQueue

__all__ = ["RouterChain"]


class RouterChain(Router):
    """Ask several routers in turn; a router itself, so chains may be chained.

    alternate: the queue for what none of them routes. A router with an alternate of its own leaves no call to those
    after it. An event that a route of any of them matches goes to no alternate, another to the first one there is.
    """

    def __init__(self, *routers: Router, name: str = "chain", alternate: str | None = None) -> None:
        super().__init__(name, alternate=alternate)
        self.routers = routers

    def register_route(self, pattern: str, queue: str, filter: Filter | None = None, priority: int = 0) -> Route:
        """Refuse: routes belong to one of the routers."""
        raise TypeError("a chain has no routes of its own; register it with one of its routers")

    def unregister_route(self, pattern: str, queue: str | None = None) -> int:
        """Remove the routes of a pattern from every router, and return how many there were."""
        return sum(router.unregister_route(pattern, queue) for router in self.routers)

    def matching(self, message: RoutedMessage) -> list[Route]:
        """Return the routes that match, in the order in which they are tried."""
        return [route for router in self.routers for route in router.matching(message)]

    def routes(self) -> list[Route]:
        """Return the routes in the order in which they are tried."""
        return [route for router in self.routers for route in router.routes()]

    def queue_names(self) -> list[str]:
        """Return the names of all queues that a message can be sent to."""
        names = [name for router in self.routers for name in router.queue_names()]
        return list(dict.fromkeys([*names, *super().queue_names()]))

    def declared_queue(self, name: str) -> Queue | None:
        """Return how a queue was registered to be declared, here or with one of the routers."""
        known = (router.declared_queue(name) for router in self.routers)
        return super().declared_queue(name) or next((queue for queue in known if queue is not None), None)

    def registered_object(self, name: str) -> MessageQueue | None:
        """Return the queue object that was registered here or with one of the routers."""
        known = (router.registered_object(name) for router in self.routers)
        return super().registered_object(name) or next((queue for queue in known if queue is not None), None)

    def find(self, message: RoutedMessage) -> str | None:
        """Return the one queue of a call, None when there is none."""
        for router in self.routers:
            queue = router.find(message)
            if queue is not None:
                return self._count(queue)
        return super().find(message)

    def matched_queues(self, message: RoutedMessage) -> list[str]:
        """Return the queue of every matching route of any router, each once, and count them."""
        queues = dict.fromkeys(queue for router in self.routers for queue in router.matched_queues(message))
        return [self._count(queue) for queue in queues]

    def alternate_queues(self) -> list[str]:
        """Return the alternate queue of the first router that has one, else the chain's, and count it."""
        for router in self.routers:
            queues = router.alternate_queues()
            if queues:
                return [self._count(queue) for queue in queues]
        return super().alternate_queues()
