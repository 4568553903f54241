"""The lasting part of a virtual host: its exchanges, its queues, the bindings between them, and their timers.

The first of three layers of one class: :class:`Topology` is what exists,
:class:`~transports.engine.publishing.Publishing` lets messages in and dead letters through,
:class:`~transports.engine.broker.Broker` gives them to clients. Why layers and not parts: every operation of a broker
touches the same few tables, and a method call saved on each message counts; a layer knows those below it and none
above.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import count
from typing import Any, NamedTuple

from transports.engine.arguments import QueueArguments, declared_table, parse_arguments
from transports.engine.channel import ClientConnection
from transports.engine.clock import Clock, SystemClock
from transports.engine.dead_letter import Reason, Stranded
from transports.engine.errors import InvalidArgument, access_refused, not_found, precondition_failed, resource_locked
from transports.engine.exchange import EXCHANGE_TYPES, Exchange
from transports.engine.journal import Journal, StoredHost
from transports.engine.message import Message
from transports.engine.queue import NEVER, Queue

__all__ = ["DeclaredQueue", "Topology"]

PREDECLARED = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
}


class DeclaredQueue(NamedTuple):
    """The answer to a queue declaration. message_count: ready messages."""

    name: str
    message_count: int
    consumer_count: int


class Topology:
    """Exchanges, queues and bindings of one virtual host.

    default_arguments: queue arguments that apply where a declaration does not give them (how ``liap-priority``
    makes every queue a priority queue). on_due: called when something becomes due earlier than before.
    on_room: called when a queue that publishers wait for has room. journal: told of all that must outlive the broker.
    """

    def __init__(
        self,
        vhost: str = "/",
        *,
        clock: Clock | None = None,
        default_arguments: Mapping[str, Any] | None = None,
        on_due: Callable[[], None] | None = None,
        on_room: Callable[[], None] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.vhost = vhost
        self.clock: Clock = clock or SystemClock()
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {}
        self._default_arguments = dict(default_arguments or {})
        self._on_due = on_due
        self._on_room = on_room
        self._journal = journal
        self._timers: list[tuple[float, int, Queue]] = []
        self._timer_ids = count()
        for name, kind in PREDECLARED.items():
            self.exchanges[name] = EXCHANGE_TYPES[kind](name, durable=True)

    def dead_letter(self, queue: Queue, message: Message, reason: Reason, kept: Stranded | None = None) -> None:
        """Note a dead letter of a queue (the next layer does)."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Route the dead letters noted so far (the next layer does)."""
        raise NotImplementedError

    # -- exchanges ---------------------------------------------------------------------------------------------

    def declare_exchange(
        self,
        name: str,
        kind: str = "direct",
        *,
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Create an exchange, or check that the existing one is the same.

        Raises ChannelRefusal 404 (passive and missing), 403 (reserved name), 406 (exists with other properties);
        InvalidArgument for an unknown type or argument.
        """
        existing = self.exchanges.get(name)
        if passive:
            if existing is None:
                raise not_found("exchange", name, self.vhost)
            return
        if name == "":
            raise access_refused("operation not permitted on the default exchange")
        if kind not in EXCHANGE_TYPES:
            raise InvalidArgument("exchange type", kind, "one of " + ", ".join(EXCHANGE_TYPES))
        if existing is None:
            if name.startswith("amq."):
                raise access_refused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
            exchange = self.exchanges[name] = EXCHANGE_TYPES[kind](
                name, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments
            )
            if durable and self._journal is not None:
                self._journal.exchange_declared(self.vhost, exchange)
            return
        wanted = {
            "type": kind,
            "durable": bool(durable),
            "auto_delete": bool(auto_delete),
            "internal": bool(internal),
        }
        self._same_or_refuse("exchange", name, {field: getattr(existing, field) for field in wanted}, wanted)
        self._same_or_refuse("exchange", name, existing.arguments, arguments or {})

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange and its bindings; a missing one changes nothing."""
        if name == "" or name in PREDECLARED:
            raise access_refused(f"operation not permitted on the exchange '{name}'")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise precondition_failed(f"exchange '{name}' in vhost '{self.vhost}' in use")
        self._drop_exchange(exchange)

    def _drop_exchange(self, exchange: Exchange) -> None:
        del self.exchanges[exchange.name]
        for binding in exchange.bindings:
            if isinstance(binding.destination, Queue):
                binding.destination.bound_to.discard(exchange)
        for source in list(self.exchanges.values()):
            had = len(source.bindings)
            source.unbind_all(exchange)
            if len(source.bindings) != had:
                self._auto_delete_exchange(source)
        if exchange.durable and self._journal is not None:
            self._journal.exchange_deleted(self.vhost, exchange)

    def _auto_delete_exchange(self, exchange: Exchange) -> None:
        if exchange.auto_delete and not exchange.bindings and self.exchanges.get(exchange.name) is exchange:
            self._drop_exchange(exchange)

    def bind_exchange(
        self, destination: str, source: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Route what ``source`` gets and the key matches on to the exchange ``destination``."""
        target = self._exchange(destination)
        exchange = self._exchange(source)
        if exchange.bind(target, routing_key, arguments) and target.durable:
            self._journal_binding(exchange, target, routing_key, arguments)

    def _journal_binding(
        self,
        source: Exchange,
        target: Queue | Exchange,
        routing_key: str,
        arguments: Mapping[str, Any] | None,
        *,
        exists: bool = True,
    ) -> None:
        """Note that a binding to something that survives is there, or no longer."""
        if source.durable and self._journal is not None:
            self._journal.binding_changed(self.vhost, source, target, routing_key, arguments or {}, exists=exists)

    def unbind_exchange(
        self, destination: str, source: str, routing_key: str = "", arguments: Mapping[str, Any] | None = None
    ) -> None:
        """Remove a binding between exchanges; a missing one changes nothing."""
        exchange, target = self.exchanges.get(source), self.exchanges.get(destination)
        if exchange is not None and target is not None and exchange.unbind(target, routing_key, arguments):
            if target.durable:
                self._journal_binding(exchange, target, routing_key, arguments, exists=False)
            self._auto_delete_exchange(exchange)

    def _exchange(self, name: str) -> Exchange:
        if name == "":
            raise access_refused("operation not permitted on the default exchange")
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise not_found("exchange", name, self.vhost)
        return exchange

    # -- queues ------------------------------------------------------------------------------------------------

    def declare_queue(
        self,
        connection: ClientConnection,
        name: str = "",
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> DeclaredQueue:
        """Create a queue, or check that the existing one is the same; an empty name gets a fresh one.

        Raises ChannelRefusal 404 (passive and missing), 403 (reserved name), 405 (exclusive to another connection),
        406 (exists with other properties); InvalidArgument for what cannot be honoured.
        """
        self._run_due()
        queue = self.queues.get(name) if name else None
        if passive:
            if queue is None:
                raise not_found("queue", name, self.vhost)
            self._check_owner(queue, connection)
        else:
            parsed = parse_arguments({**self._default_arguments, **(arguments or {})})
            if queue is None:
                queue = self._create_queue(connection, name, parsed, durable, exclusive, auto_delete)
            else:
                self._check_owner(queue, connection)
                current = {"durable": queue.durable, "auto_delete": queue.auto_delete}
                wanted = {"durable": bool(durable), "auto_delete": bool(auto_delete)}
                self._same_or_refuse("queue", name, current, wanted)
                if parsed != queue.arguments:
                    self._same_or_refuse("queue", name, declared_table(queue.arguments), declared_table(parsed))
                if bool(exclusive) != (queue.owner is not None):
                    raise resource_locked(
                        f"inequivalent arg 'exclusive' for queue '{name}' in vhost '{self.vhost}': "
                        f"received {_told(bool(exclusive))} but current is {_told(queue.owner is not None)}"
                    )
        queue.touch()
        return DeclaredQueue(queue.name, queue.ready.live, len(queue.rota))

    def _create_queue(
        self,
        connection: ClientConnection,
        name: str,
        arguments: QueueArguments,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
    ) -> Queue:
        if name.startswith("amq."):
            raise access_refused(f"queue name '{name}' contains reserved prefix 'amq.*'")
        name = name or f"amq.gen-{uuid.uuid4().hex}"
        owner = connection if exclusive else None
        queue = Queue(name, self, arguments, durable=bool(durable), auto_delete=bool(auto_delete), owner=owner)
        self.queues[name] = queue
        if owner is not None:
            owner.exclusive_queues.append(queue)
        elif queue.durable and self._journal is not None:
            queue.log = self._journal.queue_declared(self.vhost, queue)
        return queue

    def _same_or_refuse(self, kind: str, name: str, existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Refuse a declaration in RabbitMQ's words, which name the first argument that differs."""
        for argument in {**wanted, **existing}:
            received, current = wanted.get(argument), existing.get(argument)
            if received != current:
                raise precondition_failed(
                    f"inequivalent arg '{argument}' for {kind} '{name}' in vhost '{self.vhost}': "
                    f"received {_told(received)} but current is {_told(current)}"
                )

    def _check_owner(self, queue: Queue, connection: ClientConnection) -> None:
        if queue.owner is not None and queue.owner is not connection:
            raise resource_locked(
                f"cannot obtain exclusive access to locked queue '{queue.name}' in vhost '{self.vhost}': "
                "it belongs to another connection"
            )

    def queue(self, name: str, connection: ClientConnection | None = None) -> Queue:
        """Return a queue; raises ChannelRefusal 404, or 405 when it is exclusive to another connection."""
        queue = self.queues.get(name)
        if queue is None:
            raise not_found("queue", name, self.vhost)
        if connection is not None:
            self._check_owner(queue, connection)
        return queue

    def bind_queue(
        self,
        connection: ClientConnection,
        name: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Route what ``exchange`` gets and the key matches to the queue."""
        queue = self.queue(name, connection)
        source = self._exchange(exchange)
        if source.bind(queue, routing_key, arguments) and queue.log is not None:
            self._journal_binding(source, queue, routing_key, arguments)
        queue.bound_to.add(source)

    def unbind_queue(
        self,
        connection: ClientConnection,
        name: str,
        exchange: str,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove a binding; a missing one changes nothing. The default exchange's cannot be removed (403)."""
        if exchange == "":
            raise access_refused("operation not permitted on the default exchange")
        queue, source = self.queues.get(name), self.exchanges.get(exchange)
        if queue is not None and source is not None:
            self._check_owner(queue, connection)
            if source.unbind(queue, routing_key, arguments):
                if queue.log is not None:
                    self._journal_binding(source, queue, routing_key, arguments, exists=False)
                self._auto_delete_exchange(source)

    def purge_queue(self, connection: ClientConnection, name: str) -> int:
        """Remove the ready messages for good and return how many there were; delayed ones stay (cancel_delayed)."""
        self._run_due()
        return self.queue(name, connection).purge()

    def delete_queue(
        self, connection: ClientConnection, name: str, *, if_unused: bool = False, if_empty: bool = False
    ) -> int:
        """Delete a queue with its messages and return how many were ready; a missing one counts 0.

        Raises ChannelRefusal 406 when it has consumers (if_unused); when it has messages that are ready, delayed, or
        dead letters that it keeps (if_empty).
        """
        self._run_due()
        queue = self.queues.get(name)
        if queue is None:
            return 0
        self._check_owner(queue, connection)
        if if_unused and queue.rota:
            raise precondition_failed(f"queue '{name}' in vhost '{self.vhost}' in use")
        if if_empty and (queue.ready.live or queue.delayed or queue.stranded):
            raise precondition_failed(f"queue '{name}' in vhost '{self.vhost}' not empty")
        ready = queue.ready.live
        self._delete(queue)
        return ready

    def _delete(self, queue: Queue) -> None:
        if queue.deleted:
            return
        queue.deleted = True
        del self.queues[queue.name]
        if queue.owner is not None:
            queue.owner.exclusive_queues.remove(queue)
        if queue.log is not None:
            queue.log.deleted()
        for consumer in queue.rota:
            del consumer.channel.consumers[consumer.tag]
            queue.rota.remove(consumer)
            consumer.channel.sink.cancelled(consumer.channel, consumer)
        for exchange in list(queue.bound_to):
            exchange.unbind_all(queue)
            self._auto_delete_exchange(exchange)
        if queue.awaited:
            self.room(queue)

    # -- after a restart ---------------------------------------------------------------------------------------

    def restore(self, stored: StoredHost) -> None:
        """Take back what a journal kept of this virtual host, which must be empty, and do what fell due meanwhile.

        A queue's ``x-expires`` counts anew from now (RabbitMQ docs, Time-To-Live, Queue TTL).
        """
        for exchange in stored.exchanges:
            self.exchanges[exchange.name] = EXCHANGE_TYPES[exchange.kind](
                exchange.name,
                durable=True,
                auto_delete=exchange.auto_delete,
                internal=exchange.internal,
                arguments=exchange.arguments,
            )
        for kept in stored.queues:
            queue = Queue(kept.name, self, kept.arguments, durable=True, auto_delete=kept.auto_delete, owner=None)
            queue.log = kept.log
            self.queues[kept.name] = queue
        for binding in stored.bindings:
            source = self.exchanges[binding.source]
            if binding.to_queue:
                queue = self.queues[binding.destination]
                source.bind(queue, binding.routing_key, binding.arguments)
                queue.bound_to.add(source)
            else:
                source.bind(self.exchanges[binding.destination], binding.routing_key, binding.arguments)
        for kept in stored.queues:
            self.queues[kept.name].reinstate(kept.entries, kept.stranded, kept.seen)
        self._settle()
        self._run_due()

    # -- time --------------------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return the clock reading at which :meth:`run_due` is needed, or None."""
        timers = self._timers
        while timers:
            due, _, queue = timers[0]
            if queue.scheduled == due and not queue.deleted:
                return due
            heappop(timers)
        return None

    def run_due(self) -> None:
        """Do everything that is due by now."""
        self._run_due()

    def _catch_up(self) -> None:
        """Run what is due, if anything is (the cheap form for the hot path)."""
        timers = self._timers
        if timers and timers[0][0] <= self.clock.now():
            self._run_due()

    def _run_due(self) -> None:
        now = self.clock.now()
        timers = self._timers
        while timers and timers[0][0] <= now:
            due, _, queue = heappop(timers)
            if queue.deleted or queue.scheduled != due:
                continue
            queue.scheduled = NEVER
            if queue.idle_too_long(now):
                self._delete(queue)
                continue
            queue.run_due(now)
            following = queue.next_due()
            if following != NEVER:
                self.timer_changed(queue, following)
            self._settle()

    # -- what the queues ask of their broker -------------------------------------------------------------------

    def timer_changed(self, queue: Queue, due: float) -> None:
        """Run the queue's timers at ``due`` at the latest."""
        if due >= queue.scheduled:
            return
        queue.scheduled = due
        timers = self._timers
        earlier = not timers or due < timers[0][0]
        heappush(timers, (due, next(self._timer_ids), queue))
        if earlier and self._on_due is not None:
            self._on_due()

    def room(self, queue: Queue) -> None:
        """Tell the owner that publishers waiting for this queue may try again."""
        if self._on_room is not None:
            self._on_room()


def _told(value: Any) -> str:
    return "none" if value is None else f"'{str(value).lower() if isinstance(value, bool) else value}'"
