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

from amqp.exceptions import ConsumerCancelled, NotAllowed, PreconditionFailed, RecoverableConnectionError

from transports.channel import KombuChannel, Publication
from transports.errors import InvalidArgumentError, from_engine
from transports.headers import copy_arguments, copy_table
from transports.received import ReceivedMessage
from transports.served.confirms import Confirms
from transports.served.inbox import Arrival, Subscription
from transports.served.pipeline import Pipeline
from transports.served.stream import ConnectionLost
from transports.wire.content import RULE_HEADERS, pack_content, unpack_content
from transports.wire.frames import pack_frame
from transports.wire.protocol import ACK, CANCEL, DELIVERY, PUBLISH, REJECT, RETURN

if TYPE_CHECKING:
    from transports.served.connection import ServedConnection

__all__ = ["Channel"]


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
        self._subscriptions: dict[str, Subscription] = {}
        self._asked_for: dict[str, Subscription] = {}  # subscriptions whose answer has not come yet
        self._subscribing = threading.Lock()  # between those two, and for the end of one
        self._held: dict[int, None] = {}  # delivery tags that are not settled, in the order of their delivery
        self._wants_flow = True
        self._ended = False
        self.inbox = connection.inbox
        self._number = 0
        self._number = connection.open_channel(self)
        self.channel_id = self._number

    @property
    def is_open(self) -> bool:
        """Whether the channel can be used."""
        return not self._ended and self.connection is not None and self.connection.connected

    @property
    def closed(self) -> bool:
        """Whether the channel has been closed, or its connection was lost."""
        return not self.is_open

    def _live(self) -> ServedConnection:
        connection = self.connection
        if connection is None or self._ended:
            raise RecoverableConnectionError("this channel is closed")
        connection.check()  # before any lock is taken: a forked child may have the copy of one that is held for ever
        return connection

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
        confirms = self.confirms
        with self._publishing:
            pipeline = self._pipeline
            number = confirms.last + 1 if self._confirm or pipeline is not None else 0
            frame = self._frame(connection, number, rest)
            if number:
                confirms.last = number
                connection.expect_waiting(wait)
            if pipeline is not None:
                pipeline.send(frame, number)
            else:
                connection.send_frame(frame)
        if pipeline is not None or not number:
            return
        self.await_confirmation(connection, number)
        refusal = confirms.take_refusal(number)
        if mandatory:
            self.tell_of_returns()
        if refusal is not None:
            raise from_engine(refusal) from refusal

    def _frame(self, connection: ServedConnection, number: int, rest: tuple[Any, ...]) -> bytes:
        try:
            frame = pack_frame((PUBLISH, self._number, number, *rest))
        except (TypeError, ValueError, OverflowError) as error:
            *fields, _content, _body = rest
            raise InvalidArgumentError(
                "publish",
                fields,
                f"a priority, an expiration and headers of the types that AMQP has for them ({error})",
            ) from error
        if len(frame) > connection.frame_max:
            raise InvalidArgumentError("message size", len(frame), f"at most {connection.frame_max} bytes")
        return frame

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

    def await_confirmation(self, connection: ServedConnection, number: int) -> None:
        """Return when a publish on this connection is confirmed or refused.

        Raises ConnectionLost when the broker settles nothing for the connection's patience (seconds), whoever published
        it; RecoverableConnectionError when the channel was closed meanwhile.
        """
        confirms = self.confirms
        while not (confirms.is_settled(number) or self._ended):
            settled = confirms.settled

            def goes_on(settled: int = settled) -> bool:
                return confirms.settled != settled or self._ended

            if not connection.wait_until(goes_on, connection.patience):
                connection.give_up(f"the broker did not confirm a message within {connection.patience:g} s")
        if not confirms.is_settled(number):
            connection.check()
            raise RecoverableConnectionError("the channel was closed while its publisher waited for the confirmation")

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
            pipeline.finish()
        pipeline.raise_first_refusal()

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
        self._live()
        tag = consumer_tag or f"amq.ctag-{uuid4().hex}"
        subscription = Subscription(tag, callback, on_cancel, bool(no_ack))
        with self._subscribing:
            if tag in self._asked_for:
                raise NotAllowed(f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'", (60, 20), reply_code=530)
            self._asked_for[tag] = subscription  # its first deliveries may come before the answer
            if no_ack:
                self.no_ack_consumers.add(tag)
        try:
            self._ask("consume", queue or "", tag, bool(no_ack), bool(exclusive), copy_arguments(arguments))
        except BaseException:
            subscription.cancelled = True
            raise
        finally:
            with self._subscribing:
                if not subscription.ended and not subscription.cancelled:
                    self._subscriptions[tag] = subscription
                del self._asked_for[tag]
                self._note_acknowledgement(tag)
        return tag

    def _note_acknowledgement(self, tag: str) -> None:
        """Note whether the consumer of this tag acknowledges, for the messages it gets."""
        subscription = self._subscriptions.get(tag)
        if subscription is not None and subscription.no_ack:
            self.no_ack_consumers.add(tag)
        else:
            self.no_ack_consumers.discard(tag)

    def basic_cancel(self, consumer_tag: str, nowait: bool = False) -> None:
        """End a consumer; deliveries that its callback has not seen go back to the queue."""
        subscription = self._subscriptions.get(consumer_tag)
        if subscription is None:
            return
        self._ask("cancel", consumer_tag)
        with self._subscribing:
            subscription.cancelled = True
            if self._subscriptions.get(consumer_tag) is subscription:
                del self._subscriptions[consumer_tag]
                self._note_acknowledgement(consumer_tag)
        unseen = self._recall(subscription)
        if unseen:
            self._ask("undeliver", unseen)

    def _recall(self, subscription: Subscription | None = None) -> list[int]:
        """Take back what nobody has seen and return the delivery tags of what we hold of it."""
        connection = self.connection
        recalled = [] if connection is None else connection.inbox.recall(self, subscription)
        tags = [arrival.fields[3] for arrival in recalled if arrival.fields[0] == DELIVERY]
        return [tag for tag in tags if self._release(tag)]

    def _release(self, delivery_tag: int) -> bool:
        """Stop holding a delivery; tell whether this call did it (and no other thread's)."""
        try:
            del self._held[delivery_tag]
        except KeyError:
            return False
        return True

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

    # What the reader of the connection tells; it holds the reading end, and must not wait.

    def delivered(self, fields: list[Any]) -> None:
        """Take in a DELIVERY frame."""
        tag = fields[2]
        subscription = self._subscriptions.get(tag) or self._asked_for.get(tag)
        if subscription is None or not subscription.no_ack:
            self._held[fields[3]] = None
        self.inbox.add(Arrival(self, subscription, fields))

    def cancelled(self, fields: list[Any]) -> None:
        """Take in a CANCEL frame: the broker has ended a subscription."""
        tag = fields[2]
        with self._subscribing:
            subscription = self._subscriptions.pop(tag, None) or self._asked_for.get(tag)
            if subscription is None:
                return
            subscription.ended = True
        self.inbox.add(Arrival(self, subscription, fields))

    def returned(self, fields: list[Any]) -> None:
        """Take in a RETURN frame; a publisher that waits for no confirmation learns of it in ``drain_events``."""
        if self._confirm or self._pipeline is not None:
            self.confirms.returned(fields[2:])
        else:
            self.inbox.add(Arrival(self, None, fields))

    def receive(self, arrival: Arrival) -> None:
        """Hand out one arrival, in ``drain_events``."""
        if self._ended:
            return
        subscription, fields = arrival.subscription, arrival.fields
        kind = fields[0]
        if kind == DELIVERY:
            self._receive_delivery(subscription, fields)
        elif kind == RETURN:
            _, _, exchange, routing_key, content, body = fields
            self._tell_of_return(exchange, routing_key, self._message(body, content, {}))
        elif kind == CANCEL and subscription is not None:
            with self._subscribing:
                self._note_acknowledgement(subscription.tag)
            if subscription.on_cancel is None:
                raise ConsumerCancelled(subscription.tag, (60, 30))
            subscription.on_cancel(subscription.tag)

    def _receive_delivery(self, subscription: Subscription | None, fields: list[Any]) -> None:
        _, _, consumer_tag, delivery_tag, redelivered, returns, exchange, routing_key, content, body = fields
        acknowledged = subscription is None or not subscription.no_ack
        if acknowledged and delivery_tag not in self._held:
            return  # settled or given back meanwhile, with others (ack multiple, recover)
        if subscription is None or (acknowledged and subscription.cancelled):
            # Another thread cancelled the consumer while this delivery was on its way, or its basic_consume was broken
            # off before the answer came: then the broker has a consumer that we know nothing of.
            if subscription is None:
                self._ask("cancel", consumer_tag)
            if self._release(delivery_tag):
                self._ask("undeliver", [delivery_tag])
            return
        delivery_info = {
            "consumer_tag": consumer_tag,
            "delivery_tag": delivery_tag,
            "redelivered": redelivered,
            "exchange": exchange,
            "routing_key": routing_key,
        }
        subscription.callback(self._message(body, content, delivery_info, returns))

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
        connection = self._live()
        self._settle(delivery_tag, multiple)
        connection.send((ACK, self._number, delivery_tag, bool(multiple)))

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        self.basic_nack(delivery_tag, requeue=requeue)

    def basic_nack(self, delivery_tag: int, multiple: bool = False, requeue: bool = True) -> None:
        connection = self._live()
        self._settle(delivery_tag, multiple)
        connection.send((REJECT, self._number, delivery_tag, bool(multiple), bool(requeue)))

    def _settle(self, delivery_tag: int, multiple: bool) -> None:
        if multiple and delivery_tag == 0:
            self._held.clear()
        elif not self._release(delivery_tag):
            # The broker would refuse it, but an acknowledgement has no answer: refuse it here.
            raise PreconditionFailed(
                f"PRECONDITION_FAILED - unknown delivery tag {delivery_tag}", (0, 0), reply_code=406
            )
        elif multiple:
            for tag in list(self._held):
                if tag <= delivery_tag:
                    self._release(tag)

    def flow(self, active: bool = True) -> None:
        """Stop or resume deliveries to this channel."""
        self._wants_flow = bool(active)
        super().flow(active)

    def basic_recover(self, requeue: bool = False) -> None:
        """Put all that the channel holds back in the queues; ``requeue=False`` does the same, as in RabbitMQ."""
        self._ask("flow", False)
        self._ask("recover", self._recall())
        self._held.clear()
        self._ask("flow", self._wants_flow)

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
        if connection is None or self._ended:
            return
        self._ended = True  # publishers that wait for room see it when the first answer comes
        try:
            if connection.connected:
                connection.call(self._number, "flow", False)
                connection.call(self._number, "close_channel", self._recall())
        except ConnectionLost:
            pass  # then the broker has put everything back by itself
        finally:
            self.detach()

    def detach(self) -> None:
        """Let go of the connection: it is closed or lost."""
        self._ended = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.channels.pop(self._number, None)
        self._subscriptions.clear()
        self.no_ack_consumers.clear()
        self._held.clear()

    collect = detach
