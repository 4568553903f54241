"""One virtual host, whole: clients, and every operation of AMQP 0-9-1 on its queues and exchanges.

The broker is *sans-IO*: it starts no thread, takes no lock, never waits and imports only the standard library.
Whoever hosts it (:mod:`transports.shared` for the threads of one process) serialises the calls, wakes it at
:meth:`Broker.next_due`, and carries deliveries from the channels' sinks to the consumers.

RabbitMQ's documented behaviour is the specification. Every public operation first runs what is due by now, so that
no operation ever sees an expired message, and last routes the dead letters it caused, so that a message is in
exactly one place whenever the broker is at rest.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from transports.engine.channel import Channel, ClientConnection, Held, Sink
from transports.engine.consumer import Consumer
from transports.engine.errors import ChannelRefusal, InvalidArgument, access_refused
from transports.engine.message import Entry, Message
from transports.engine.publishing import Publishing
from transports.engine.queue import Queue
from transports.engine.statistics import QueueStatistics

__all__ = ["Broker", "Got"]

# Deliveries that no consumer has seen: (delivery tag, entry, consumer).
Unseen = Iterable[tuple[int, Entry, Consumer]]

CONSUMER_ARGUMENTS = ("x-priority",)


class Got(NamedTuple):
    """The answer to a get. message_count: ready messages left behind it."""

    delivery_tag: int
    entry: Entry
    message_count: int


class Broker(Publishing):
    """The state of one virtual host and of its clients; the options are those of :class:`Topology`."""

    def __init__(self, vhost: str = "/", **options: Any) -> None:
        super().__init__(vhost, **options)
        self.connections: list[ClientConnection] = []

    # -- clients -----------------------------------------------------------------------------------------------

    def connect(self) -> ClientConnection:
        """Register a client."""
        connection = ClientConnection()
        self.connections.append(connection)
        return connection

    def open_channel(self, connection: ClientConnection, sink: Sink) -> Channel:
        """Open a channel whose deliveries go to ``sink``."""
        channel = Channel(connection, sink)
        connection.channels.append(channel)
        return channel

    def close_channel(self, channel: Channel, unseen: Unseen = ()) -> None:
        """End the channel's consumers and put what it holds back in the queues, marked redelivered.

        unseen: deliveries that nobody has seen; they go back as if they had not been made.
        """
        if not channel.open:
            return
        self._catch_up()
        channel.open = False
        # Nothing may be pushed to this channel any more before what it holds is put back.
        touched: dict[Queue, None] = {}
        for consumer in list(channel.consumers.values()):
            self._detach(consumer)
            touched[consumer.queue] = None
        self._undeliver(channel, unseen, touched)
        self._give_back(channel, list(channel.held), touched)
        channel.connection.channels.remove(channel)
        self._resume(touched)

    def close_connection(self, connection: ClientConnection) -> None:
        """Close its channels and delete its exclusive queues."""
        if not connection.open:
            return
        connection.open = False
        for channel in list(connection.channels):
            self.close_channel(channel)
        for queue in list(connection.exclusive_queues):
            self._delete(queue)
        self.connections.remove(connection)
        self._settle()

    # -- consuming ---------------------------------------------------------------------------------------------

    def consume(
        self,
        channel: Channel,
        queue_name: str,
        tag: str = "",
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> Consumer:
        """Subscribe a channel to a queue. The caller calls :meth:`begin` when it can take deliveries.

        arguments: ``x-priority`` (integer, larger is served first, default 0).
        Raises ChannelRefusal 404, 405, 403 (an exclusive consumer is or would be in the way), 406 (tag in use).
        """
        self._run_due()
        queue = self.queue(queue_name, channel.connection)
        priority = 0
        for name, value in (arguments or {}).items():
            if name not in CONSUMER_ARGUMENTS:
                raise InvalidArgument(name, value, "the consumer argument x-priority")
            if not isinstance(value, int) or isinstance(value, bool):
                raise InvalidArgument(name, value, "an integer")
            priority = value
        tag = tag or f"amq.ctag-{uuid.uuid4().hex}"
        if tag in channel.consumers:
            raise ChannelRefusal(530, f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'")
        if exclusive and queue.arguments.single_active_consumer:
            raise access_refused(f"queue '{queue_name}' in vhost '{self.vhost}' has a single active consumer anyway")
        if any(other.exclusive for other in queue.rota) or (exclusive and queue.rota):
            raise access_refused(f"queue '{queue_name}' in vhost '{self.vhost}' in exclusive use")
        consumer = Consumer(
            channel,
            queue,
            tag,
            no_ack=bool(no_ack),
            exclusive=bool(exclusive),
            priority=priority,
            prefetch=channel.default_prefetch,
        )
        channel.consumers[tag] = consumer
        queue.rota.add(consumer)
        queue.touch()
        return consumer

    def begin(self, consumer: Consumer) -> None:
        """Push the messages that are ready for a new consumer."""
        consumer.queue.dispatch()

    def cancel(self, channel: Channel, tag: str, unseen: Unseen = ()) -> None:
        """End a subscription; what it holds stays held by the channel. An unknown tag changes nothing.

        unseen: its deliveries that nobody has seen; they go back as if they had not been made.
        """
        self._catch_up()
        consumer = channel.consumers.get(tag)
        if consumer is None:
            return
        self._detach(consumer)
        touched: dict[Queue, None] = {consumer.queue: None}
        self._undeliver(channel, unseen, touched)
        self._resume(touched)
        self._dispatch(channel)

    def _detach(self, consumer: Consumer) -> None:
        del consumer.channel.consumers[consumer.tag]
        consumer.queue.rota.remove(consumer)
        consumer.queue.touch()

    def _resume(self, queues: Iterable[Queue]) -> None:
        """Go on with queues that lost a consumer or got messages back."""
        for queue in queues:
            if queue.auto_delete and queue.consumed and not queue.rota:
                self._delete(queue)
            else:
                queue.settle_returns()
        self._settle()

    def get(self, channel: Channel, queue_name: str, *, no_ack: bool = False) -> Got | None:
        """Take the next ready message, or None when there is none."""
        now = self.clock.now()
        if self._timers and self._timers[0][0] <= now:
            self._run_due()
        queue = self.queue(queue_name, channel.connection)
        if queue.arguments.expires is not None:
            queue.touch()
        entry = queue.take(no_ack)
        if entry is None:
            return None
        if no_ack:
            tag = channel.next_tag
            channel.next_tag = tag + 1
        else:
            tag = channel.hold(entry, queue, None)
        return Got(tag, entry, queue.ready.live)

    def ack(self, channel: Channel, tag: int, *, multiple: bool = False) -> None:
        """Settle a delivery (or all up to it; 0 for all) as done. Raises ChannelRefusal 406 for an unknown tag."""
        self._catch_up()
        if not multiple:
            held = channel.release(tag)
            held.queue.acknowledge(held.entry)
            consumer = held.consumer
            if consumer is None:
                if held.queue.groups is not None:
                    held.queue.dispatch()
                return
            # With credit left before this settlement, the channel's shared limit held nobody back.
            if not channel.global_prefetch or channel.outstanding + 1 < channel.global_prefetch:
                queue = held.queue
                if queue.rota.parked:  # also when nothing is ready: it decides whose turn comes first
                    queue.rota.unpark()
                if queue.ready.live:
                    queue.dispatch()
                return
            self._go_on([held.queue])
        else:
            queues = []
            for one in channel.up_to(tag):
                held = channel.release(one)
                held.queue.acknowledge(held.entry)
                queues.append(held.queue)
            self._go_on(queues)
        self._dispatch(channel)

    def reject(self, channel: Channel, tag: int, *, requeue: bool, multiple: bool = False) -> None:
        """Settle a delivery (or all up to it) as refused: back to its place, or a dead letter."""
        self._run_due()
        tags = channel.up_to(tag) if multiple else [tag]
        if requeue:
            touched: dict[Queue, None] = {}
            self._give_back(channel, tags, touched)
            self._resume(touched)
        else:
            queues = []
            for one in tags:
                held = channel.release(one)
                held.queue.reject(held.entry)
                queues.append(held.queue)
            self._go_on(queues)
            self._settle()
        self._dispatch(channel)

    def _go_on(self, queues: Iterable[Queue]) -> None:
        """Deliver what waited for a message of its group to be settled, whoever consumes those queues."""
        for queue in dict.fromkeys(queues):
            if queue.groups is not None:
                queue.dispatch()

    def recover(self, channel: Channel, unseen: Unseen = ()) -> None:
        """Put everything the channel holds back in its place, marked redelivered (but for what nobody has seen)."""
        self._run_due()
        touched: dict[Queue, None] = {}
        self._undeliver(channel, unseen, touched)
        self._give_back(channel, list(channel.held), touched)
        self._resume(touched)
        self._dispatch(channel)

    def undeliver(self, channel: Channel, unseen: Unseen) -> None:
        """Put back deliveries that nobody has seen, as if they had not been made.

        Those made without acknowledgement come back too, which RabbitMQ cannot do: to it, sent is done.
        """
        self._catch_up()
        touched: dict[Queue, None] = {}
        self._undeliver(channel, unseen, touched)
        self._resume(touched)
        self._dispatch(channel)

    def _undeliver(self, channel: Channel, unseen: Unseen, touched: dict[Queue, None]) -> None:
        for tag, entry, consumer in unseen:
            if consumer.no_ack:
                consumer.queue.undeliver(entry, settled=True)
            elif tag in channel.held:
                channel.release(tag)
                consumer.queue.undeliver(entry)
            touched[consumer.queue] = None

    def qos(self, channel: Channel, prefetch_count: int, *, for_channel: bool = False) -> None:
        """Limit unacknowledged deliveries; 0 means no limit.

        RabbitMQ's reading: by default the limit is for each consumer started on the channel from now on; with
        ``for_channel`` it is shared by all the channel's consumers, at once.
        """
        if not isinstance(prefetch_count, int) or not 0 <= prefetch_count <= 65535:
            raise InvalidArgument("prefetch_count", prefetch_count, "an integer from 0 to 65535")
        self._catch_up()
        if for_channel:
            channel.global_prefetch = prefetch_count
            self._dispatch(channel)
        else:
            channel.default_prefetch = prefetch_count

    def flow(self, channel: Channel, active: bool) -> None:
        """Stop or resume deliveries to the channel's consumers."""
        self._catch_up()
        channel.flowing = active
        self._dispatch(channel)

    def _dispatch(self, channel: Channel) -> None:
        """Deliver what the channel has room for, beginning with another consumer each time.

        Why: of a shared limit that is always used up, the room of one settlement would always go to the same queue,
        and the others would starve as long as that one has messages.
        """
        for consumer in channel.next_turn():
            consumer.queue.rota.unpark()
            if consumer.queue.ready.live:
                consumer.queue.dispatch()

    def _give_back(self, channel: Channel, tags: list[int], touched: dict[Queue, None]) -> None:
        for tag in tags:
            held: Held = channel.release(tag)
            held.queue.give_back(held.entry)
            touched[held.queue] = None

    # -- looking in --------------------------------------------------------------------------------------------

    def statistics(self, name: str | None = None) -> dict[str, QueueStatistics]:
        """Return the numbers of one queue (ChannelRefusal 404 if missing) or of all, by name."""
        self._run_due()
        queues = [self.queue(name)] if name is not None else list(self.queues.values())
        return {queue.name: queue.statistics() for queue in queues}

    def peek(self, name: str, limit: int) -> list[Message]:
        """Return up to ``limit`` ready messages in delivery order, leaving them where they are."""
        self._run_due()
        return [entry.message for entry in self.queue(name).peek(limit)]
