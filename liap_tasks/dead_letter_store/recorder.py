"""The recorder: takes dead letters from their queue and puts them into the store, on a thread of its own.

First safely in the store, then acknowledged: a batch is one transaction and one acknowledgement. While the store
cannot be reached nothing is consumed, so letters wait in their queue; while the broker cannot be reached there is
nothing to do. Each is said once when it begins and once when it is over; the store's is over when a letter has been
recorded, for one that is full or read-only still answers questions.

Why a thread and a connection of its own: the worker's own loop must not wait for a database, and in the prefork pool
that loop is not ours. Why it goes on until the queue is empty when the worker stops: an in-process broker ends with
its process, and the last letters would end with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from celery.utils.log import get_logger
from kombu.exceptions import KombuError
from kombu.transport.virtual import Channel as VirtualChannel

from liap_tasks.configuration import dead_letter_queue
from liap_tasks.dead_letter_store.letter import Letter
from liap_tasks.dead_letter_store.outage import Outage
from liap_tasks.dead_letter_store.reading import LetterReader
from liap_tasks.dead_letter_store.store import STORE_ERRORS, DeadLetterStore
from liap_tasks.dead_letters import HEADER

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["Recorder"]

logger = get_logger("liap_tasks.dead_letter_store")

BATCH = 500
LINGER = 0.05  # seconds that the first letter of a batch waits for others
DRAIN_SECONDS = 0.05  # how long a stop may go unnoticed
LAST_SECONDS = 3.0  # for what is still in the queue when the worker stops

# What is in a letter is more than the database, or a column, or what writes it there can take.
REFUSALS = (
    sa.exc.DataError,
    sa.exc.IntegrityError,
    sa.exc.ProgrammingError,
    ValueError,
    TypeError,
    ArithmeticError,
    RecursionError,
)


class Recorder(threading.Thread):
    """Record dead letters until :meth:`stop`. on_scheduled: called when one is to be replayed by itself."""

    def __init__(
        self, app: LiapApp, store: DeadLetterStore, *, on_scheduled: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(name="dead-letter-recorder", daemon=True)
        self.app = app
        self.store = store
        self._reader = LetterReader(app.dead_letter_policy_of, app.event_exchanges, store.clock)
        self._on_scheduled = on_scheduled
        self._stopping = threading.Event()
        self._store_outage = Outage("the dead-letter store", "dead letters wait in their queue", self._stopping)
        self._broker_outage = Outage("the broker", "no dead letters are recorded", self._stopping)
        self._failure = Outage("recording dead letters", "they wait in their queue", self._stopping, verb="fails")
        self._batch: list[Any] = []

    def stop(self, timeout: float) -> None:
        """Record what is still in the queue and end; what cannot be recorded in time stays there."""
        self._stopping.set()
        self.join(timeout)

    def run(self) -> None:
        """Called in the thread."""
        probe = self.app.connection_for_read()
        broker_errors: tuple[type[BaseException], ...] = (
            KombuError,
            *probe.recoverable_connection_errors,
            *probe.recoverable_channel_errors,
        )
        while not self._stopping.is_set():
            try:
                if self._store_outage.lasts:
                    self.store.ping()
                self._consume()
            except STORE_ERRORS as error:
                self._store_outage.wait(error)
            except broker_errors as error:
                self._broker_outage.wait(error)
            except Exception as error:  # noqa: BLE001 - a thread that ends would leave every letter lying, unsaid
                self._failure.wait(error)

    def _consume(self) -> None:
        """Record until the worker stops, or an error ends the connection: what is not acknowledged goes back."""
        self._batch = []
        with self.app.connection_for_read(heartbeat=self.app.conf.broker_heartbeat) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
            channel: Any = connection.channel()
            consumer = connection.Consumer(
                dead_letter_queue(), channel=channel, on_message=self._take, prefetch_count=BATCH
            )
            consumer.on_decode_error = self._take
            with consumer:
                self._broker_outage.over()
                beat = _Heartbeat(connection)
                while not self._stopping.is_set():
                    self._fill(connection, DRAIN_SECONDS)
                    self._record(channel)
                    beat.check()
                deadline = time.monotonic() + LAST_SECONDS
                while time.monotonic() < deadline and self._fill(connection, 0.01):
                    self._record(channel)

    def _take(self, message: Any, _: Any = None) -> None:
        """Called for each message, with an error for one that kombu cannot read."""
        self._batch.append(message)

    def _fill(self, connection: Any, wait: float) -> bool:
        """Collect a batch: wait for a first letter, then a moment for more. Tells whether there is any."""
        deadline = time.monotonic() + wait
        while len(self._batch) < BATCH:
            began_empty = not self._batch
            try:
                connection.drain_events(timeout=max(0.001, deadline - time.monotonic()))
            except TimeoutError:
                break
            now = time.monotonic()
            if began_empty and self._batch:
                deadline = now + LINGER
            elif now >= deadline:
                break
        return bool(self._batch)

    def _record(self, channel: Any) -> None:
        if not self._batch:
            return
        messages, self._batch = self._batch, []
        self._release_locks(messages)
        letters = [self._reader.letter(message) for message in messages]
        try:
            self.store.record(letters)
        except REFUSALS as error:
            logger.warning("a batch of dead letters was refused, each is tried alone: %r", error)
            for letter in letters:
                self._record_alone(letter)
        self._store_outage.over()
        if isinstance(channel, VirtualChannel):  # these acknowledge one by one, whatever they are asked
            for message in messages:
                message.ack()
        else:
            messages[-1].ack(multiple=True)
        self._failure.over()
        if any(letter.due_at is not None for letter in letters):
            self._on_scheduled()

    def _release_locks(self, messages: list[Any]) -> None:
        """Free the locks of unique calls that died in the broker: nobody else has seen them end.

        Before they are recorded, or a replay might run already and lose the lock that it has taken anew.
        """
        for message in messages:
            headers = message.headers or {}
            if HEADER not in headers and not self.app.unique_locks.release_message(headers):
                return

    def _record_alone(self, letter: Letter) -> None:
        """Record one letter of a batch that was refused; if it is this one, keep what can be kept of it."""
        try:
            self.store.record([letter])
        except REFUSALS as error:
            logger.warning("dead letter %s is kept without its headers, texts and numbers: %r", letter.id, error)
            self.store.record([self._bare(letter, f"could not be stored whole: {type(error).__name__}")])

    def _bare(self, letter: Letter, detail: str) -> Letter:
        """Return what any database can hold of a letter: its names and its body; it waits for somebody."""
        now = self.store.clock()
        return Letter(
            id=letter.id,
            reason=letter.reason,
            detail=detail,
            task=letter.task,
            task_id=letter.task_id,
            queue=letter.queue,
            exchange=letter.exchange,
            routing_key=letter.routing_key,
            exception=letter.exception,
            content_type=letter.content_type,
            content_encoding=letter.content_encoding,
            body=letter.body,
            died_at=now,
            expires_at=now + self.app.dead_letter_policy_of(letter.task).ttl_seconds,
        )


class _Heartbeat:
    """Send heartbeats where the transport has them."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        interval = connection.get_heartbeat_interval() if connection.supports_heartbeats else 0
        self._every = interval / 2 if interval else None
        self._next = time.monotonic()

    def check(self) -> None:
        """Send one if it is time; raises when the broker's own have stopped."""
        if self._every is not None and time.monotonic() >= self._next:
            self._connection.heartbeat_check(rate=2)
            self._next = time.monotonic() + self._every
