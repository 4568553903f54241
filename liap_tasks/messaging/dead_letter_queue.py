"""A dead-letter queue as an object: messages that could not be processed, kept until somebody decides.

The letters are messages in a queue of the broker; a worker's dead letters are read in the same way, and those of the
queue ``dead_letters`` are moved into the store by the workers that have one (:mod:`liap_tasks.dead_letter_store`).

Why a letter that is sent back is first published and then acknowledged: between the two the program may die. Then the
letter is still here and its replay is on its way; a second retry of the letter carries the same ``x-deduplication-id``,
which the queue drops.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from kombu import Exchange, Producer, Queue

from liap_tasks.configuration import DEAD_LETTER_QUEUE, dead_letter_queue
from liap_tasks.dead_letter_store.letter import Letter
from liap_tasks.dead_letter_store.reading import LetterReader
from liap_tasks.dead_letter_store.sending import publish_replay
from liap_tasks.dead_letters import HEADER, death_record, look_into
from liap_tasks.errors import DeadLetterError
from liap_tasks.messaging.counts import at_least
from liap_tasks.messaging.dead_letter_entry import DeadLetterEntry
from liap_tasks.messaging.linked_queue import LinkedQueue
from liap_tasks.messaging.message import Message, body_of, identity_of
from liap_tasks.messaging.queues import MessageQueue, as_far_as_readable
from liap_tasks.messaging.sending import Outgoing, refused_by, send
from liap_tasks.policies import DeadLetter, DeadLetterPolicy, DeadLetterReason
from liap_tasks.policies.durations import Duration, in_seconds
from liap_tasks.settings import Settings, load_settings

__all__ = ["DeadLetterQueue"]


class DeadLetterQueue(LinkedQueue):
    """A queue of dead letters.

    name: of the queue, default is the one that dead letters of apps and queues go to unless they say otherwise.
    policy: how long a letter is kept (``ttl``; those of that common queue are kept until a worker stores them) and, in
    a :class:`RetryableDeadLetterQueue`, when it is retried by itself; default is the settings' (DLQ_MAX_RETRIES and the
    others). url: its broker, default is that of queue objects; for an app's letters give ``app.conf.broker_url``.
    Give it to a queue (``dead_letters=``), and what that rejects, expires or drops comes here too.
    Raises ConfigurationError for a broker that would not keep the queue's rules.
    """

    def __init__(
        self,
        name: str = DEAD_LETTER_QUEUE,
        policy: DeadLetterPolicy | None = None,
        *,
        url: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or load_settings()
        self.policy = policy or settings.dead_letter_policy
        declaration: Queue = dead_letter_queue()
        if name != DEAD_LETTER_QUEUE:
            kept = round(self.policy.ttl_seconds * 1000)
            declaration = Queue(
                name, exchange=Exchange(""), routing_key=name, durable=True, queue_arguments={"x-message-ttl": kept}
            )
        super().__init__(url or settings.local_broker_url, declaration)
        link = self.link
        self._reader = LetterReader(lambda _: self.policy, {}, lambda: link.clock.time())
        self._recovered: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._added: Counter[str] = Counter()

    # -- in ----------------------------------------------------------------------------------------------------

    async def add(
        self,
        message: Message,
        reason: DeadLetterReason | str = DeadLetterReason.MANUAL,
        error: BaseException | None = None,
        original_queue: str | None = None,
        *,
        policy: DeadLetterPolicy | None = None,
    ) -> str:
        """Keep a message as a dead letter and return its id.

        A message that was dequeued is acknowledged at its queue when it is safely kept here; if it cannot be kept, it
        stays unacknowledged and the error is raised. error: what it died of. original_queue: where it was to be
        processed, default is the queue it was taken from. policy: another than the queue's own for this letter.
        """
        verdict = DeadLetter(reason, "" if error is None else str(error))
        record = death_record(
            verdict,
            id=message.metadata.message_id,
            queue=self._origin(message, original_queue),
            routing_key=self._origin(message, original_queue),
            error=error,
            attempts=message.metadata.attempts,
            at=self.link.clock.time(),
        )
        await self._keep(message, record, policy or self.policy)
        self._counts["added"] += 1
        self._added[verdict.reason.value] += 1
        if message.delivery is not None:
            await message.delivery.acknowledge()
        return message.metadata.message_id

    @staticmethod
    def _origin(message: Message, given: str | None) -> str:
        if given is not None:
            return given
        return "" if message.delivery is None else message.delivery.queue_name

    async def _keep(self, message: Message, record: Mapping[str, Any], policy: DeadLetterPolicy) -> None:
        """Publish a letter, and return when its queue has it."""
        letter = Outgoing(
            body=body_of(message),
            headers={**message.headers, **message.metadata.as_headers(), HEADER: dict(record)},
            message_id=message.metadata.message_id,
            priority=int(message.priority),
            expiration=None if self.name == DEAD_LETTER_QUEUE else policy.ttl_seconds,
        )
        await self.link.run(lambda channel: send(channel, self.declaration, letter))

    # -- out ---------------------------------------------------------------------------------------------------

    async def retry(self, message_id: str, target_queue: MessageQueue | None = None) -> bool:
        """Send a letter back to its queue, or to ``target_queue``; False if it is not here, or in other hands.

        Its count of attempts starts anew. It leaves when the queue has it. Raises DeadLetterError when nobody knows its
        queue or there is no such queue, QueueFullError when that refuses it: then the letter stays.
        """
        return await self.link.run_apart(lambda channel: self._retry_on(channel, message_id, target_queue))

    def _retry_on(self, channel: Any, message_id: str, target: MessageQueue | None) -> bool:
        """Send a letter back; called with a channel for this alone, in any thread."""
        with channel:
            received = self._take(channel, message_id)
            if received is None:
                return False
            self._send_back(channel, received, target)
            received.ack()
        self._counts["retried"] += 1
        return True

    def _target(self, letter: Letter) -> MessageQueue | None:
        """Return the queue object for a letter's queue if one is known."""
        return None

    def _send_back(self, channel: Any, received: Any, target: MessageQueue | None) -> None:
        letter = self._reader.letter(received)
        target = target or self._target(letter)
        if target is not None:
            queue, link = target.declaration, target.link

            def publish(channel: Any) -> None:
                with refused_by(queue):
                    publish_replay(Producer(channel), letter, queue.name, queue=queue, **link.at_once)

            link.run_now(publish)
        elif letter.queue:
            with refused_by(Queue(letter.queue)):
                publish_replay(Producer(channel), letter, letter.queue, queue=None)
        else:
            raise DeadLetterError(
                f"nobody knows which queue message {identity_of(received)} was for: name one, retry(message_id, queue)"
            )

    def _take(self, channel: Any, message_id: str) -> Any:
        """Take the letter with an id out of the queue, None if it is not there; the others go back to their places."""
        queue, others, found = self.declaration(channel), [], None
        with self.link.searching(self.name):
            for _ in range(_waiting(channel, self.name)):
                received = queue.get(no_ack=False)
                if received is None:
                    break
                if identity_of(received) == message_id:
                    found = received
                    break
                others.append(received)
            for other in others:
                other.requeue()
        return found

    async def recover(self, message_id: str) -> Message | None:
        """Take a letter's message out, None if it is not here.

        It is held for this program until :meth:`acknowledge`; if it ends or closes this object before, the letter is
        here again.
        """

        def take_out(channel: Any) -> Any:
            received = self._take(channel, message_id)
            if received is None:
                channel.close()
            return received

        taking = asyncio.ensure_future(self.link.run_apart(take_out))
        try:
            received = await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_give_back)
            raise
        if received is None:
            return None
        self._recovered[message_id] = received
        self._counts["recovered"] += 1
        return as_far_as_readable(received)

    async def acknowledge(self, message_id: str) -> bool:
        """Let a recovered letter be gone for good; False when it is not held here."""
        received = self._recovered.pop(message_id, None)
        if received is None or not received.channel.is_open:
            return False

        def settle(_: Any) -> None:
            channel = received.channel
            received.ack()
            channel.close()

        await self.link.run(settle)
        return True

    # -- looking in --------------------------------------------------------------------------------------------

    async def inspect(self, limit: int = 100, reason: DeadLetterReason | str | None = None) -> list[DeadLetterEntry]:
        """Return up to ``limit`` (>= 0) letters, oldest first, only those of a reason if given; they stay here."""
        at_least(0, "limit", limit)

        def look(channel: Any) -> list[DeadLetterEntry]:
            with channel:
                queue = self.declaration(channel)
                seen = limit if reason is None else _waiting(channel, self.name)
                entries = (self._entry(received) for received in look_into(queue, seen))
                return [entry for entry in entries if reason in (None, entry.reason)][:limit]

        return await self.link.run_apart(look)

    def _entry(self, received: Any, retry_at: float | None = None) -> DeadLetterEntry:
        return DeadLetterEntry(
            message=as_far_as_readable(received), letter=self._reader.letter(received), retry_at=retry_at
        )

    async def purge(self, older_than: Duration | None = None, reason: DeadLetterReason | str | None = None) -> int:
        """Drop letters for good and return how many: all, or those that died before ``older_than`` and of ``reason``.

        older_than: seconds ago, or a timedelta.
        """
        before = None if older_than is None else self.link.clock.time() - in_seconds("older_than", older_than)

        def drop(channel: Any) -> int:
            # What is not acknowledged when the channel is closed is back in its place.
            with self.link.searching(self.name), channel:
                if before is None and reason is None:
                    return int(channel.queue_purge(self.name) or 0)
                queue, dropped = self.declaration(channel), 0
                for _ in range(_waiting(channel, self.name)):
                    received = queue.get(no_ack=False)
                    if received is None:
                        break
                    letter = self._reader.letter(received)
                    if (before is None or letter.died_at < before) and reason in (None, letter.reason):
                        received.ack()
                        dropped += 1
                return dropped

        dropped = await self.link.run_apart(drop)
        self._counts["purged"] += dropped
        return dropped

    async def size(self) -> int:
        """Return how many letters there are."""
        return await self.link.run(lambda channel: _waiting(channel, self.name))

    def get_stats(self) -> dict[str, Any]:
        """Return ``total_entries`` and ``by_reason``: the letters that are here; and what this object has done.

        That is ``added``, ``retried``, ``recovered``, ``purged``. The first two are read from a broker in this process;
        of any other they are the letters that this object has added.
        """
        reasons = self._reasons()
        by_reason = self._added if reasons is None else Counter(reasons)
        done = {name: self._counts[name] for name in ("added", "retried", "recovered", "purged")}
        return {"total_entries": by_reason.total(), "by_reason": dict(by_reason), **done}

    def _reasons(self) -> Iterable[str] | None:
        """Return why each letter died, None where that cannot be had at once."""
        found = self.link.headers(self.name)
        return None if found is None else [_reason(headers) for headers in found]

    # -- end ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Put back what was recovered and not acknowledged, and close the connection."""
        self._recovered.clear()
        await super().close()


def _waiting(channel: Any, name: str) -> int:
    return int(channel.queue_declare(name, passive=True).message_count)


def _reason(headers: Mapping[str, Any]) -> str:
    own = headers.get(HEADER)
    if isinstance(own, Mapping):
        return str(own.get("reason", DeadLetterReason.MANUAL))
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping):
        return str(deaths[0].get("reason", DeadLetterReason.REJECTED))
    return DeadLetterReason.MANUAL.value


def _give_back(taking: asyncio.Future[Any]) -> None:
    """Called when a take is done that nobody waits for any more."""
    if not taking.cancelled() and taking.exception() is None and taking.result() is not None:
        taking.result().channel.close()
