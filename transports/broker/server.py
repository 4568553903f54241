"""The host of the served broker: engine, clients, time.

One event loop does everything. A wake-up takes what has come in from one client, lets the engine work, and ends with
:meth:`BrokerServer.flush`: first the journal (one write for all of it), then one write to each client that is owed
something. So a message is delivered within the wake-up that brought it, and a burst costs few system calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from transports.broker.durability import Durability
from transports.broker.journal import FileJournal
from transports.broker.publishing import Publisher
from transports.broker.session import Session
from transports.engine import Broker, Clock, SystemClock
from transports.engine.topology import PREDECLARED
from transports.wire.frames import DEFAULT_FRAME_MAX

__all__ = ["BrokerServer"]

logger = logging.getLogger("transports.broker")

READ_BYTES = 256 * 1024


class BrokerServer:
    """Serves virtual hosts to sessions; listeners make sessions by :meth:`session`. Belongs to one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Clock | None = None,
        frame_max: int = DEFAULT_FRAME_MAX,
        journal: FileJournal | None = None,
        idle_exit: float | None = None,
        on_idle: Callable[[], None] | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
        handshake_seconds: float = 10.0,
        frame_seconds: float = 60.0,
    ) -> None:
        """Take up what the journal has.

        idle_exit: seconds without any client after which ``on_idle`` is called; None for never. on_failure: called when
        the journal can be written no more; the server says nothing to anybody from then on, and is to be closed.
        handshake_seconds: until a client must have greeted. frame_seconds: until a frame must have come in whole.
        """
        self.loop = loop
        self.clock: Clock = clock or SystemClock()
        self.frame_max = frame_max
        self.handshake_seconds = handshake_seconds
        self.frame_seconds = frame_seconds
        self.farewell_seconds = 2.0
        self.journal = journal
        self._durability = Durability(loop, journal, on_failure or _ignore) if journal is not None else None
        self.brokers: dict[str, Broker] = {}
        self.sessions: dict[Session, None] = {}
        self.writing: list[Session] = []
        self.waiting_publishers: dict[Publisher, None] = {}
        self.read_buffer = bytearray(READ_BYTES)
        self._started = time.time()
        self._served = 0
        self._unroutable = 0  # of virtual hosts that were let go
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = float("inf")
        self._due_changed = False
        self._room = False
        self._idle_exit = idle_exit
        self._on_idle = on_idle
        self._idle_timer: asyncio.TimerHandle | None = None
        if journal is not None:
            self.brokers.update(journal.recover(self._new_broker))
            self._due_changed = True
            self.flush()
        self.clients_changed()

    # -- clients -----------------------------------------------------------------------------------------------

    def session(self, where: str, token: str | None = None) -> Session:
        """Return the protocol of a client that has just connected. where: the socket it came by, for people."""
        self._served += 1
        return Session(self, token=token, where=where)

    def broker(self, vhost: str) -> Broker:
        """Return the engine of a virtual host, made when first asked for."""
        broker = self.brokers.get(vhost)
        if broker is None:
            broker = self.brokers[vhost] = self._new_broker(vhost)
        return broker

    def forget_if_empty(self, broker: Broker) -> None:
        """Let go of a virtual host in which nobody and nothing is any more."""
        if not broker.connections and not broker.queues and len(broker.exchanges) == len(PREDECLARED):
            self._unroutable += broker.unroutable
            self.brokers.pop(broker.vhost, None)

    def _new_broker(self, vhost: str) -> Broker:
        return Broker(vhost, clock=self.clock, journal=self.journal, on_due=self._note_due, on_room=self._note_room)

    def clients_changed(self) -> None:
        """Start or stop counting the time without clients."""
        if self.sessions:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
                self._idle_timer = None
        elif self._idle_exit is not None and self._on_idle is not None and self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self._idle_exit, self._on_idle)

    def identity(self) -> dict[str, Any]:
        """Return what a client is told when it comes: {"pid"}."""
        return {"pid": os.getpid()}

    def statistics(self) -> dict[str, Any]:
        """Return {pid, uptime, clients, clients_served, vhosts, unroutable, journal}.

        uptime: seconds. unroutable: publishes for which no queue was found. journal: JournalStatistics, or None.
        """
        return {
            "pid": os.getpid(),
            "uptime": time.time() - self._started,
            "clients": len(self.sessions),
            "clients_served": self._served,
            "vhosts": sorted(self.brokers),
            "unroutable": self._unroutable + sum(broker.unroutable for broker in self.brokers.values()),
            "journal": None if self.journal is None else asdict(self.journal.statistics()),
        }

    # -- the end of a wake-up ----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Let waiting publishers try again, then write what everybody is owed, and set the timer."""
        while self._room:
            self._room = False
            for publisher in list(self.waiting_publishers):
                publisher.try_again()
        durability = self._durability
        while True:  # letting go of a client that was held back delivers more
            if durability is not None:
                durability.commit()  # also where nobody is owed a word, as after acknowledgements
            writing = self.writing
            if not writing:
                break
            self.writing = []
            for session in writing:
                settled = session.take_settled()
                session.write_out(settled if durability is None else durability.release(session, settled))
        if self._due_changed:
            self._due_changed = False
            self._set_timer()

    # -- time --------------------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return when an engine has something to do next (clock reading), or None."""
        return min((due for one in self.brokers.values() if (due := one.next_due()) is not None), default=None)

    def run_due(self) -> None:
        """Do what is due in all engines, and send what came of it."""
        self._timer = None
        self._timer_due = float("inf")
        self._due_changed = True
        for broker in self.brokers.values():
            try:
                broker.run_due()
            except Exception:
                logger.exception("the broker failed at what was due in virtual host %r", broker.vhost)
        self.flush()

    def _note_due(self) -> None:
        self._due_changed = True

    def _note_room(self) -> None:
        self._room = True

    def _set_timer(self) -> None:
        if not isinstance(self.clock, SystemClock):
            return  # whoever moves the clock calls run_due
        due = self.next_due()
        if due is None or due >= self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.loop.call_at(due, self.run_due)

    # -- the end -----------------------------------------------------------------------------------------------

    async def close(self, reason: str) -> None:
        """Say goodbye to all clients, and return when they are gone and what they held is back in the queues."""
        if self._timer is not None:
            self._timer.cancel()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._on_idle = None
        self.flush()
        for session in list(self.sessions):
            session.close(reason)
        deadline = self.loop.time() + self.farewell_seconds + 1.0
        while self.sessions and self.loop.time() < deadline:
            await asyncio.sleep(0.005)
        if (lost := self._unkept()) > 0:
            logger.warning(
                "%d messages go with this broker: %s",
                lost,
                "it has no journal"
                if self.journal is None
                else "they are transient, or in queues that are not durable",
            )
        if self._durability is not None:
            self._durability.close()

    def _unkept(self) -> int:
        """Return how many messages no journal has."""
        queues = [queue for broker in self.brokers.values() for queue in broker.queues.values()]
        there = sum(queue.ready.live + queue.unacked + queue.delayed + len(queue.stranded) for queue in queues)
        return there - (0 if self.journal is None else self.journal.statistics().live_messages)


def _ignore(error: BaseException) -> None:
    """Whoever gave no one to tell finds it in the log."""
