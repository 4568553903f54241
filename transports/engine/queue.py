"""One queue: what is in it, what may come in, what goes out and when.

The rules of RabbitMQ's classic queues (docs: Queues, Time-To-Live, Queue Length Limit, Priority), with three
additions: expiry is eager (an expired message leaves at its time, not when it reaches the head), a message may be
held until its delay has passed, and a full queue may make its publishers wait or drop its lowest priority.

An entry is in exactly one place: ready (in ``ready``), delayed (in ``delays``), unacknowledged (in a channel's
hands) or gone. Leaving for good always goes through :meth:`_leave`, which counts it and passes dead letters on.

Order: position is the sequence number given when the message became ready. A message that comes back keeps it.
A delayed message gets it when its delay has passed, and its TTL starts then: a task delayed for ten minutes is not
dead on arrival in a queue with a TTL of five.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol

from transports.engine.arguments import QueueArguments
from transports.engine.channel import ClientConnection
from transports.engine.clock import Clock
from transports.engine.consumer import Rota
from transports.engine.dead_letter import Reason, Stranded
from transports.engine.due import DueHeap
from transports.engine.errors import QueueFull
from transports.engine.exchange import Exchange
from transports.engine.groups import GroupStore
from transports.engine.journal import QueueLog
from transports.engine.message import DELAYED, GONE, READY, UNACKED, Entry, Message
from transports.engine.ready import FifoStore, PriorityStore, ReadyStore
from transports.engine.statistics import QueueCounters, QueueStatistics

__all__ = ["Queue", "QueueHost"]

NEVER = float("inf")
SETTLED = Message(b"", {}, None, "", "")
MIN_RETRY_AFTER = 0.1
STRANDED_RETRY = 1.0
GROUPED_STEP = 2**20  # room between the numbers of two messages for those that go to the front of a group


class QueueHost(Protocol):
    """What a queue asks of its broker."""

    clock: Clock

    def dead_letter(self, queue: Queue, message: Message, reason: Reason, kept: Stranded | None = None) -> None:
        """Publish a message to the queue's dead-letter exchange when the current operation is done.

        kept: what the queue has kept it as, if this is not the first try; with a target it is meant for that one.
        """

    def timer_changed(self, queue: Queue, due: float) -> None:
        """Call :meth:`Queue.run_due` at ``due`` at the latest."""

    def room(self, queue: Queue) -> None:
        """Wake publishers that wait for room in the queue."""


class Queue:
    """A queue of one virtual host. Not thread-safe: its broker's owner sees to that.

    log: where it writes what must outlive the broker; None for a queue that does not survive.
    """

    def __init__(
        self,
        name: str,
        host: QueueHost,
        arguments: QueueArguments,
        *,
        durable: bool,
        auto_delete: bool,
        owner: ClientConnection | None,
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.deleted = False
        self.counters = QueueCounters()
        self.rota = Rota(arguments.single_active_consumer)
        self.bound_to: set[Exchange] = set()
        plain = (
            PriorityStore(arguments.max_priority, arguments.priority_aging)
            if arguments.max_priority is not None
            else FifoStore()
        )
        self.groups = GroupStore(plain, arguments.max_priority or 0) if arguments.message_groups else None
        self.ready: ReadyStore = self.groups or plain
        self.unacked = 0
        self.delayed = 0
        self.ready_bytes = 0
        self.delayed_bytes = 0
        self.bytes = 0
        self.consumed = False  # it has had a consumer
        self.awaited = 0  # publishers waiting for room
        self.scheduled = NEVER  # when the broker will call run_due
        self.log: QueueLog | None = None
        self.stranded: list[Stranded] = []
        self.expiries = DueHeap(lambda entry, due: entry.state == READY and entry.expires_at == due)
        self.delays = DueHeap(lambda entry, due: entry.state == DELAYED and entry.due == due)
        self._host = host
        self._clock = host.clock
        self._next_seq = 0
        self._step = GROUPED_STEP if arguments.message_groups else 1
        self._idle_until = NEVER
        self._stranded_until = NEVER
        self._seen: dict[str, float] = {}
        self._drops = arguments.overflow in ("drop-head", "drop-lowest")
        self._bounded = arguments.max_length is not None or arguments.max_length_bytes is not None
        self._refuses = self._bounded and not self._drops
        self.touch()

    # -- coming in ---------------------------------------------------------------------------------------------

    def refuses(self, message: Message) -> bool:
        """Tell whether the queue is full for this message and its overflow rule is not to drop another.

        Delayed messages count: what was accepted has its place when it comes due.
        """
        if not self._refuses:
            return False
        arguments = self.arguments
        if arguments.max_length is not None and self.ready.live + self.delayed >= arguments.max_length:
            return True
        if arguments.max_length_bytes is None:
            return False
        return self.ready_bytes + self.delayed_bytes + message.size > arguments.max_length_bytes

    def full(self) -> QueueFull:
        """Return the error for a refused publisher, counting the refusal.

        retry_after: seconds until the oldest ready message expires if it has a TTL, at least 0.1.
        """
        self.counters.refused += 1
        due = self.expiries.next_due()
        wait = MIN_RETRY_AFTER if due is None else max(MIN_RETRY_AFTER, due - self._clock.now())
        arguments = self.arguments
        bound = arguments.max_length if arguments.max_length is not None else arguments.max_length_bytes
        return QueueFull(self.name, bound or 0, wait)

    def refuse(self, message: Message) -> bool:
        """Pass a refused message to the dead-letter exchange where the overflow rule says so; tell whether it did."""
        if self.arguments.overflow != "reject-publish-dlx" or self.arguments.dead_letter_exchange is None:
            return False
        self.counters.dead_lettered += 1
        self._host.dead_letter(self, message, "maxlen")
        return True

    def enqueue(self, message: Message, now: float) -> None:
        """Take a message in. Bounds that refuse are checked before, by :meth:`refuses`."""
        if self.arguments.deduplication_window is not None and self._is_duplicate(message, now):
            self.counters.deduplicated += 1
            return
        self.counters.enqueued += 1
        self.bytes += message.size
        self._next_seq = seq = self._next_seq + self._step
        if message.delay:
            entry = Entry(message, seq, now)  # the number orders those that come due together
            entry.state = DELAYED
            self.delayed += 1
            self.delayed_bytes += message.size
            if self.groups is not None:
                self.groups.hold_back(entry)
            self._delay_until(entry, now + message.delay)
            if self.log is not None and message.persistent:
                self.log.entered(entry, None)
            return
        self._make_ready(Entry(message, seq, now), now)

    def _is_duplicate(self, message: Message, now: float) -> bool:
        identity = message.header("x-deduplication-id")
        if identity is None:
            return False
        seen = self._seen
        while seen and next(iter(seen.values())) <= now:
            del seen[next(iter(seen))]
        if str(identity) in seen:
            return True
        seen[str(identity)] = now + (self.arguments.deduplication_window or 0.0)
        return False

    def _make_ready(self, entry: Entry, now: float) -> None:
        message = entry.message
        ttl = message.ttl
        queue_ttl = self.arguments.message_ttl
        if queue_ttl is not None and (ttl is None or queue_ttl < ttl):
            ttl = queue_ttl
        self.ready.push(entry)
        self.ready_bytes += message.size
        if self.log is not None:  # before anybody can take it
            if entry.stored:
                self.log.became_ready(entry, None if ttl is None else now + ttl)
            elif message.persistent:
                self.log.entered(entry, None if ttl is None else now + ttl)
        if self.rota:
            self.dispatch()
        if ttl is not None:
            entry.expires_at = now + ttl
            if entry.state == READY:
                if ttl <= 0:
                    self._expire(entry)
                else:
                    self.expiries.push(entry.expires_at, entry)
                    if entry.expires_at < self.scheduled:
                        self._host.timer_changed(self, entry.expires_at)
        if self._bounded and self._drops:
            self.trim()

    def _delay_until(self, entry: Entry, due: float) -> None:
        entry.due = due
        self.delays.push(due, entry)
        if due < self.scheduled:
            self._host.timer_changed(self, due)

    def trim(self) -> None:
        """Drop messages until the bounds hold again, where the overflow rule is to drop.

        drop-head drops what would be delivered next (in a priority queue that is the highest priority: RabbitMQ
        docs, Priority, "Interaction with Other Features"); drop-lowest the oldest of the lowest priority.
        """
        if not self._drops:
            return
        arguments = self.arguments
        ready = self.ready
        while ready.live and (
            (arguments.max_length is not None and ready.live > arguments.max_length)
            or (arguments.max_length_bytes is not None and self.ready_bytes > arguments.max_length_bytes)
        ):
            entry = ready.drop_head() if arguments.overflow == "drop-head" else ready.drop_lowest()
            if entry is None:
                return
            entry.state = GONE
            self._left_ready(entry)
            self.counters.dropped += 1
            self._leave(entry, "maxlen")

    # -- going out ---------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Push ready messages to consumers as long as one has credit."""
        ready, rota = self.ready, self.rota
        if rota.parked:
            rota.unpark()
        while ready.live > ready.waiting:
            consumer = rota.next()
            if consumer is None:
                return
            entry = self.take(consumer.no_ack)
            if entry is None:
                return
            channel = consumer.channel
            if consumer.no_ack:
                tag = channel.next_tag
                channel.next_tag = tag + 1
            else:
                tag = channel.hold(entry, self, consumer)
            channel.sink.deliver(channel, consumer, tag, entry)

    def take(self, no_ack: bool = False) -> Entry | None:
        """Remove the next ready entry for delivery; with ``no_ack`` it is gone for good at once."""
        entry = self.ready.pop()
        if entry is None:
            return None
        entry.state = GONE if no_ack else UNACKED
        self._left_ready(entry)
        self.counters.delivered += 1
        if no_ack:
            self._release(entry)
            self.bytes -= entry.message.size
            self.counters.acknowledged += 1
            if entry.stored and self.log is not None:
                self.log.left(entry)
        else:
            self.unacked += 1
            if entry.stored and self.log is not None:
                self.log.delivered(entry)
        return entry

    def _left_ready(self, entry: Entry) -> None:
        # The entry's state says so already: the heap must not take its pair for one that still waits.
        self.ready_bytes -= entry.message.size
        if entry.expires_at is not None:
            self.expiries.left_early()
        if self.awaited:
            self._host.room(self)

    def _release(self, entry: Entry) -> None:
        """Let the group of an entry that is settled or cancelled go on; the caller dispatches when it is done."""
        if self.groups is not None:
            self.groups.release(entry)

    def acknowledge(self, entry: Entry) -> None:
        """Settle a delivered entry as done; where there are groups the caller calls :meth:`dispatch`."""
        self.unacked -= 1
        if self.groups is not None:
            self.groups.release(entry)
        self.bytes -= entry.message.size
        entry.state = GONE
        entry.message = SETTLED
        self.counters.acknowledged += 1
        if entry.stored and self.log is not None:
            self.log.left(entry)

    def reject(self, entry: Entry) -> None:
        """Settle a delivered entry as refused by its consumer: a dead letter where the queue has an exchange for it.

        Where there are groups the caller calls :meth:`dispatch`.
        """
        self.unacked -= 1
        self._release(entry)
        self.counters.rejected += 1
        self._leave(entry, "rejected")

    def give_back(self, entry: Entry) -> None:
        """Put a delivered entry back in its place, marked redelivered; over the delivery limit it leaves instead.

        The caller calls :meth:`settle_returns` when all that come back together are back.
        """
        self.unacked -= 1
        if self.deleted:
            entry.state = GONE
            return
        entry.returns += 1
        entry.redelivered = True
        limit = self.arguments.delivery_limit
        if limit is not None and entry.returns > limit:
            self._release(entry)
            self.counters.dropped += 1
            self._leave(entry, "delivery_limit")
            return
        self.counters.requeued += 1
        if entry.stored and self.log is not None:
            self.log.returned(entry)
        self._restore(entry)

    def undeliver(self, entry: Entry, *, settled: bool = False) -> None:
        """Put back an entry that its consumer never saw, as if it had not been delivered.

        settled: it was delivered without acknowledgement, so it counts as done already.
        """
        if settled:
            self.counters.acknowledged -= 1
            self.bytes += entry.message.size
        else:
            self.unacked -= 1
        if self.deleted:
            entry.state = GONE
            return
        self.counters.delivered -= 1
        if self.log is not None:
            if entry.stored:
                self.log.undelivered(entry)
            elif entry.message.persistent:  # it had left for good
                self.log.entered(entry, entry.expires_at, again=True)
        self._restore(entry)

    def _restore(self, entry: Entry) -> None:
        entry.state = READY
        self.ready.restore(entry)
        self.ready_bytes += entry.message.size
        expires_at = entry.expires_at
        if expires_at is not None:
            if expires_at <= self._clock.now():
                self._expire(entry)
                return
            self.expiries.push(expires_at, entry)
            if expires_at < self.scheduled:
                self._host.timer_changed(self, expires_at)

    def settle_returns(self) -> None:
        """Deliver and trim after entries have come back."""
        if self.rota:
            self.dispatch()
        if self._bounded and self._drops:
            self.trim()

    def _expire(self, entry: Entry) -> None:
        entry.state = GONE
        self.ready.forget(entry)
        self.ready_bytes -= entry.message.size
        self.counters.expired += 1
        self._leave(entry, "expired")
        if self.awaited:
            self._host.room(self)

    def _leave(self, entry: Entry, reason: Reason) -> None:
        message = entry.message
        self.bytes -= message.size
        entry.state = GONE
        entry.message = SETTLED
        if entry.stored and self.log is not None:
            self.log.left(entry)
        if self.arguments.dead_letter_exchange is not None and not self.deleted:
            self.counters.dead_lettered += 1
            self._host.dead_letter(self, message, reason)

    def purge(self) -> int:
        """Remove all ready messages for good (they are not dead letters) and return how many there were."""
        entries = tuple(self.ready)
        for entry in entries:
            entry.state = GONE
            self.ready.forget(entry)
            self._left_ready(entry)
            self.bytes -= entry.message.size
            entry.message = SETTLED
        self.counters.purged += len(entries)
        if self.log is not None:
            self.log.purged(entries)
        return len(entries)

    # -- delayed messages --------------------------------------------------------------------------------------

    def delayed_entries(self) -> list[Entry]:
        """Return the delayed entries, soonest first."""
        return sorted(self.delays.entries(), key=lambda entry: (entry.due, entry.seq))

    def cancel_delayed(self, entry: Entry) -> None:
        """Remove a delayed entry for good; it counts as purged."""
        self.delayed -= 1
        self.delayed_bytes -= entry.message.size
        self.bytes -= entry.message.size
        entry.state = GONE
        entry.message = SETTLED
        self.delays.left_early()
        self.counters.purged += 1
        if entry.stored and self.log is not None:
            self.log.left(entry)
        if self.groups is not None:
            self.groups.release(entry)
            self.dispatch()
        if self.awaited:
            self._host.room(self)

    def reschedule(self, entry: Entry, delay: float) -> None:
        """Let a delayed entry become ready ``delay`` seconds (>= 0) from now."""
        self._delay_until(entry, self._clock.now() + delay)
        self.delays.left_early()
        if entry.stored and self.log is not None:
            self.log.rescheduled(entry)

    # -- time --------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Count the queue as used now, for ``x-expires`` and auto-delete."""
        self.consumed = self.consumed or bool(self.rota)
        expires = self.arguments.expires
        if expires is None:
            return
        if self.rota:
            self._idle_until = NEVER
        else:
            self._idle_until = self._clock.now() + expires
            self._host.timer_changed(self, self._idle_until)

    def idle_too_long(self, now: float) -> bool:
        """Tell whether the queue has been unused for its ``x-expires``."""
        return self._idle_until <= now

    def strand(self, letter: Stranded) -> None:
        """Keep a dead letter that found no place (strategy at-least-once) and try again in a second."""
        self.stranded.append(letter)
        if self.log is not None and not letter.stored and letter.message.persistent:
            self.log.stranded(letter)
        self._stranded_until = self._clock.now() + STRANDED_RETRY
        self._host.timer_changed(self, self._stranded_until)

    def unstrand(self, letter: Stranded) -> None:
        """Let go of a dead letter that was tried again and is not kept as it was."""
        if letter.stored and self.log is not None:
            self.log.left(letter)

    def run_due(self, now: float) -> None:
        """Do what is due by ``now``: expire, release delayed messages, try stranded dead letters again."""
        while (entry := self.expiries.pop_due(now)) is not None:
            self._expire(entry)
        while (entry := self.delays.pop_due(now)) is not None:
            self.delayed -= 1
            self.delayed_bytes -= entry.message.size
            self._become_ready(entry, now)
        if self._stranded_until <= now:
            self._stranded_until = NEVER
            stranded, self.stranded = self.stranded, []
            for letter in stranded:
                self._host.dead_letter(self, letter.message, letter.reason, letter)

    def _become_ready(self, entry: Entry, now: float) -> None:
        """Let an entry whose delay has passed stand behind all that are ready."""
        self._next_seq = entry.seq = self._next_seq + self._step
        entry.since = now
        entry.state = READY
        self._make_ready(entry, now)

    def next_due(self) -> float:
        """Return when :meth:`run_due` has something to do next (clock reading), infinity for never."""
        due = min(self._idle_until, self._stranded_until)
        for heap in (self.expiries, self.delays):
            first = heap.next_due()
            if first is not None and first < due:
                due = first
        return due

    # -- after a restart ---------------------------------------------------------------------------------------

    def reinstate(
        self, entries: Iterable[Entry], stranded: Iterable[Stranded] = (), seen: Mapping[str, float] | None = None
    ) -> None:
        """Take back what a queue of this name held before its broker ended; this one is new and empty.

        entries: in the state READY or DELAYED, with their old numbers and with times as readings of this clock. What
        fell due meanwhile is ready since then, what expired leaves at the broker's next :meth:`run_due`. seen:
        deduplication ids, and until when each of them is a duplicate.
        """
        now = self._clock.now()
        ordered = sorted(entries)
        self.counters.enqueued += len(ordered)
        overdue = []
        for entry in ordered:
            self.bytes += entry.message.size
            self._next_seq = max(self._next_seq, entry.seq)
            if entry.state != DELAYED:
                continue
            if entry.due <= now:
                overdue.append(entry)
                continue
            self.delayed += 1
            self.delayed_bytes += entry.message.size
            if self.groups is not None:
                self.groups.hold_back(entry)
            self._delay_until(entry, entry.due)
        for entry in ordered:
            if entry.state != READY:
                continue
            self.ready.reinstate(entry)
            self.ready_bytes += entry.message.size
            if entry.expires_at is not None:
                self.expiries.push(entry.expires_at, entry)
                self._host.timer_changed(self, entry.expires_at)
        for entry in sorted(overdue, key=lambda entry: (entry.due, entry.seq)):
            self._become_ready(entry, entry.due)
        for letter in stranded:
            self.strand(letter)
        self._seen.update(sorted((seen or {}).items(), key=lambda pair: pair[1]))

    # -- looking in --------------------------------------------------------------------------------------------

    def peek(self, count: int) -> Iterator[Entry]:
        """Iterate over up to ``count`` ready entries in the order in which they would leave."""
        return islice(iter(self.ready), count)

    def statistics(self) -> QueueStatistics:
        """Return the queue's counters and gauges as of now."""
        oldest = self.ready.oldest()
        return self.counters.snapshot(
            ready=self.ready.live,
            unacked=self.unacked,
            delayed=self.delayed,
            dead_letter_pending=len(self.stranded),
            bytes=self.bytes,
            consumers=len(self.rota),
            oldest_ready_age=0.0 if oldest is None else max(0.0, self._clock.now() - oldest.since),
        )
