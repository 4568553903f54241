"""What kombu calls on a channel, in the words of the broker: the part that all our transports share.

A subclass says how an operation is asked for (:meth:`KombuChannel._ask`), and has its own way to publish, to consume
and to settle, which happen once per message.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import amqp
from amqp.exceptions import NoConsumers
from amqp.protocol import queue_declare_ok_t
from kombu.transport import base
from kombu.transport.base import to_rabbitmq_queue_arguments  # type: ignore[attr-defined]  # not in the stubs

from transports.headers import copy_arguments
from transports.received import ReceivedMessage

__all__ = ["DEFAULT_BLOCK_TIMEOUT", "KombuChannel", "Publication"]

DEFAULT_BLOCK_TIMEOUT = 10.0

#: What a message can carry beside its headers (AMQP 0-9-1, 1.8.3). As in py-amqp, anything else is left out:
#: Celery passes options of its own on to the publish, and what its signals pass is not even data.
PROPERTIES = frozenset(name for name, _ in amqp.Message.PROPERTIES)


class Publication(NamedTuple):
    """What ``prepare_message`` hands to ``basic_publish``."""

    body: bytes
    properties: dict[str, Any]
    headers: dict[str, Any]


class KombuChannel(base.StdChannel):
    """A kombu channel without its way to a broker; see py-amqp for the arguments."""

    Message = ReceivedMessage

    def __init__(self, options: dict[str, Any]) -> None:
        """options: the transport options; ``block_timeout``: seconds to wait for room where a queue makes us wait."""
        self.no_ack_consumers: set[str] = set()
        self.events: defaultdict[str, set[Callable[..., Any]]] = defaultdict(set)
        self._block_timeout = float(options.get("block_timeout", DEFAULT_BLOCK_TIMEOUT))

    def _ask(self, operation: str, *arguments: Any) -> Any:
        """Have the broker do one of :data:`transports.wire.protocol.OPERATIONS`; raises as kombu's users expect."""
        raise NotImplementedError

    # -- entities ----------------------------------------------------------------------------------------------

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
        """Turn kombu's queue options (seconds) into ``x-`` arguments (milliseconds)."""
        prepared: dict[str, Any] = to_rabbitmq_queue_arguments(arguments or {}, **options)
        return prepared

    def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        internal: bool = False,
    ) -> None:
        self._ask(
            "declare_exchange",
            exchange or "",
            type,
            bool(passive),
            bool(durable),
            bool(auto_delete),
            bool(internal),
            copy_arguments(arguments),
        )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        self._ask("delete_exchange", exchange or "", bool(if_unused))

    def exchange_bind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self._ask("bind_exchange", destination or "", source or "", routing_key or "", copy_arguments(arguments))

    def exchange_unbind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self._ask("unbind_exchange", destination or "", source or "", routing_key or "", copy_arguments(arguments))

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> queue_declare_ok_t:
        declared = self._ask(
            "declare_queue",
            queue or "",
            bool(passive),
            bool(durable),
            bool(exclusive),
            bool(auto_delete),
            copy_arguments(arguments),
        )
        return queue_declare_ok_t(*declared)

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self._ask("bind_queue", queue or "", exchange or "", routing_key or "", copy_arguments(arguments))

    def queue_unbind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self._ask("unbind_queue", queue or "", exchange or "", routing_key or "", copy_arguments(arguments))

    def queue_purge(self, queue: str, nowait: bool = False) -> int:
        """Remove the ready messages and return how many there were; delayed ones stay (see ``cancel_delayed``)."""
        purged: int = self._ask("purge_queue", queue or "")
        return purged

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, nowait: bool = False) -> int:
        ready: int = self._ask("delete_queue", queue or "", bool(if_unused), bool(if_empty))
        return ready

    # -- messages ----------------------------------------------------------------------------------------------

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Publication:
        """Return a message ready for ``basic_publish``; properties that AMQP does not know are left out."""
        ready = (
            {key: value for key, value in properties.items() if value is not None and key in PROPERTIES}
            if properties
            else {}
        )
        if priority is not None:
            ready["priority"] = priority
        if content_type is not None:
            ready["content_type"] = content_type
        if content_encoding is not None:
            ready["content_encoding"] = content_encoding
        return Publication(body.encode() if isinstance(body, str) else bytes(body), ready, headers or {})

    def message_to_python(self, raw_message: ReceivedMessage) -> ReceivedMessage:
        """Return the message: it is one already."""
        return raw_message

    def _tell_of_return(self, exchange: str, routing_key: str, message: ReceivedMessage) -> None:
        error = NoConsumers("NO_ROUTE", (60, 50), reply_code=312)
        for handler in tuple(self.events["basic_return"]):
            handler(error, exchange, routing_key, message)

    # -- settling and looking in -------------------------------------------------------------------------------

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, a_global: bool = False, **kw: Any) -> None:
        """Limit unacknowledged messages: for consumers started from now on, or at once for the whole channel."""
        self._ask("qos", prefetch_count, bool(kw.get("apply_global", a_global)))

    def flow(self, active: bool = True) -> None:
        """Stop or resume deliveries to this channel."""
        self._ask("flow", bool(active))

    def cancel_delayed(self, queue: str, message_id: str) -> int:
        """Remove the delayed messages of a task id (or message id) for good and return how many there were."""
        cancelled: int = self._ask("cancel_delayed", queue, message_id)
        return cancelled

    def reschedule(self, queue: str, message_id: str, delay: float) -> int:
        """Let the delayed messages of a task id become ready ``delay`` seconds from now and return how many."""
        rescheduled: int = self._ask("reschedule", queue, message_id, delay)
        return rescheduled
