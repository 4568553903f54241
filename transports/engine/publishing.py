"""How messages come into the queues of a virtual host: by publishing, and as dead letters.

A publish is all or nothing towards a queue that makes its publishers wait (nothing is enqueued anywhere until there is
room), and tells about every queue that refused. Dead letters are routed when the operation that caused them is done, so
no queue changes while another is in the middle of a change. A letter that cannot be routed because of a defect stays
with its queue and is tried again, whatever the queue's strategy: its message has left the queue, and the operation that
is being done may be somebody else's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

from transports.engine.dead_letter import Reason, Stranded, dead_letter_of, ends_in_cycle
from transports.engine.errors import InvalidArgument, QueueFull, WouldBlock, access_refused, not_found
from transports.engine.exchange import Exchange
from transports.engine.message import MAX_DELAY_MS, Entry, Message
from transports.engine.queue import Queue
from transports.engine.topology import Topology

__all__ = ["Publishing"]

logger = logging.getLogger("transports.broker")


class Publishing(Topology):
    """A topology that messages can be published to. unroutable: publishes for which no queue was found."""

    def __init__(self, vhost: str = "/", **options: Any) -> None:
        super().__init__(vhost, **options)
        self.unroutable = 0
        self._dead: deque[tuple[Queue, Message, Reason, Stranded | None]] = deque()

    def publish(self, message: Message) -> bool:
        """Route a message to its queues; False when no queue was found for it (counted in ``unroutable``).

        Raises ChannelRefusal 404 (no such exchange), 403 (internal exchange); WouldBlock before anything is enqueued;
        QueueFull after every queue with room has taken it.
        """
        now = self.clock.now()
        timers = self._timers
        if timers and timers[0][0] <= now:
            self._run_due()
        exchange_name = message.exchange
        targets: Iterable[Queue]
        if exchange_name == "":
            queue = self.queues.get(message.routing_key)
            targets = () if queue is None else (queue,)
        else:
            exchange = self.exchanges.get(exchange_name)
            if exchange is None:
                raise not_found("exchange", exchange_name, self.vhost)
            if exchange.internal:
                raise access_refused(f"cannot publish to internal exchange '{exchange_name}' in vhost '{self.vhost}'")
            targets = self._targets(exchange, message)
        if not targets:
            self.unroutable += 1
            return False
        refused: list[Queue] = []
        for queue in targets:
            if queue.refuses(message):
                if queue.arguments.overflow == "block":
                    raise WouldBlock(queue.name)
                refused.append(queue)
        for queue in targets:
            if queue in refused:
                queue.refuse(message)
            else:
                queue.enqueue(message, now)
        if self._dead:
            self._settle()
        if refused:
            errors = [queue.full() for queue in refused]  # each of them counts its refusal
            raise errors[0]
        return True

    def full(self, queue_name: str) -> QueueFull:
        """Return the error for a publisher that has waited for room in vain."""
        return self.queue(queue_name).full()

    def _targets(self, exchange: Exchange, message: Message) -> dict[Queue, None]:
        """Return each queue the message reaches once, walking exchange bindings and alternate exchanges."""
        found: dict[Queue, None] = {}
        seen = {exchange}
        walk = [exchange]
        for current in walk:
            matched = False
            for destination in current.match(message):
                matched = True
                if isinstance(destination, Queue):
                    found[destination] = None
                elif destination not in seen:
                    seen.add(destination)
                    walk.append(destination)
            if not matched and current.alternate is not None:
                alternate = self.exchanges.get(current.alternate)
                if alternate is not None and alternate not in seen:
                    seen.add(alternate)
                    walk.append(alternate)
        return found

    # -- dead letters ------------------------------------------------------------------------------------------

    def dead_letter(self, queue: Queue, message: Message, reason: Reason, kept: Stranded | None = None) -> None:
        """Note a dead letter; it is routed when the current operation is done. kept: it was stranded until now."""
        self._dead.append((queue, message, reason, kept))

    def _settle(self) -> None:
        """Route the dead letters noted so far, and those that this causes."""
        dead = self._dead
        while dead:
            queue, message, reason, kept = dead.popleft()
            try:
                refused_by = self._route_dead_letter(queue, message, reason, None if kept is None else kept.target)
            except Exception:
                if kept is None:  # once, and not at every try
                    logger.exception("the broker failed at a dead letter of queue %r (%s)", queue.name, reason)
                if not queue.deleted:
                    queue.strand(kept or Stranded(message, reason, None))
                continue
            keeps = queue.arguments.dead_letter_strategy == "at-least-once" and not queue.deleted
            if kept is not None:
                if keeps and refused_by == [kept.target]:
                    queue.strand(kept)
                    continue
                queue.unstrand(kept)
            for target in refused_by:
                if keeps:
                    queue.strand(Stranded(message, reason, target))
                else:
                    logger.warning(
                        "a dead letter of queue %r (%s) %s and is gone; x-dead-letter-strategy=at-least-once "
                        "would keep it",
                        queue.name,
                        reason,
                        f"was refused by the full queue {target!r}"
                        if target is not None
                        else f"found no queue behind exchange {queue.arguments.dead_letter_exchange!r}",
                    )

    def _route_dead_letter(self, queue: Queue, message: Message, reason: Reason, only: str | None) -> list[str | None]:
        """Publish one dead letter; return the queues that had no room for it, or [None] when there is no queue."""
        arguments = queue.arguments
        name = arguments.dead_letter_exchange or ""
        letter = dead_letter_of(
            message,
            queue=queue.name,
            reason=reason,
            exchange=name,
            routing_key=arguments.dead_letter_routing_key,
            at=self.clock.time(),
        )
        targets: list[Queue]
        if only is not None:
            target = self.queues.get(only)
            if target is None:  # deleted meanwhile, and with it what it held
                return []
            targets = [target]
        elif name == "":
            target = self.queues.get(letter.routing_key)
            targets = [] if target is None else [target]
        else:
            exchange = self.exchanges.get(name)
            targets = [] if exchange is None else list(self._targets(exchange, letter))
        if not targets:
            return [None]
        now = self.clock.now()
        refused_by: list[str | None] = []
        for target in targets:
            if ends_in_cycle(letter, target.name):
                logger.info(
                    "a dead letter of queue %r (%s) came back to queue %r without a rejection and is dropped",
                    queue.name,
                    reason,
                    target.name,
                )
            elif target.refuses(letter):
                target.full()
                if not target.refuse(letter):
                    refused_by.append(target.name)
            else:
                target.enqueue(letter, now)
        return refused_by

    # -- delayed messages --------------------------------------------------------------------------------------

    def delayed(self, name: str) -> list[tuple[float, Message]]:
        """Return (seconds left, message) for each delayed message of a queue, soonest first."""
        self._run_due()
        now = self.clock.now()
        return [(entry.due - now, entry.message) for entry in self.queue(name).delayed_entries()]

    def cancel_delayed(self, name: str, message_id: str) -> int:
        """Remove the delayed messages with this id (see :attr:`Message.identity`) and return how many there were."""
        queue, entries = self._delayed_with(name, message_id)
        for entry in entries:
            queue.cancel_delayed(entry)
        return len(entries)

    def reschedule(self, name: str, message_id: str, delay: float) -> int:
        """Let the delayed messages with this id become ready ``delay`` seconds (>= 0) from now; return how many."""
        if not 0 <= delay <= MAX_DELAY_MS / 1000:
            raise InvalidArgument("delay", delay, f"seconds from 0 to {MAX_DELAY_MS / 1000:.0f}")
        queue, entries = self._delayed_with(name, message_id)
        for entry in entries:
            queue.reschedule(entry, delay)
        self._run_due()
        return len(entries)

    def _delayed_with(self, name: str, message_id: str) -> tuple[Queue, list[Entry]]:
        self._run_due()
        queue = self.queue(name)
        return queue, [entry for entry in queue.delayed_entries() if entry.message.is_identified_by(message_id)]
