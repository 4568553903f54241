"""A worker's events for monitors (``task-received``, heartbeats) are sent without waiting for a confirmation.

Calls and dead letters are confirmed, on RabbitMQ by the connection's ``confirm_publish``. An event is for whoever
listens just now and may be lost; a round trip for each would hold up the worker's loop. And the worker's loop reads the
connection of its events too, for the broker's heartbeats: under gevent it took the confirmation that another greenlet
waited for, which then waited for ever, holding the lock that every event needs (celery 5.7, ``worker.loops``).

Under gevent that look for heartbeats takes 0.1 s before every message; here it takes what is there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.app.events import Events
from celery.events.dispatcher import EventDispatcher

__all__ = ["LiapEvents", "UnconfirmedDispatcher"]

AT_ONCE = 0.0005  # seconds; 0 would be without a limit


class UnconfirmedDispatcher(EventDispatcher):
    """Celery's dispatcher; on a connection that it has for itself nothing is confirmed."""

    def __init__(
        self,
        connection: Any = None,
        hostname: Any = None,
        enabled: bool = True,
        channel: Any = None,
        *args: Any,
        **options: Any,
    ) -> None:
        if connection is not None and channel is None:
            connection.transport_options = {**connection.transport_options, "confirm_publish": False}
            if connection.connected and hasattr(connection.connection, "confirm_publish"):
                connection.connection.confirm_publish = False  # py-amqp asks when it makes a channel
            connection.drain_events = partial(_take_what_is_there, connection)
        super().__init__(connection, hostname, enabled, channel, *args, **options)


def _take_what_is_there(connection: Any, **_: Any) -> Any:
    return type(connection).drain_events(connection, timeout=AT_ONCE)


class LiapEvents(Events):
    """Celery's ``app.events`` with that dispatcher."""

    dispatcher_cls = "liap_tasks.worker.event_dispatcher:UnconfirmedDispatcher"
