"""A broker engine shared by the threads of one process.

The engine itself takes no lock and starts no thread; here it gets one lock, one timer thread that lives only while
something is due, and a guard against ``fork``.

Why one lock and not one per queue: an operation takes a few microseconds and threads of one interpreter take turns
anyway; one lock makes a publish to many queues atomic.

Why a forked child is refused: it would own a copy of every queue and talk to nobody, which is how a prefork worker on
an in-memory broker loses its results without a word.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from amqp.exceptions import RecoverableConnectionError

from transports.engine import Broker, Channel, Clock, SystemClock, VirtualClock, WouldBlock
from transports.engine.message import Message
from transports.errors import BrokerUnavailableError

__all__ = ["SharedBroker"]

TIMER_LINGER = 5.0

_living: weakref.WeakSet[SharedBroker] = weakref.WeakSet()


class SharedBroker:
    """One engine, its lock, its timer and its process.

    Callers hold :attr:`lock` while they use :attr:`engine`.
    """

    def __init__(self, vhost: str, *, clock: Clock | None = None, default_arguments: Mapping[str, Any]) -> None:
        self.lock = threading.RLock()
        self.forked = False
        self._retired = False
        self._changed = threading.Condition(self.lock)
        self._room = threading.Condition(self.lock)
        self._timer: threading.Thread | None = None
        self._agreed: dict[str, threading.Lock] = {}
        self._clock: Clock = clock or SystemClock()
        self.engine = Broker(
            vhost,
            clock=self._clock,
            default_arguments=default_arguments,
            on_due=self._wake_timer,
            on_room=self._room.notify_all,
        )
        if isinstance(self._clock, VirtualClock):
            self._clock.attach(self)
        _living.add(self)

    def check_process(self) -> None:
        """Raise BrokerUnavailableError in a forked child."""
        if self.forked:
            raise BrokerUnavailableError(
                f"the in-process broker {self.engine.vhost!r} belongs to process {os.getppid()}, which forked this "
                f"process ({os.getpid()}): a copy of its queues would reach nobody. Use the threads pool "
                "(celery worker --pool threads), or a broker that several processes share (MESSAGE_QUEUE_URL)"
            )

    def agreed_lock(self, name: str) -> threading.Lock:
        """Return the lock of a name, for users that agree not to do something at once; the broker never takes it."""
        with self.lock:
            return self._agreed.setdefault(name, threading.Lock())

    def publish(self, message: Message, block_timeout: float, channel: Channel) -> bool:
        """Publish, waiting up to ``block_timeout`` seconds of real time for room where the queue's rule is ``block``.

        Returns whether a queue was found. Raises what the engine raises; QueueFull when the wait was in vain,
        RecoverableConnectionError when ``channel`` was closed meanwhile.
        """
        with self.lock:
            try:
                return self.engine.publish(message)
            except WouldBlock as blocked:
                return self._publish_when_there_is_room(message, blocked.queue, block_timeout, channel)

    def _publish_when_there_is_room(self, message: Message, queue_name: str, timeout: float, channel: Channel) -> bool:
        waits = SystemClock()
        deadline = waits.now() + timeout
        while True:
            queue = self.engine.queues.get(queue_name)
            remaining = deadline - waits.now()
            if queue is not None:
                if remaining <= 0:
                    raise queue.full()
                queue.awaited += 1
                try:
                    self._room.wait(remaining)
                finally:
                    queue.awaited -= 1
            if not channel.open:
                raise RecoverableConnectionError(
                    f"the channel was closed while its publisher waited for {queue_name!r}"
                )
            try:
                return self.engine.publish(message)
            except WouldBlock as blocked:
                queue_name = blocked.queue

    def wake_publishers(self) -> None:
        """Let waiting publishers look again: a channel was closed. The lock is held."""
        self._room.notify_all()

    # -- time --------------------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return when the engine has something to do next (clock reading), or None."""
        with self.lock:
            return self.engine.next_due()

    def run_due(self) -> None:
        """Let the engine do what is due by now."""
        with self.lock:
            self.engine.run_due()

    def _wake_timer(self) -> None:
        # Called by the engine, so the lock is held. A virtual clock fires the timers itself.
        if self._retired or isinstance(self._clock, VirtualClock):
            return
        if self._timer is None:
            self._timer = threading.Thread(
                target=self._run_timer, name=f"liap-broker-timer {self.engine.vhost}", daemon=True
            )
            self._timer.start()
        else:
            self._changed.notify_all()

    def _run_timer(self) -> None:
        """Run what comes due; end when nothing has been due for a while."""
        with self.lock:
            try:
                while not (self.forked or self._retired):
                    due = self.engine.next_due()
                    if due is None:
                        if not self._changed.wait(TIMER_LINGER) and self.engine.next_due() is None:
                            break
                        continue
                    wait = due - self._clock.now()
                    if wait > 0:
                        self._changed.wait(min(wait, threading.TIMEOUT_MAX))
                    else:
                        self.engine.run_due()
            finally:
                self._timer = None

    def retire(self) -> None:
        """End the timer's thread: from now on what is due happens only with the next operation."""
        with self.lock:
            self._retired = True
            self._changed.notify_all()

    def mark_forked(self) -> None:
        """Make this copy unusable: it lives in a forked child now. Its lock may have been held, so it gets another."""
        self.forked = True
        self.lock = threading.RLock()


def _mark_all_forked() -> None:
    for broker in list(_living):
        broker.mark_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_all_forked)
