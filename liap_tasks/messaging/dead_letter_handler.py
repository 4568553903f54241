"""A handler whose failures become dead letters, each with its reason."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import ValidationError

from liap_tasks.messaging.dead_letter_queue import DeadLetterQueue
from liap_tasks.messaging.handlers import HandlerStatistics
from liap_tasks.messaging.message import Message
from liap_tasks.messaging.wrappers import Handles, WrappingHandler
from liap_tasks.policies import DeadLetter, DeadLetterPolicy, DeadLetterReason

__all__ = ["DeadLetterHandler", "reason_of"]

logger = logging.getLogger("liap_tasks.messaging")


class DeadLetterHandler(WrappingHandler):
    """Handle messages; one that fails is put among the dead letters and acknowledged at the queue it came from.

    policy: for these letters (how long they are kept, when they are retried), default is the dead-letter queue's; one
    with ``enabled=False`` lets errors be raised instead.
    """

    def __init__(self, handler: Handles, dlq: DeadLetterQueue, policy: DeadLetterPolicy | None = None) -> None:
        super().__init__(handler)
        self.dlq = dlq
        self.policy = policy or dlq.policy
        self._statistics = HandlerStatistics("handled", "dead_lettered")

    async def handle(self, message: Message) -> Any:
        """Return what the handler returns, None for a message that is a dead letter now.

        Raises what goes wrong with keeping it: then the message is still held, and must not be acknowledged.
        """
        try:
            if not self.can_handle(message):
                raise DeadLetter(DeadLetterReason.NO_HANDLER, "the handler cannot handle it")
            result = await self.handler.handle(message)
        except Exception as error:
            if not self.policy.enabled:
                raise
            reason = reason_of(error)
            await self.dlq.add(message, reason, error, policy=self.policy)
            self._statistics.count("dead_lettered")
            logger.warning("message %s is a dead letter: %s (%r)", message.metadata.message_id, reason.value, error)
            return None
        self._statistics.count("handled")
        return result

    def get_stats(self) -> dict[str, int]:
        """Return counts of messages: ``handled``, ``dead_lettered``."""
        return self._statistics.read()


def reason_of(error: BaseException) -> DeadLetterReason:
    """Return why a message is dead that failed with ``error`` on its last attempt."""
    if isinstance(error, DeadLetter):
        return error.reason
    if isinstance(error, ValidationError):
        return DeadLetterReason.VALIDATION_FAILED
    if isinstance(error, TimeoutError):
        return DeadLetterReason.TIMED_OUT
    return DeadLetterReason.RETRIES_EXHAUSTED
