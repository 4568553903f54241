"""A dead-letter queue whose letters are retried by themselves, after a delay that grows.

The broker holds the delay: a letter that is to be retried waits in the queue it goes back to, as a delayed message
(``x-delay``), and becomes ready by itself when its time has come, whether this object still exists or not. Until then
it counts as a dead letter: it is shown, can be cancelled, recovered or sent at once. So this needs a broker that holds
delayed messages.

A queue that is full takes no delayed message. Then the letter waits here, and this object tries to send it when it is
due, and again after each further delay, until there is room; when the object is closed or gone, the letter waits for
somebody.

Which letters: those of a reason that may pass (``DeadLetterPolicy.retry_reasons``), ``max_retries`` times over all
their lives; the others, and those of messages with a deadline, wait for somebody.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakMethod

from liap_tasks.configuration import DEAD_LETTER_QUEUE
from liap_tasks.dead_letter_store.letter import Letter
from liap_tasks.dead_letters import HEADER
from liap_tasks.errors import DeadLetterError
from liap_tasks.messaging.dead_letter_entry import DeadLetterEntry
from liap_tasks.messaging.dead_letter_queue import DeadLetterQueue
from liap_tasks.messaging.message import RETRY_HEADER, Message, body_of, identity_of, message_from
from liap_tasks.messaging.queues import MessageQueue
from liap_tasks.messaging.sending import RETRY_AFTER, Outgoing, refuse_delay, send
from liap_tasks.metadata import Attempt
from liap_tasks.policies import DeadLetterPolicy, DeadLetterReason
from liap_tasks.policies.durations import Duration, in_seconds
from liap_tasks.settings import Settings
from liap_tasks.time_source import Cancellable, call_after
from transports import QueueFullError

__all__ = ["RetryableDeadLetterQueue"]

logger = logging.getLogger("liap_tasks.messaging")

ROUNDING = 0.001
"""Seconds: a timer that is set by one clock may be heard a little too early by another."""


class RetryableDeadLetterQueue(DeadLetterQueue):
    """A dead-letter queue with automatic retries; see :class:`DeadLetterQueue` for its arguments."""

    def __init__(
        self,
        name: str = DEAD_LETTER_QUEUE,
        policy: DeadLetterPolicy | None = None,
        *,
        url: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(name, policy, url=url, settings=settings)
        self._retry_queues: dict[str, MessageQueue] = {}
        self._refused: dict[str, _Refused] = {}
        self._timing = threading.Lock()
        self._timer: Cancellable | None = None
        self._looks_at = 0.0  # when that is, POSIX

    def register_retry_queue(self, name: str, queue: MessageQueue) -> None:
        """Retry letters whose queue is ``name`` by sending them to ``queue``.

        With one queue registered, letters whose queue nobody knows go there too.
        Raises InvalidArgumentError for a queue on a broker that holds no delayed messages.
        """
        if not queue.link.holds_delays:
            refuse_delay(float(self.policy.retry_delay), queue.url)  # type: ignore[arg-type]  # it keeps seconds
        self._retry_queues[name] = queue

    def _target(self, letter: Letter) -> MessageQueue | None:
        return self._retry_queue(letter.queue)

    def _retry_queue(self, name: str) -> MessageQueue | None:
        if not name and len(self._retry_queues) == 1:
            return next(iter(self._retry_queues.values()))
        return self._retry_queues.get(name)

    async def _keep(self, message: Message, record: Mapping[str, Any], policy: DeadLetterPolicy) -> None:
        """Publish a letter: as a delayed message to the queue that retries it, else to this queue."""
        target = self._retry_queue(record["queue"])
        replays, now = message.metadata.replays, float(record["at"])
        due = policy.retry_at(record["reason"], replays=replays, died_at=now)
        if target is not None and due is not None and message.metadata.deadline is None:  # else nobody waits any more
            try:
                await self._schedule(target, message, record, due - now)
            except QueueFullError:
                await super()._keep(message, record, policy)
                self._try_later(message.metadata.message_id, _Refused(target=target, due=due, pause=due - now))
            return
        await super()._keep(message, record, policy)

    async def _schedule(self, target: MessageQueue, message: Message, record: Mapping[str, Any], delay: float) -> None:
        before = message.metadata
        waiting = {
            **record,
            "dead_letter_queue": self.name,
            "replays": before.replays,
            "replayed_from": before.replayed_from,
        }
        metadata = before.model_copy(
            update={
                "attempts": (),
                "deadline": None,
                "replays": before.replays + 1,
                "replayed_from": record["letter_id"],
            }
        )
        held = round(delay * 1000)
        letter = Outgoing(
            body=body_of(message),
            headers={
                **message.headers,
                **metadata.as_headers(),
                RETRY_HEADER: waiting,
                **({"x-delay": held} if held > 0 else {}),
            },
            message_id=before.message_id,
            priority=int(message.priority),
        )
        await target.link.run(lambda channel: send(channel, target.declaration, letter, **target.link.at_once))

    # -- letters whose queue was full --------------------------------------------------------------------------

    def _try_later(self, message_id: str, refused: _Refused) -> None:
        """Have a letter that waits here sent when it is due."""
        self._refused[message_id] = refused
        self._look_at(refused.due)

    def _try_no_more(self, message_id: str) -> bool:
        return self._refused.pop(message_id, None) is not None

    def _look_at(self, due: float) -> None:
        """Look at what waits here at that time, if not before. Why one timer for all: each is a thread."""
        with self._timing:
            if self._timer is not None:
                if self._looks_at <= due:
                    return
                self._timer.cancel()
            left = max(0.0, due - self.link.clock.time())
            self._looks_at = due
            self._timer = call_after(self.link.clock, left, _call, (WeakMethod(self._try_due),))

    def _try_due(self) -> None:
        """Called when a letter is due, not in an event loop's thread unless that advances a virtual clock."""
        with self._timing:
            self._timer = None
        now, full = self.link.clock.time() + ROUNDING, set[MessageQueue]()
        for message_id, refused in sorted(self._refused.items(), key=lambda item: item[1].due):
            if refused.due <= now:
                self._try_again(message_id, refused, full)
        waiting = [refused.due for refused in list(self._refused.values())]
        if waiting:
            self._look_at(min(waiting))

    def _try_again(self, message_id: str, refused: _Refused, full: set[MessageQueue]) -> None:
        """Send a letter that is due; full: queues that have no room now."""
        if self._refused.get(message_id) is not refused:
            return  # somebody has decided meanwhile
        try:
            if refused.target not in full:
                self.link.run_apart_now(lambda channel: self._retry_on(channel, message_id, refused.target))
                if self._refused.get(message_id) is refused:
                    del self._refused[message_id]
                return
        except QueueFullError:
            full.add(refused.target)
        except Exception:
            logger.exception("message %s cannot be sent to %r now, trying again", message_id, refused.target.name)
        refused.due = self.link.clock.time() + max(refused.pause, RETRY_AFTER)

    # -- letters that wait for their retry ---------------------------------------------------------------------

    def _queues(self) -> Iterable[MessageQueue]:
        return {(queue.url, queue.name): queue for queue in self._retry_queues.values()}.values()

    async def _scheduled(self, queue: MessageQueue) -> list[tuple[float, Any]]:
        """Return (when, kombu message) of this queue's letters that wait in ``queue``."""
        waiting = await queue.link.run(lambda channel: channel.delayed(queue.name))
        now = queue.link.clock.time()
        return [(now + left, received) for left, received in waiting if self._is_mine(received.headers)]

    def _is_mine(self, headers: Mapping[str, Any] | None) -> bool:
        record = (headers or {}).get(RETRY_HEADER)
        return isinstance(record, Mapping) and record.get("dead_letter_queue") == self.name

    async def _find(self, message_id: str) -> tuple[MessageQueue, Any] | None:
        for queue in self._queues():
            for _, received in await self._scheduled(queue):
                if identity_of(received) == message_id:
                    return queue, received
        return None

    async def cancel_retry(self, message_id: str) -> bool:
        """Let a letter that was to be retried wait for somebody instead; False when no retry of it is waiting."""
        found = await self._find(message_id)
        if found is None:
            return self._try_no_more(message_id)
        queue, received = found
        await super()._keep(*_as_it_died(received), self.policy)
        if await queue.link.run(lambda channel: channel.cancel_delayed(queue.name, message_id)):
            return True
        await self._forget(message_id)  # it has come due meanwhile
        return False

    async def _forget(self, message_id: str) -> None:
        if await super().recover(message_id) is None or not await self.acknowledge(message_id):
            raise DeadLetterError(
                f"message {message_id} was retried, and its letter in {self.name!r} is in other hands"
            )

    async def retry(self, message_id: str, target_queue: MessageQueue | None = None) -> bool:
        """Send a letter back at once, also one whose retry is waiting; see :meth:`DeadLetterQueue.retry`."""
        found = await self._find(message_id)
        if found is None:
            sent = await super().retry(message_id, target_queue)
            if sent:
                self._try_no_more(message_id)
            return sent
        queue, _ = found
        if target_queue is not None and (target_queue.url, target_queue.name) != (queue.url, queue.name):
            return await self.cancel_retry(message_id) and await super().retry(message_id, target_queue)
        moved = bool(await queue.link.run(lambda channel: channel.reschedule(queue.name, message_id, 0.0)))
        self._counts["retried"] += moved
        return moved

    async def recover(self, message_id: str) -> Message | None:
        """Take a letter's message out, also of one whose retry is waiting; see :meth:`DeadLetterQueue.recover`."""
        await self.cancel_retry(message_id)
        return await super().recover(message_id)

    # -- looking in --------------------------------------------------------------------------------------------

    async def inspect(self, limit: int = 100, reason: DeadLetterReason | str | None = None) -> list[DeadLetterEntry]:
        """Return up to ``limit`` letters, oldest first, with ``retry_at`` of those that are retried by themselves."""
        entries = await super().inspect(limit, reason)
        for queue in self._queues():
            entries += [entry for entry in await self._waiting_entries(queue) if reason in (None, entry.reason)]
        return sorted(entries, key=lambda entry: entry.died_at)[:limit]

    async def _waiting_entries(self, queue: MessageQueue) -> list[DeadLetterEntry]:
        """Return this queue's letters that wait in ``queue``."""
        entries = []
        for due, received in await self._scheduled(queue):
            message, record = _as_it_died(received)
            received.headers = {**message.headers, **message.metadata.as_headers(), HEADER: record}
            entries.append(self._entry(received, retry_at=due))
        return entries

    async def purge(self, older_than: Duration | None = None, reason: DeadLetterReason | str | None = None) -> int:
        """Drop letters for good, also those that wait for their retry; see :meth:`DeadLetterQueue.purge`."""
        before = math.inf if older_than is None else self.link.clock.time() - in_seconds("older_than", older_than)
        dropped = 0
        for queue in self._queues():
            for entry in await self._waiting_entries(queue):
                if entry.died_at < before and reason in (None, entry.reason):
                    dropped += await queue.link.run(partial(_cancel_delayed, queue.name, entry.message_id))
        self._counts["purged"] += dropped
        return dropped + await super().purge(older_than, reason)

    def _entry(self, received: Any, retry_at: float | None = None) -> DeadLetterEntry:
        refused = self._refused.get(str(identity_of(received)))
        return super()._entry(received, retry_at if refused is None else refused.due)

    async def size(self) -> int:
        """Return how many letters there are, with those that wait for their retry."""
        return await super().size() + sum([len(await self._scheduled(queue)) for queue in self._queues()])

    def _reasons(self) -> Iterable[str] | None:
        found = super()._reasons()
        if found is None:
            return None
        waiting = [headers for queue in self._queues() for headers in queue.link.delayed_headers(queue.name)]
        return [*found, *(str(headers[RETRY_HEADER]["reason"]) for headers in waiting if self._is_mine(headers))]

    async def close(self) -> None:
        """Put back what was recovered and not acknowledged, try to send no more letters, and close the connection."""
        self._refused.clear()
        with self._timing:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        await super().close()


@dataclass(kw_only=True, slots=True, eq=False)
class _Refused:
    """A letter that waits here because its queue was full. due: when it is tried (POSIX); pause: between tries (s)."""

    target: MessageQueue
    due: float
    pause: float


def _call(method: WeakMethod[Any]) -> None:
    """Call a method of an object if that is still there."""
    bound = method()
    if bound is not None:
        bound()


def _cancel_delayed(queue: str, message_id: str, channel: Any) -> int:
    return int(channel.cancel_delayed(queue, message_id))


def _as_it_died(received: Any) -> tuple[Message, dict[str, Any]]:
    """Return the message of a letter that waits for its retry, as it was when it died, and the record of its death."""
    record = dict(received.headers[RETRY_HEADER])
    message = message_from(received)
    message.metadata = message.metadata.model_copy(
        update={
            "replays": record.pop("replays"),
            "replayed_from": record.pop("replayed_from"),
            "attempts": tuple(Attempt.model_validate(attempt) for attempt in record["attempts"]),
        }
    )
    return message, record
