"""A queue as an object: ``await enqueue()``, ``await dequeue()``, acknowledge or reject.

For programs that take messages by themselves instead of leaving that to a Celery worker. The queue is the broker's:
objects of one name and URL share it, and its bound, time to live and dead letters are those that the settings give
every task queue. What has been dequeued and neither acknowledged nor rejected when the object is closed (or its program
ends) is in the queue again, in its old place.

Nothing here blocks the event loop; see :mod:`liap_tasks.messaging.link`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from amqp.exceptions import RecoverableConnectionError
from kombu import Exchange, Producer

from liap_tasks.configuration import WorkQueue, dead_letter_queue, work_queue_arguments
from liap_tasks.dead_letters import death_record, look_into, publish_received
from liap_tasks.messaging.counts import at_least
from liap_tasks.messaging.linked_queue import LinkedQueue
from liap_tasks.messaging.message import RETRY_HEADER, Message, identity_of, message_from, own_headers
from liap_tasks.messaging.room import RoomLine
from liap_tasks.messaging.sending import Outgoing, outgoing, send
from liap_tasks.policies import DeadLetter, DeadLetterReason, DeliveryOptions, MessagePriority
from liap_tasks.policies.durations import Duration, in_seconds
from liap_tasks.settings import Settings, load_settings

if TYPE_CHECKING:
    from liap_tasks.messaging.dead_letter_queue import DeadLetterQueue

__all__ = ["MessageQueue", "OverflowStrategy", "as_far_as_readable"]

OverflowStrategy = Literal["reject", "drop_oldest", "block"]
OVERFLOW_RULES = {"reject": "reject-publish", "drop_oldest": "drop-head", "block": "block"}
BLOCK_SECONDS = 10.0


class MessageQueue(LinkedQueue):
    """A queue of any broker of ours by URL, or of RabbitMQ.

    name: of the queue. url: its broker, default is the settings', where ``memory`` is this process's own. max_size:
    messages that may wait, default MAX_QUEUE_SIZE. overflow_strategy: what becomes of one more; "reject" raises
    QueueFullError in its publisher, "drop_oldest" makes a dead letter of the oldest, "block" lets its publisher wait
    for room, up to ``block_timeout`` (seconds), and then raises QueueFullError. priorities: deliver urgent messages
    first. dead_letters: where what is rejected, expired or dropped goes, default is the queue ``dead_letters``.
    bindings: what exchanges (kombu's ``binding``) pass on to it. settings: default is the environment's.
    Raises ValueError for a value out of bounds, ConfigurationError for a broker that would not keep the queue's rules.
    An object may be used again after it was closed.
    """

    scheme: ClassVar[str | None] = None
    """Of the URLs of this kind's brokers; None: of any."""

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        max_size: int | None = None,
        overflow_strategy: OverflowStrategy = "reject",
        block_timeout: Duration = BLOCK_SECONDS,
        priorities: bool = False,
        dead_letters: DeadLetterQueue | None = None,
        bindings: Sequence[Any] = (),
        settings: Settings | None = None,
    ) -> None:
        if overflow_strategy not in OVERFLOW_RULES:
            raise ValueError(f"overflow_strategy must be one of {', '.join(OVERFLOW_RULES)}, not {overflow_strategy!r}")
        settings = settings or load_settings()
        usual = settings.local_broker_url
        url = url or (usual if self.scheme in (None, urlsplit(usual).scheme) else f"{self.scheme}://")
        self.block_timeout = in_seconds("block_timeout", block_timeout)
        arguments = work_queue_arguments(settings.model_copy(update={"message_queue_url": url}))
        if max_size is not None:
            arguments["x-max-length"] = at_least(1, "max_size", max_size)
        arguments["x-overflow"] = OVERFLOW_RULES[overflow_strategy]
        if priorities:
            arguments["x-max-priority"] = int(MessagePriority.CRITICAL)
        if dead_letters is not None:
            if dead_letters.url != url:
                raise ValueError(f"queue {name!r} is on {url}, its dead letters on {dead_letters.url}: use one broker")
            arguments["x-dead-letter-exchange"] = ""
            arguments["x-dead-letter-routing-key"] = dead_letters.name
        self._letters = dead_letter_queue() if dead_letters is None else dead_letters.declaration
        self._letters_exchange: str = arguments["x-dead-letter-exchange"]
        self._letters_key: str = arguments.get("x-dead-letter-routing-key", name)
        declaration = WorkQueue(
            name,
            exchange=Exchange(""),
            routing_key=name,
            durable=True,
            dead_letters=self._letters,
            queue_arguments=arguments,
            bindings=list(bindings),
        )
        super().__init__(url, declaration)
        self._room = RoomLine(url) if overflow_strategy == "block" else None
        self._held: dict[str, list[Any]] = {}
        self._channel: Any = None
        self._counts: Counter[str] = Counter()

    # -- putting in --------------------------------------------------------------------------------------------

    async def enqueue(self, message: Message, options: DeliveryOptions | None = None) -> str:
        """Put a message into the queue and return its id; when this returns, the broker has it.

        Raises QueueFullError when the queue refuses it, InvalidArgumentError for an option that the broker would
        ignore, BrokerUnavailableError when it cannot be reached, or the object is closed meanwhile. One that is
        cancelled (or closed) while it waits for room puts nothing in. Of a broker elsewhere only those do that wait for
        their turn: one that is on its way, or waits for room there, may still arrive, until ``block_timeout`` is over.
        """
        going = outgoing(
            message,
            options or DeliveryOptions(),
            queue=self.name,
            url=self.url,
            holds_delays=self.link.holds_delays,
            now=self.link.clock.time(),
        )
        await self._send(going)
        self._counts["enqueued"] += 1
        return going.message_id

    async def _send(self, going: Outgoing) -> None:
        queue = self.declaration
        if self._room is None:
            await self.link.run(lambda channel: send(channel, queue, going))
        else:
            await self._room.send(self.link, queue, going, self.block_timeout)

    # -- taking out --------------------------------------------------------------------------------------------

    async def dequeue(self, timeout: Duration | None = None) -> Message | None:
        """Take the next message, or return None when there is none.

        timeout: seconds (or a timedelta) to wait for one, ``math.inf`` for ever; None or 0: only look. The message is
        held for this program until it is acknowledged or rejected. Cancelling loses nothing: what had been taken is
        back in the queue. A message that cannot be read is a dead letter (``undecodable``), and the next one is taken.
        """
        forever = timeout == math.inf
        wait = 0.0 if timeout is None or forever else in_seconds("timeout", timeout)
        end = time.monotonic() + wait
        while True:
            left = None if forever else max(0.0, end - time.monotonic())
            received = await self.link.receive(self.name, left)
            if received is None:
                return None
            self._counts["dequeued"] += 1
            try:
                message = message_from(received)
            except Exception as error:  # noqa: BLE001 - other software may have written anything
                await self._bury_unreadable(received, error)
                continue
            identity = message.metadata.message_id
            if received.channel is not self._channel:  # a new connection: what came by the former one has gone back
                self._channel = received.channel
                self._held.clear()
            self._held.setdefault(identity, []).append(received)
            message.delivery = _Delivery(self, identity, received)
            return message

    async def acknowledge(self, message_id: str) -> bool:
        """Settle a message as done; False when it is not held here: it was settled, or is back in its queue."""
        return await self._settle(message_id, "acknowledged", lambda received: received.ack())

    async def reject(self, message_id: str, requeue: bool = False) -> bool:
        """Refuse a message: back to its place with ``requeue``, else it is a dead letter with reason ``rejected``.

        False when it is not held here: it was settled, or is back in its queue.
        """
        metric = "requeued" if requeue else "rejected"
        return await self._settle(message_id, metric, lambda received: received.reject(requeue=requeue))

    async def _settle(self, message_id: str, metric: str, how: Callable[[Any], None], only: Any = None) -> bool:
        held = self._held.get(message_id, [])
        if not held or (only is not None and only not in held):
            return False
        received = held[0] if only is None else only
        held.remove(received)
        if not held:
            del self._held[message_id]
        try:
            settled = await self.link.run(lambda channel: _settled(received, channel, how))
        except RecoverableConnectionError:
            return False
        self._counts[metric] += settled
        return settled

    async def _bury_unreadable(self, received: Any, error: Exception) -> None:
        """Make a dead letter of a message; first it is safely kept, then acknowledged."""
        verdict = DeadLetter(DeadLetterReason.UNDECODABLE, f"it could not be read: {error}")
        record = death_record(
            verdict,
            id=identity_of(received),
            queue=self.name,
            routing_key=self.name,
            error=error,
            at=self.link.clock.time(),
        )

        def bury(channel: Any) -> None:
            publish_received(
                Producer(channel),
                received,
                record,
                queue=self._letters,
                exchange=self._letters_exchange,
                routing_key=self._letters_key,
            )
            received.ack()

        await self.link.run(bury)

    # -- looking in --------------------------------------------------------------------------------------------

    async def peek(self, n: int = 1) -> list[Message]:
        """Return up to ``n`` waiting messages in the order of their delivery, leaving them there.

        n: at least 0. One that cannot be read is shown with its body as payload.
        """
        at_least(0, "n", n)

        def look(channel: Any) -> list[Message]:
            with channel:
                return [as_far_as_readable(found) for found in look_into(self.declaration(channel), n)]

        return await self.link.run_apart(look)

    async def size(self) -> int:
        """Return how many messages could be dequeued now; delayed ones are not ready, held ones are taken."""
        return await self.link.run(lambda channel: int(channel.queue_declare(self.name, passive=True).message_count))

    async def clear(self) -> int:
        """Drop all messages that wait, delayed ones too, for good (they are no dead letters), and return how many.

        Dead letters that wait here for their retry stay: they are their dead-letter queue's
        (:class:`~liap_tasks.messaging.RetryableDeadLetterQueue`) until they are due.
        """

        def drop(channel: Any) -> int:
            dropped = int(channel.queue_purge(self.name) or 0)
            if self.link.holds_delays:
                delayed = [message for _, message in channel.delayed(self.name)]
                letters = {identity_of(message) for message in delayed if RETRY_HEADER in (message.headers or {})}
                for identity in {identity_of(message) for message in delayed} - letters:
                    dropped += channel.cancel_delayed(self.name, identity)
            return dropped

        return await self.link.run(drop)

    def get_stats(self) -> dict[str, float]:
        """Return counts: ``enqueued``, ``dequeued``, ``acknowledged``, ``rejected``, ``requeued``.

        Of a broker in this process they are the broker's own, of the whole queue, and there are also ``size``,
        ``delayed``, ``expired``, ``dropped``, ``refused`` and the others of ``transports.engine.statistics``. Of any
        other broker they are what this object has done.
        """
        numbers = self.link.statistics(self.name)
        if numbers is None:
            return {name: self._counts[name] for name in COUNTED}
        return {**numbers, "dequeued": numbers["delivered"], "size": numbers["ready"]}

    # -- end ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Put back what is neither acknowledged nor rejected, end what waits here, and close the connection.

        Who waits for a message or for room gets BrokerUnavailableError.
        """
        self._held.clear()
        if self._room is not None:
            self._room.close()
        await super().close()


COUNTED = ("enqueued", "dequeued", "acknowledged", "rejected", "requeued")


@dataclass(frozen=True, slots=True, eq=False)
class _Delivery:
    """How a dequeued message is settled by others than its queue's caller."""

    queue: MessageQueue
    message_id: str
    received: Any

    @property
    def queue_name(self) -> str:
        return self.queue.name

    async def acknowledge(self) -> bool:
        return await self.queue._settle(
            self.message_id, "acknowledged", lambda received: received.ack(), only=self.received
        )


def _settled(received: Any, channel: Any, how: Callable[[Any], None]) -> bool:
    """Settle a message if the connection by which it came is still there."""
    if received.channel is not channel:
        return False
    how(received)
    return True


def as_far_as_readable(received: Any) -> Message:
    """Return a received message; one that cannot be read has its body as payload."""
    try:
        return message_from(received)
    except Exception:  # noqa: BLE001 - other software may have written anything
        return Message(payload=received.body, headers=own_headers(received.headers))
