"""Celery's ``rpc://`` result backend, sending its replies by the :mod:`lane <liap_tasks.lane>` where there is one.

An answer is a publish like the call was, and costs the worker as much as the task itself when it takes a producer from
kombu's pool. What is sent, and to which queue, is Celery's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amqp.exceptions import RecoverableConnectionError
from celery.backends.rpc import RPCBackend

from transports import BrokerUnavailableError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["ReplyBackend"]

#: Why a result could not be sent at once. It must get past them: Celery takes an error here for the task's.
CONNECTION_ERRORS = (ConnectionError, BrokerUnavailableError, RecoverableConnectionError)


class ReplyBackend(RPCBackend):
    """Sends a task's result and state to the reply queue of its caller."""

    if TYPE_CHECKING:
        app: LiapApp
        delivery_mode: int
        serializer: str

    @property
    def oid(self) -> str:  # type: ignore[override]  # it could be set, and nobody does
        """The name of the queue to which calls of this thread are answered now; Celery's is what it was at first."""
        oid: str = self.app.thread_oid
        return oid

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **options: Any
    ) -> Any:
        """Send a result; see Celery's ``store_result``."""
        try:
            lane = self.app.lane.channel()
        except CONNECTION_ERRORS:
            lane = None
        if lane is None:
            return super().store_result(task_id, result, state, traceback, request, **options)
        queue, correlation_id = self.destination_for(task_id, request)
        if not queue:
            return None
        properties = {"correlation_id": correlation_id, "delivery_mode": self.delivery_mode}
        try:
            lane.publish(
                self._to_result(task_id, state, result, traceback, request),  # type: ignore[attr-defined]  # as above
                serializer=self.serializer,
                exchange="",
                routing_key=queue,
                headers={},
                properties=properties,
                priority=0,
            )
        except CONNECTION_ERRORS:  # lost since the last result, or just now; Celery tries again until it is there
            return super().store_result(task_id, result, state, traceback, request, **options)
        return result
