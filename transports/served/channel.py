"""A kombu channel on a served broker.

Differences from kombu's AMQP channel: a refused operation leaves the channel open; a publish is confirmed before
``basic_publish`` returns, so that a full queue is an error in the publisher (unless the transport option
``confirm_publish`` is False, or inside :meth:`Channel.pipeline`); ``basic_return`` handlers run inside the publish.
Deliveries that a cancelled or closed consumer has not seen go back as if they had never been made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from amqp.exceptions import ConsumerCancelled, PreconditionFailed, RecoverableConnectionError

from transports.channel import KombuChannel, Publication
from transports.errors import InvalidArgumentError, from_engine
from transports.headers import copy_table
from transports.received import ReceivedMessage
from transports.served.confirms import Confirms
from transports.served.inbox import Arrival
from transports.served.pipeline import Pipeline
from transports.wire.content import RULE_HEADERS, pack_content, unpack_content
from transports.wire.frames import pack_frame
from transports.wire.protocol import ACK, PUBLISH, REJECT

if TYPE_CHECKING:
    from transports.served.connection import ServedConnection

__all__ = ["Channel"]

#: Bytes of a frame beside content, body and names.
FRAME_OVERHEAD = 256


class Channel(KombuChannel):
    """A kombu channel on a served broker. Any thread may publish and settle."""

    def __init__(self, connection: ServedConnection, *, default_arguments: dict[str, Any] | None = None) -> None:
        """default_arguments: queue arguments that apply where a declaration does not give them."""
        options = getattr(connection.client, "transport_options", None) or {}
        super().__init__(options)
        self.connection: ServedConnection | None = connection
        self.confirms = Confirms()
        self._default_arguments = default_arguments or {}
        self._confirm = bool(options.get("confirm_publish", True))
        self._publishing = threading.Lock()  # numbers leave in order
        self._pipeline: Pipeline | None = None
        self._callbacks: dict[str, Callable[[ReceivedMessage], Any]] = {}
        self._on_cancel: dict[str, Callable[[str], Any]] = {}
        self._held: dict[int, None] = {}  # delivery tags that are not settled, in the order of their delivery
        self._number = connection.open_channel(self)
        self.channel_id = self._number

    @property
    def is_open(self) -> bool:
        """Whether the channel can be used."""
        return self.connection is not None and self.connection.connected

    @property
    def closed(self) -> bool:
        """Whether the channel has been closed, or its connection was lost."""
        return not self.is_open

    def _live(self) -> ServedConnection:
        if self.connection is None:
            raise RecoverableConnectionError("this channel is closed")
        return self.connection

    def _ask(self, operation: str, *arguments: Any) -> Any:
        return self._live().call(self._number, operation, *arguments)

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
        return {**self._default_arguments, **super().prepare_queue_arguments(arguments, **options)}

    # -- publishing --------------------------------------------------------------------------------------------

    def basic_publish(
        self,
        message: Publication,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **_: Any,
    ) -> None:
        """Publish a message; when this returns, every queue it was routed to has it.

        timeout (or confirm_timeout): seconds to wait for room in a queue with ``x-overflow: block``; default is the
        transport option ``block_timeout`` (10 s).
        Raises QueueFullError when a bounded queue refused it, NotFound for a missing exchange, InvalidArgumentError
        for a priority, expiration or header that cannot be honoured, or a message larger than the broker takes.
        """
        connection = self._live()
        given = timeout if timeout is not None else confirm_timeout
        wait = self._block_timeout if given is None else given
        rest = self._packed(message, exchange or "", routing_key or "", mandatory, wait)
        with self._publishing:
            pipeline = self._pipeline
            number = self.confirms.next_number() if self._confirm or pipeline is not None else 0
            frame = pack_frame((PUBLISH, self._number, number, *rest))
            if len(frame) > connection.frame_max:
                raise InvalidArgumentError("message size", len(frame), f"at most {connection.frame_max} bytes")
            if pipeline is not None:
                pipeline.send(frame)
            else:
                connection.send_frame(frame)
        if pipeline is not None or not number:
            return
        self.await_confirmation(number, wait)
        refusal = self.confirms.take_refusal(number)
        if mandatory:
            self.tell_of_returns()
        if refusal is not None:
            raise from_engine(refusal) from refusal

    def _packed(
        self, message: Publication, exchange: str, routing_key: str, mandatory: bool, wait: float
    ) -> tuple[Any, ...]:
        """Return the fields of a PUBLISH frame behind its number."""
        properties, headers = message.properties, message.headers
        rules: dict[str, Any] | None = None
        if not RULE_HEADERS.isdisjoint(headers):
            rules = {name: headers[name] for name in RULE_HEADERS if name in headers}
            if "x-delay" in rules:  # the broker keeps it; nobody sees it again
                headers = {name: value for name, value in headers.items() if name != "x-delay"}
        try:
            content = pack_content(properties, headers)
        except TypeError as error:
            copy_table(headers)  # raises, naming the header
            raise InvalidArgumentError(
                "properties", properties, f"what a table of fields can hold ({error})"
            ) from error
        return (
            bool(mandatory),
            properties.get("delivery_mode") == 2,
            exchange,
            routing_key,
            properties.get("priority"),
            properties.get("expiration"),
            rules,
            wait,
            content,
            message.body,
        )

    def await_confirmation(self, number: int, wait: float) -> None:
        """Return when a publish is confirmed or refused; raises ConnectionLost when the broker does not say."""
        connection = self._live()
        confirms = self.confirms
        if not connection.wait_until(lambda: confirms.is_settled(number), wait + connection.call_timeout):
            connection.give_up(f"the broker did not confirm a message within {wait + connection.call_timeout:g} s")

    def tell_of_returns(self) -> None:
        """Call the ``basic_return`` handlers for the mandatory messages that found no queue."""
        for exchange, routing_key, content, body in self.confirms.take_returned():
            self._tell_of_return(exchange, routing_key, self._message(body, content, {}))

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """Let publishes inside not wait for their confirmation; leave when all are confirmed.

        Raises, at the end, what the first refused publish would have raised; the pipeline's ``refusals`` has them all.
        Publishes of other threads on this channel take part. Not to be nested.
        """
        connection = self._live()
        with self._publishing:
            if self._pipeline is not None:
                raise RuntimeError("this channel has a pipeline open already")
            pipeline = self._pipeline = Pipeline(self, connection)
        try:
            yield pipeline
        finally:
            with self._publishing:
                self._pipeline = None
                pipeline.flush()
        pipeline.finish(self._block_timeout)

    # -- consuming ---------------------------------------------------------------------------------------------

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[ReceivedMessage], Any] | None = None,
        arguments: dict[str, Any] | None = None,
        on_cancel: Callable[[str], Any] | None = None,
    ) -> str:
        """Start a consumer and return its tag; ``callback`` gets each message in ``drain_events``."""
        if callback is None:
            raise ValueError("basic_consume needs a callback")
        tag = consumer_tag or f"amq.ctag-{uuid4().hex}"
        fresh = tag not in self._callbacks  # with a tag in use the broker refuses, and the first consumer goes on
        if fresh:
            self._callbacks[tag] = callback
            if on_cancel is not None:
                self._on_cancel[tag] = on_cancel
            if no_ack:
                self.no_ack_consumers.add(tag)
        try:
            self._ask("consume", queue or "", tag, bool(no_ack), bool(exclusive), arguments)
        except BaseException:
            if fresh:
                self._forget(tag)
            raise
        return tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> None:
        """End a consumer; deliveries that its callback has not seen go back to the queue."""
        if consumer_tag not in self._callbacks:
            return
        self._ask("cancel", consumer_tag)
        unseen = self._recall(consumer_tag)
        if unseen:
            self._ask("undeliver", unseen)
        self._forget(consumer_tag)

    def _recall(self, consumer_tag: str | None = None) -> list[int]:
        """Take back what nobody has seen and return the delivery tags of what we hold of it."""
        recalled = self._live().inbox.recall(self._number, consumer_tag)
        held = self._held
        tags = [arrival.delivery_tag for arrival in recalled if arrival.delivery_tag in held]
        for tag in tags:
            held.pop(tag, None)
        return tags

    def _forget(self, tag: str) -> Callable[[str], Any] | None:
        self._callbacks.pop(tag, None)
        self.no_ack_consumers.discard(tag)
        return self._on_cancel.pop(tag, None)

    def basic_get(self, queue: str = "", no_ack: bool = False, **_: Any) -> ReceivedMessage | None:
        """Return the next message of a queue, or None."""
        got = self._ask("get", queue or "", bool(no_ack))
        if got is None:
            return None
        tag, redelivered, returns, left, exchange, routing_key, content, body = got
        if not no_ack:
            self._held[tag] = None
        delivery_info = {
            "delivery_tag": tag,
            "redelivered": redelivered,
            "exchange": exchange,
            "routing_key": routing_key,
            "message_count": left,
        }
        return self._message(body, content, delivery_info, returns)

    def hold(self, arrival: Arrival) -> None:
        """Note a delivery that has just come in and is to be settled."""
        if arrival.content is not None and arrival.consumer_tag not in self.no_ack_consumers:
            self._held[arrival.delivery_tag] = None

    def receive(self, arrival: Arrival) -> None:
        """Hand one arrival to its consumer's callback."""
        tag = arrival.consumer_tag
        if arrival.content is None:
            on_cancel = self._forget(tag)
            if on_cancel is None:
                raise ConsumerCancelled(tag, (60, 30))
            on_cancel(tag)
            return
        no_ack = tag in self.no_ack_consumers
        if not no_ack and arrival.delivery_tag not in self._held:
            return  # settled or given back meanwhile, with others (ack multiple, recover)
        callback = self._callbacks.get(tag)
        if callback is None:  # another thread cancelled the consumer while this delivery was on its way
            self._held.pop(arrival.delivery_tag, None)
            self._ask("undeliver", [arrival.delivery_tag])
            return
        delivery_info = {
            "consumer_tag": tag,
            "delivery_tag": arrival.delivery_tag,
            "redelivered": arrival.redelivered,
            "exchange": arrival.exchange,
            "routing_key": arrival.routing_key,
        }
        callback(self._message(arrival.body, arrival.content, delivery_info, arrival.returns))

    def _message(
        self, body: bytes, content: bytes, delivery_info: dict[str, Any], returns: int | None = None
    ) -> ReceivedMessage:
        try:
            properties, headers = unpack_content(content)
        except ValueError:  # written by no client of ours; its consumer finds a message without a content type
            properties, headers = {}, {}
        return ReceivedMessage(body, properties, headers or {}, self, delivery_info, returns)

    # -- settling ----------------------------------------------------------------------------------------------

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        self._settle(delivery_tag, multiple)
        self._live().send((ACK, self._number, delivery_tag, bool(multiple)))

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        self.basic_nack(delivery_tag, requeue=requeue)

    def basic_nack(self, delivery_tag: int, multiple: bool = False, requeue: bool = True) -> None:
        self._settle(delivery_tag, multiple)
        self._live().send((REJECT, self._number, delivery_tag, bool(multiple), bool(requeue)))

    def _settle(self, delivery_tag: int, multiple: bool) -> None:
        held = self._held
        self._live()
        if multiple and delivery_tag == 0:
            held.clear()
        elif delivery_tag not in held:
            # The broker would refuse it, but an acknowledgement has no answer: refuse it here.
            raise PreconditionFailed(
                f"PRECONDITION_FAILED - unknown delivery tag {delivery_tag}", (0, 0), reply_code=406
            )
        elif multiple:
            for tag in [one for one in held if one <= delivery_tag]:
                held.pop(tag, None)
        else:
            held.pop(delivery_tag, None)

    def basic_recover(self, requeue: bool = False) -> None:
        """Put all that the channel holds back in the queues; ``requeue=False`` does the same, as in RabbitMQ."""
        self._ask("flow", False)
        self._ask("recover", self._recall())
        self._held.clear()
        self._ask("flow", True)

    # -- looking in --------------------------------------------------------------------------------------------

    def queue_stats(self, queue: str | None = None) -> dict[str, dict[str, float]]:
        """Return the statistics of one queue or of all, by name (keys: see transports.engine.statistics)."""
        numbers: dict[str, dict[str, float]] = self._ask("queue_stats", queue)
        return numbers

    def broker_stats(self) -> dict[str, Any]:
        """Return what the broker's process tells about itself (see transports.broker.server)."""
        numbers: dict[str, Any] = self._ask("broker_stats")
        return numbers

    def peek(self, queue: str, count: int = 10) -> list[ReceivedMessage]:
        """Return up to ``count`` ready messages in delivery order, leaving them in the queue.

        At most 1,000, and fewer where these are more than 8 MB.
        They cannot be acknowledged: they have not been delivered.
        """
        return [self._looked_at(*shown) for shown in self._ask("peek", queue, count)]

    def delayed(self, queue: str) -> list[tuple[float, ReceivedMessage]]:
        """Return (seconds left, message) for each delayed message of a queue, soonest first."""
        found: list[tuple[float, ReceivedMessage]] = []
        page, following = self._ask("delayed", queue, None)
        while True:
            found.extend((left, self._looked_at(*shown)) for left, *shown in page)
            if following is None:
                return found
            page, following = self._ask("delayed", queue, following)

    def _looked_at(self, exchange: str, routing_key: str, content: bytes, body: bytes) -> ReceivedMessage:
        message = self._message(body, content, {"exchange": exchange, "routing_key": routing_key})
        message.channel = None
        return message

    # -- end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all consumers and put what is not settled back in the queues."""
        connection = self.connection
        if connection is None:
            return
        if connection.connected:
            self._ask("flow", False)
            self._ask("close_channel", self._recall())
        self.detach()

    def detach(self) -> None:
        """Let go of the connection: it is closed or lost."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.channels.pop(self._number, None)
        self._callbacks.clear()
        self._on_cancel.clear()
        self._held.clear()

    collect = detach
