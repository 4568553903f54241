"""Telling requests how their attempts go in the thread of Celery's event loop, where there is one.

Celery's request acknowledges its message and sends events when it hears that its attempt has begun or ended. With the
event loop (a worker on RabbitMQ or Redis) the connections for both are read by the loop's thread. An event that another
thread publishes waits for its confirmation on a connection which that thread reads, too: the wrong one may get it, and
the other waits for ever, holding the lock that every event needs (celery 5.7, ``celery.worker.consumer.events``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.utils.log import get_logger

from liap_tasks.pools.bell import Bell

__all__ = ["Teller", "tell_now"]

logger = get_logger("liap_tasks.pools.telling")

Callback = Callable[..., Any]


class Teller:
    """Passes calls on to the thread of the event loop that it was given, in their order, at once."""

    def __init__(self) -> None:
        self._bell: Bell | None = None
        self._hub: Any = None
        self._told: deque[tuple[Callback, tuple[Any, ...]]] = deque()

    @property
    def has_loop(self) -> bool:
        """Whether there is an event loop; without one :meth:`tell` must not be used."""
        return self._bell is not None

    def listen_in(self, hub: Any) -> None:
        """Make the calls in the thread of this event loop from now on; again after each connect."""
        if self._bell is None:
            self._bell = Bell()
        self._hub = hub
        hub.add_reader(self._bell.fileno(), self._answer, self._bell)

    def in_loop(self, callback: Callback | None) -> Callback | None:
        """Return a function for any thread that has ``callback`` called in the loop's."""
        return None if callback is None else partial(self.tell, callback)

    def tell(self, callback: Callback, *args: Any) -> None:
        """Have ``callback`` called in the loop's thread."""
        assert self._bell is not None
        self._told.append((callback, args))
        self._bell.ring()

    def tell_here(self) -> None:
        """Make the calls that wait, in this thread: it is the loop's, and does something else than turning it."""
        while self._told:
            tell_now(*self._told.popleft())

    def close(self) -> None:
        """Make the calls that wait, in this thread, and none after them."""
        self.tell_here()
        if self._bell is not None:
            self._hub.remove_reader(self._bell.fileno())
            self._bell.close()

    def _answer(self, bell: Bell) -> None:
        bell.silence()
        self.tell_here()


def tell_now(callback: Callback, args: tuple[Any, ...]) -> None:
    """Call a request's callback; one that fails must not keep the others from being called."""
    try:
        callback(*args)
    except Exception:
        logger.critical("%r failed; its message may be delivered again", callback, exc_info=True)
