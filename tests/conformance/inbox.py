"""The receiving end of a scenario's consumer: a kombu Consumer whose messages wait in a list."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import kombu

if TYPE_CHECKING:
    from tests.conformance.driver import Driver

__all__ = ["Inbox"]

# A delivery over a socket that has not come after this many seconds is taken not to come.
QUIET_SECONDS = 0.15


class Inbox:
    """Messages that a consumer has received and the scenario has not looked at yet."""

    def __init__(self, driver: Driver, channel: Any) -> None:
        self.channel = channel
        self.consumer: kombu.Consumer
        self._driver = driver
        self._messages: list[kombu.Message] = []

    @classmethod
    def start(
        cls,
        driver: Driver,
        queue: kombu.Queue,
        *,
        channel: Any,
        no_ack: bool = False,
        prefetch: int | None = None,
        priority: int | None = None,
    ) -> Inbox:
        """Start consuming from a queue.

        prefetch: unacknowledged messages at a time, None for no limit. priority: the consumer's (``x-priority``).
        """
        inbox = cls(driver, channel)
        arguments = None if priority is None else {"x-priority": priority}
        source = kombu.Queue(queue.name, consumer_arguments=arguments, no_declare=True)
        inbox.consumer = kombu.Consumer(
            channel,
            [source],
            no_ack=no_ack,
            prefetch_count=prefetch,
            auto_declare=False,
            on_message=inbox._messages.append,
        )
        inbox.consumer.consume()
        return inbox

    def receive(self, count: int) -> list[kombu.Message]:
        """Return the next ``count`` messages, waiting for them."""
        deadline = time.monotonic() + self._driver.patience
        while len(self._messages) < count:
            if not self._drain(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                break
        assert len(self._messages) >= count, f"{len(self._messages)} of {count} messages arrived: {self._peek()}"
        taken, self._messages[:count] = self._messages[:count], []
        return taken

    def bodies(self, count: int) -> list[Any]:
        """Return the bodies of the next ``count`` messages, waiting for them."""
        return [message.payload for message in self.receive(count)]

    def nothing_arrives(self) -> bool:
        """Tell whether nothing (more) arrives, now or soon."""
        while self._drain(QUIET_SECONDS if self._driver.patience else 0.0):
            pass
        assert self._peek() == []
        return True

    def all_of_it(self) -> list[kombu.Message]:
        """Return everything that has arrived by now; for a broker that delivers before it answers."""
        while self._drain(0.0):
            pass
        taken, self._messages[:] = self._messages[:], []
        return taken

    def cancel(self) -> None:
        """End the consumer; what it has received stays with its channel."""
        self.consumer.cancel()

    def _peek(self) -> list[Any]:
        return [message.payload for message in self._messages]

    def _drain(self, seconds: float) -> bool:
        self._driver.settle()
        try:
            self.channel.connection.client.drain_events(timeout=seconds or 0.001)
        except TimeoutError:
            return False
        return True
