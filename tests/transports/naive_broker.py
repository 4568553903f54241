"""A broker as one would write it on one page: lists, sorted again for every question. The stateful test's oracle.

Dead letters go by the default exchange only. It does not predict *which* consumer of several gets a message: it is told
(:class:`Pushed`), and checks that this one was entitled to it. All letters of an operation are routed at its end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

__all__ = ["NaiveBroker", "NaiveConsumer", "NaiveEntry", "NaiveMessage", "NaiveQueue", "Pushed"]


@dataclass(frozen=True)
class NaiveMessage:
    body: bytes
    priority: int = 0
    ttl: float | None = None
    delay: float = 0.0
    deaths: tuple[tuple[str, str], ...] = ()  # (queue, reason), newest first
    group: str | None = None
    continues: bool = False


@dataclass(eq=False)
class NaiveEntry:
    message: NaiveMessage
    queue: NaiveQueue
    seq: Fraction = Fraction(0)
    since: float = 0.0
    due: float = 0.0
    expires_at: float | None = None
    redelivered: bool = False
    returns: int = 0


@dataclass(eq=False)
class NaiveConsumer:
    tag: str
    channel: Any
    queue: NaiveQueue
    prefetch: int
    no_ack: bool
    priority: int
    holds: int = 0

    def has_credit(self) -> bool:
        return self.no_ack or not self.prefetch or self.holds < self.prefetch


@dataclass(frozen=True)
class Pushed:
    """One delivery that the engine made."""

    consumer_tag: str
    channel: Any
    delivery_tag: int
    body: bytes
    redelivered: bool


@dataclass(eq=False)
class NaiveQueue:
    name: str
    rules: dict[str, Any]
    ready: list[NaiveEntry] = field(default_factory=list)
    unacked: list[NaiveEntry] = field(default_factory=list)
    delayed: list[NaiveEntry] = field(default_factory=list)
    consumers: list[NaiveConsumer] = field(default_factory=list)
    stranded: list[tuple[NaiveMessage, str]] = field(default_factory=list)
    stranded_until: float | None = None
    counted: Counter[str] = field(default_factory=Counter)
    deleted: bool = False
    last_seq: int = 0

    def level(self, entry: NaiveEntry) -> int:
        return min(entry.message.priority, self.rules.get("x-max-priority", 0))

    def group_of(self, entry: NaiveEntry) -> str | None:
        return entry.message.group if "x-message-groups" in self.rules else None

    def waits_for_its_group(self, entry: NaiveEntry) -> bool:
        group = self.group_of(entry)
        if group is None:
            return False
        in_flight = any(self.group_of(one) == group for one in self.unacked)
        to_come = any(self.group_of(one) == group and one.message.continues for one in self.delayed)
        return in_flight or to_come or any(self.group_of(one) == group and one.seq < entry.seq for one in self.ready)

    def deliverable(self) -> list[NaiveEntry]:
        able = [entry for entry in self.ready if not self.waits_for_its_group(entry)]
        return sorted(able, key=lambda entry: (-self.level(entry), entry.seq))

    def in_order(self) -> list[NaiveEntry]:
        waiting = [entry for entry in self.ready if self.waits_for_its_group(entry)]
        return self.deliverable() + sorted(waiting, key=lambda entry: entry.seq)

    @property
    def overflow(self) -> str:
        return str(self.rules.get("x-overflow", "drop-head"))

    def refuses(self, message: NaiveMessage) -> bool:
        bound = self.rules.get("x-max-length")
        return not self.overflow.startswith("drop") and bound is not None and len(self.ready + self.delayed) >= bound

    def over_bound(self) -> bool:
        if not self.ready or not self.overflow.startswith("drop"):
            return False
        ready_bytes = sum(len(entry.message.body) for entry in self.ready)
        return len(self.ready) > self.rules.get("x-max-length", 10**9) or ready_bytes > self.rules.get(
            "x-max-length-bytes", 10**9
        )


class NaiveBroker:
    """The queues, the time, and what every channel holds: channel -> {delivery tag: (entry, consumer)}."""

    def __init__(self, next_push: Callable[[NaiveQueue], Pushed]) -> None:
        self.now = 0.0
        self.queues: dict[str, NaiveQueue] = {}
        self.held: dict[Any, dict[int, tuple[NaiveEntry, NaiveConsumer | None]]] = {}
        self._next_push = next_push
        self._letters: deque[tuple[NaiveQueue, NaiveMessage, str]] = deque()

    # -- publishing --------------------------------------------------------------------------------------------

    def publish(self, message: NaiveMessage, names: Iterable[str]) -> str:
        """Return "blocked", "full: <the first full queue>" or "taken"."""
        targets = [self.queues[name] for name in names]
        refusing = [queue for queue in targets if queue.refuses(message)]
        if any(queue.overflow == "block" for queue in refusing):
            return "blocked"
        for queue in targets:
            if queue in refusing:
                self.refuse(queue, message)
            else:
                self.enqueue(queue, message)
        self.settle()
        return f"full: {refusing[0].name}" if refusing else "taken"

    def refuse(self, queue: NaiveQueue, message: NaiveMessage) -> bool:
        """Count a refusal; True when the message goes on as a dead letter."""
        queue.counted["refused"] += 1
        if queue.overflow == "reject-publish-dlx" and "x-dead-letter-exchange" in queue.rules:
            queue.counted["dead_lettered"] += 1
            self._letters.append((queue, message, "maxlen"))
            return True
        return False

    def enqueue(self, queue: NaiveQueue, message: NaiveMessage) -> None:
        queue.counted["enqueued"] += 1
        entry = NaiveEntry(message, queue)
        if message.delay:
            entry.due = self.now + message.delay
            queue.delayed.append(entry)
        else:
            self.make_ready(entry)

    def make_ready(self, entry: NaiveEntry) -> None:
        queue = entry.queue
        queue.last_seq += 1
        entry.seq, entry.since = Fraction(queue.last_seq), self.now
        group = queue.group_of(entry)
        first = min(
            (one for one in queue.ready + queue.unacked if group is not None and queue.group_of(one) == group),
            key=lambda one: one.seq,
            default=None,
        )
        if entry.message.continues and first is not None:
            entry.seq, entry.since = first.seq - Fraction(1, 2**20), first.since
        queue.ready.append(entry)
        self.dispatch(queue)
        ttls = [ttl for ttl in (entry.message.ttl, queue.rules.get("x-message-ttl")) if ttl is not None]
        if ttls:
            ttl = min(entry.message.ttl or 0.0 if t is entry.message.ttl else t / 1000 for t in ttls)
            entry.expires_at = self.now + ttl
            if entry in queue.ready and ttl <= 0:
                self.expire(entry)
        self.trim(queue)

    # -- leaving -----------------------------------------------------------------------------------------------

    def leave(self, entry: NaiveEntry, counter: str, reason: str) -> None:
        queue = entry.queue
        queue.counted[counter] += 1
        if "x-dead-letter-exchange" in queue.rules and not queue.deleted:
            queue.counted["dead_lettered"] += 1
            self._letters.append((queue, entry.message, reason))

    def expire(self, entry: NaiveEntry) -> None:
        entry.queue.ready.remove(entry)
        self.leave(entry, "expired", "expired")

    def trim(self, queue: NaiveQueue) -> None:
        while queue.over_bound():
            if queue.overflow == "drop-head":
                entry = queue.in_order()[0]
            else:
                entry = min(queue.deliverable() or queue.ready, key=lambda one: (queue.level(one), one.seq))
            queue.ready.remove(entry)
            self.leave(entry, "dropped", "maxlen")

    def settle(self) -> None:
        while self._letters:
            queue, message, reason = self._letters.popleft()
            target = self.queues[queue.rules["x-dead-letter-routing-key"]]
            again = [death for death in message.deaths if death != (queue.name, reason)]
            letter = replace(message, ttl=None, delay=0.0, deaths=((queue.name, reason), *again), continues=False)
            if closes_cycle(letter, target.name):
                continue
            if not target.refuses(letter):
                self.enqueue(target, letter)
            elif not self.refuse(target, letter) and queue.rules.get("x-dead-letter-strategy") == "at-least-once":
                queue.stranded.append((message, reason))
                queue.stranded_until = self.now + 1.0

    # -- delivering --------------------------------------------------------------------------------------------

    def entitled(self, queue: NaiveQueue) -> list[NaiveConsumer]:
        """Return those of whom one gets the next message."""
        candidates = queue.consumers[:1] if queue.rules.get("x-single-active-consumer") else queue.consumers
        able = [consumer for consumer in candidates if consumer.has_credit()]
        return [one for one in able if one.priority == max(consumer.priority for consumer in able)]

    def dispatch(self, queue: NaiveQueue) -> None:
        while queue.deliverable() and (entitled := self.entitled(queue)):
            pushed = self._next_push(queue)
            [consumer] = [one for one in entitled if (one.tag, one.channel) == (pushed.consumer_tag, pushed.channel)]
            entry = self.take(queue, pushed.channel, pushed.delivery_tag, consumer.no_ack, consumer)
            assert (pushed.body, pushed.redelivered) == (entry.message.body, entry.redelivered)

    def take(
        self, queue: NaiveQueue, channel: Any, tag: int, no_ack: bool, consumer: NaiveConsumer | None = None
    ) -> NaiveEntry:
        entry = queue.deliverable()[0]
        queue.ready.remove(entry)
        queue.counted["delivered"] += 1
        if no_ack:
            queue.counted["acknowledged"] += 1
        else:
            queue.unacked.append(entry)
            self.held[channel][tag] = (entry, consumer)
            if consumer is not None:
                consumer.holds += 1
        return entry

    def release(self, channel: Any, tag: int) -> NaiveEntry:
        entry, consumer = self.held[channel].pop(tag)
        entry.queue.unacked.remove(entry)
        if consumer is not None:
            consumer.holds -= 1
        return entry

    def ack(self, channel: Any, tags: list[int]) -> None:
        for tag in tags:
            self.release(channel, tag).queue.counted["acknowledged"] += 1
        self.dispatch_all()

    def reject(self, channel: Any, tags: list[int]) -> None:
        for tag in tags:
            self.leave(self.release(channel, tag), "rejected", "rejected")
        self.dispatch_all()
        self.settle()

    def give_back(self, channel: Any, tags: list[int]) -> None:
        entries = [self.release(channel, tag) for tag in tags]
        for entry in entries:
            queue = entry.queue
            if queue.deleted:
                continue
            entry.returns += 1
            entry.redelivered = True
            if entry.returns > queue.rules.get("x-delivery-limit", 10**9):
                self.leave(entry, "dropped", "delivery_limit")
                continue
            queue.counted["requeued"] += 1
            queue.ready.append(entry)
            if entry.expires_at is not None and entry.expires_at <= self.now:
                self.expire(entry)
        for queue in dict.fromkeys(entry.queue for entry in entries):
            self.dispatch(queue)
            self.trim(queue)
        self.dispatch_all()
        self.settle()

    def dispatch_all(self) -> None:
        for queue in self.queues.values():
            self.dispatch(queue)

    # -- subscriptions, channels, queues -----------------------------------------------------------------------

    def cancel(self, consumer: NaiveConsumer) -> None:
        consumer.queue.consumers.remove(consumer)

    def close_channel(self, channel: Any) -> None:
        for queue in self.queues.values():
            queue.consumers = [one for one in queue.consumers if one.channel is not channel]
        self.give_back(channel, sorted(self.held[channel]))
        del self.held[channel]

    def purge(self, queue: NaiveQueue) -> int:
        count = len(queue.ready)
        queue.counted["purged"] += count
        queue.ready.clear()
        return count

    def delete(self, queue: NaiveQueue) -> None:
        queue.deleted = True
        queue.consumers.clear()
        del self.queues[queue.name]

    # -- time --------------------------------------------------------------------------------------------------

    def cancel_delayed(self, entry: NaiveEntry) -> None:
        entry.queue.delayed.remove(entry)
        entry.queue.counted["purged"] += 1
        self.dispatch(entry.queue)

    def advance(self, seconds: float) -> None:
        target = self.now + seconds
        while True:
            due = [(at, queue.name) for queue in self.queues.values() if (at := next_due(queue)) is not None]
            if not due or min(due)[0] > target:
                break
            self.now, name = min(due)
            self.run_due(self.queues[name])
        self.now = target

    def run_due(self, queue: NaiveQueue) -> None:
        for entry in sorted(queue.ready, key=lambda one: (one.expires_at or 0.0, one.seq)):
            if entry.expires_at is not None and entry.expires_at <= self.now:
                self.expire(entry)
        # Stable: those due at the same time become ready in the order in which they were published.
        for entry in sorted(queue.delayed, key=lambda one: one.due):
            if entry.due <= self.now:
                queue.delayed.remove(entry)
                self.make_ready(entry)
        if queue.stranded_until is not None and queue.stranded_until <= self.now:
            queue.stranded_until = None
            self._letters.extend((queue, message, reason) for message, reason in queue.stranded)
            queue.stranded.clear()
        self.settle()


def next_due(queue: NaiveQueue) -> float | None:
    dues = [entry.expires_at for entry in queue.ready if entry.expires_at is not None]
    dues += [entry.due for entry in queue.delayed]
    dues += [queue.stranded_until] if queue.stranded_until is not None else []
    return min(dues, default=None)


def closes_cycle(letter: NaiveMessage, target: str) -> bool:
    names = [queue for queue, _ in letter.deaths]
    if target not in names:
        return False
    return all(reason != "rejected" for _, reason in letter.deaths[: names.index(target) + 1])
