"""A broker with a journal on a clock that tests advance, which can be killed and comes back."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.transports.virtual_broker import RecordingSink
from transports import VirtualClock
from transports.broker.journal import FileJournal
from transports.engine import Broker, Channel, Entry
from transports.engine.message import DELAYED, UNACKED
from transports.engine.queue import Queue
from transports.wire.carried import CarriedMessage
from transports.wire.content import pack_content

__all__ = ["Snapshot", "StoredBroker", "carried"]

Snapshot = dict[str, Any]


def carried(
    body: bytes,
    key: str,
    *,
    exchange: str = "",
    priority: int | None = None,
    ttl_ms: int | None = None,
    persistent: bool = True,
    **headers: Any,
) -> CarriedMessage:
    """Return a message as a client of the served broker sends it; ``x_delay=1`` is the header ``x-delay``."""
    rules = {"x-" + name[2:].replace("_", "-"): value for name, value in headers.items() if value is not None}
    properties: dict[str, Any] = {"delivery_mode": 2 if persistent else 1}
    if priority is not None:
        properties["priority"] = priority
    if ttl_ms is not None:
        properties["expiration"] = str(ttl_ms)
    return CarriedMessage(
        body,
        pack_content(properties, {"id": body.decode("latin-1")}),
        exchange,
        key,
        priority=priority,
        expiration=properties.get("expiration"),
        rules=rules or None,
        persistent=persistent,
    )


class PausedBroker(Broker):
    """An engine in which nothing falls due until somebody says so."""

    paused = False

    def _run_due(self) -> None:
        if not self.paused:
            super()._run_due()


class StoredBroker:
    """An engine, its journal, its clock and one connection.

    paused: what has fallen due while it was away does not happen before :meth:`go_on`.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: VirtualClock | None = None,
        family: list[StoredBroker] | None = None,
        paused: bool = False,
        **options: Any,
    ) -> None:
        self.path = path
        self.family = [] if family is None else family  # this one, and those that came back from it
        self.family.append(self)
        self.options = options
        self.paused = paused
        self.clock = clock or VirtualClock()
        self.journal = FileJournal(path, clock=self.clock, **options)
        self.hosts = self.journal.recover(self.make)
        self.engine = self.hosts.get("/") or self.make("/")
        self.connection = self.engine.connect()
        self.sink = RecordingSink()
        self.channel: Channel = self.engine.open_channel(self.connection, self.sink)

    def make(self, vhost: str) -> Broker:
        """Return an empty broker on the journal."""
        broker = PausedBroker(vhost, clock=self.clock, journal=self.journal)
        broker.paused = self.paused
        self.clock.attach(broker)
        return broker

    def go_on(self) -> None:
        """Let happen what has fallen due."""
        self.paused = False
        for broker in (self.engine, *self.hosts.values()):
            assert isinstance(broker, PausedBroker)
            broker.paused = False
            broker.run_due()

    # -- words for tests ---------------------------------------------------------------------------------------

    def declare(self, name: str, *, durable: bool = True, auto_delete: bool = False, **arguments: Any) -> None:
        """Declare a queue, durable if not said otherwise; ``max_length=3`` means ``x-max-length: 3``."""
        table = {"x-" + key.replace("_", "-"): value for key, value in arguments.items()}
        self.engine.declare_queue(self.connection, name, durable=durable, auto_delete=auto_delete, arguments=table)

    def publish(self, key: str, *bodies: bytes, **options: Any) -> None:
        """Publish messages, by default straight to a queue."""
        for body in bodies:
            self.engine.publish(carried(body, key, **options))

    def get(self, name: str, *, no_ack: bool = False) -> tuple[int, Entry]:
        """Take the next message."""
        got = self.engine.get(self.channel, name, no_ack=no_ack)
        assert got is not None
        return got.delivery_tag, got.entry

    def take(self, name: str, count: int) -> list[bytes]:
        """Take and acknowledge messages; return their bodies."""
        bodies = []
        for _ in range(count):
            tag, entry = self.get(name)
            bodies.append(entry.message.body)
            self.engine.ack(self.channel, tag)
        return bodies

    def bodies(self, name: str) -> list[bytes]:
        """Return the ready bodies in the order in which they would leave."""
        return [message.body for message in self.engine.peek(name, 10**6)]

    def files(self) -> list[Path]:
        """Return the files of the journal when the background thread has nothing to do, oldest first."""
        self.settle()
        return sorted(self.path.glob("*.log"))

    def settle(self) -> None:
        """Wait until the background thread has nothing to do."""
        self.journal._keeper.submit(lambda: None).result(60)

    def compact(self) -> None:
        """Compact until there is nothing more to do."""
        while self.journal.compact_step(budget=1):
            pass
        self.journal.compact_step()
        self.settle()

    # -- ends --------------------------------------------------------------------------------------------------

    def killed(self, *, down: float = 0.0, cut: int | None = None, **options: Any) -> StoredBroker:
        """Return the broker that comes back from a copy of the files as they are now, ``down`` seconds later.

        cut: the newest file is only that long. What was not committed is in no file, as after a kill.
        """
        self.settle()
        copy = Path(tempfile.mkdtemp(dir=self.path.parent))
        shutil.copytree(self.path, copy, dirs_exist_ok=True)
        if cut is not None:
            newest = max(copy.glob("*.log"))
            newest.write_bytes(newest.read_bytes()[:cut])
        clock = VirtualClock(start=self.clock.time() + down)
        return StoredBroker(copy, clock=clock, family=self.family, **{**self.options, **options})

    def restarted(self, **options: Any) -> StoredBroker:
        """Return the broker that comes back after an orderly end."""
        self.engine.close_connection(self.connection)
        self.journal.close()
        clock = VirtualClock(start=self.clock.time())
        return StoredBroker(self.path, clock=clock, family=self.family, **{**self.options, **options})

    def close(self) -> None:
        """End it and all that came back from it."""
        for broker in self.family:
            broker.journal.close()

    # -- what must come back -----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return all that would have to be there after a kill, read from the engine itself."""
        offset = self.clock.time() - self.clock.now()
        held = [one for channel in self.connection.channels for one in channel.held.values()]
        queues = {}
        for name, queue in self.engine.queues.items():
            if queue.durable and queue.owner is None:
                entries = [*queue.ready, *queue.delays.entries(), *(one.entry for one in held if one.queue is queue)]
                queues[name] = {
                    "arguments": queue.arguments,
                    "auto_delete": queue.auto_delete,
                    "entries": sorted(_entry(entry, offset) for entry in entries if entry.message.persistent),
                    # The order in which they are tried again is no promise.
                    "stranded": sorted(
                        (letter.message.body, letter.reason, letter.target or "")
                        for letter in queue.stranded
                        if letter.message.persistent
                    ),
                }
        exchanges = {}
        for name, exchange in self.engine.exchanges.items():
            if exchange.durable:
                exchanges[name] = (
                    exchange.type,
                    exchange.auto_delete,
                    exchange.internal,
                    exchange.arguments,
                    sorted(
                        (type(one.destination) is Queue, one.destination.name, one.routing_key, repr(one.arguments))
                        for one in exchange.bindings
                        if one.destination.durable and getattr(one.destination, "owner", None) is None
                    ),
                )
        return {"queues": queues, "exchanges": exchanges}


def _entry(entry: Entry, offset: float) -> tuple[Any, ...]:
    message = entry.message
    delayed = entry.state == DELAYED
    time = entry.due if delayed else entry.expires_at
    return (
        entry.seq,
        message.body,
        message.priority,
        message.ttl,
        message.exchange,
        message.routing_key,
        message.headers,
        delayed,
        None if time is None else round(time + offset, 3),
        round(entry.since + offset, 3),
        entry.returns,
        entry.redelivered or entry.state == UNACKED,
    )
