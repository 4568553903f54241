"""One letter of a dead-letter queue: the message and how it died."""

from __future__ import annotations

from dataclasses import dataclass

from liap_tasks.dead_letter_store.letter import Letter
from liap_tasks.messaging.message import Message

__all__ = ["DeadLetterEntry"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetterEntry:
    """One dead letter. message: as it was. letter: how it died, see :class:`liap_tasks.dead_letter_store.Letter`.

    retry_at: when it is retried by itself (POSIX seconds), None if it is not.
    """

    message: Message
    letter: Letter
    retry_at: float | None = None

    @property
    def message_id(self) -> str:
        """The message's id."""
        return self.message.metadata.message_id

    @property
    def reason(self) -> str:
        """Why it died: a DeadLetterReason, or what other software wrote."""
        return self.letter.reason

    @property
    def error_message(self) -> str | None:
        """The text of the error it died of."""
        return self.letter.message

    @property
    def original_queue(self) -> str:
        """Where it was to be processed, "" if nobody knows."""
        return self.letter.queue

    @property
    def died_at(self) -> float:
        """When it died, POSIX seconds."""
        return self.letter.died_at
