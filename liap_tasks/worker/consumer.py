"""The worker's consumer, set as ``worker_consumer``: what arrives is looked at before Celery does.

What no task can take becomes a dead letter (:mod:`liap_tasks.worker.unreadable`); what was delivered before is counted
where the broker does not (:mod:`liap_tasks.worker.redelivery`). An event is addressed to its subscribers
(:mod:`liap_tasks.worker.event_copies`). While a worker runs in this process it takes up the queues and tasks of
subscribers that are added later (:meth:`LiapConsumer.refresh`). A task whose type is limited may have to
wait before it gets to the pool (:mod:`liap_tasks.worker.waiting_lines`), one of a batch task waits for its batch
(:mod:`liap_tasks.worker.batch_collector`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from amqp.exceptions import ChannelError, PreconditionFailed, RecoverableConnectionError
from celery.exceptions import NotRegistered, WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.utils.log import get_logger
from celery.worker.consumer import Consumer
from celery.worker.control import control_command

from liap_tasks.batches import BatchTask, run_batch
from liap_tasks.configuration import counts_deliveries
from liap_tasks.policies import DeadLetterReason
from liap_tasks.time_source import call_after, clock_of
from liap_tasks.worker.batch_collector import BatchCollector, window_of
from liap_tasks.worker.declared_otherwise import advice
from liap_tasks.worker.event_copies import deliver_event, is_event, nobody_for
from liap_tasks.worker.neighbours import let_workers_meet
from liap_tasks.worker.redelivery import HEADER as REDELIVERIES
from liap_tasks.worker.redelivery import PAUSE_WHILE_FULL, put_back_counted
from liap_tasks.worker.unreadable import Kept, flaw_of, keep
from liap_tasks.worker.waiting_lines import WaitingLines
from transports import QueueFullError

__all__ = ["LiapConsumer"]

logger = get_logger("liap_tasks.worker")

PREFETCH_MAX = 0xFFFF
"""What AMQP can say; a thousand coroutines times the multiplier stay below it."""

FEW_IN_HAND = 1
"""Messages behind the one that is looked at: an event that two queues have is two messages at once."""

REFRESH_COMMAND = "refresh_subscribers"


class LiapConsumer(Consumer):
    """Celery's consumer, knowing events."""

    loop: Callable[..., Any]
    connection: Any
    task_consumer: Any
    strategies: dict[str, Any]
    connection_errors: Any
    pool: Any
    initial_prefetch_count: int
    on_task_request: Any
    qos: Any
    controller: Any
    timer: Any
    hub: Any
    app: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        let_workers_meet()
        super().__init__(*args, **options)
        self.loop = self._losing_channel_as_connection(self.loop)
        self._queue_of: dict[str | None, str] = {}
        self._held: dict[Any, None] = {}  # messages that were delivered before, and whose queue is full
        if self.initial_prefetch_count:  # 0: the prefetch is not limited
            room = self.initial_prefetch_count + window_of(self.app.tasks.values())
            self.initial_prefetch_count = min(room, PREFETCH_MAX)
        # Another process has an app of its own, and could not be given this one.
        run = run_batch if self.pool.uses_semaphore else partial(run_batch, app=self.app)
        self.batches = BatchCollector(run, self._apply_in_pool, self._call_after)
        self.waiting_lines = WaitingLines(self.on_task_request, self._widen_prefetch)
        self.on_task_request = self._admit
        self._let_begin: Callable[[], None] | None = getattr(self.pool, "let_begin", None)

    def start(self) -> None:
        """Consume until the worker ends; a queue that was declared otherwise ends the program with one line."""
        try:
            super().start()
        except PreconditionFailed as error:
            line = advice(str(error))
            if line is None or getattr(self.controller, "embedded", False):  # whose caller gets the error itself
                raise
            logger.critical("this worker cannot start: %s", line)
            raise WorkerShutdown(EX_FAILURE) from error

    def _losing_channel_as_connection(self, loop: Callable[..., Any]) -> Callable[..., Any]:
        """Return Celery's loop, ending as when the connection is lost where the broker closes the worker's channel.

        RabbitMQ does that for a message that is not acknowledged in half an hour (its ``consumer_timeout``): a call
        with a longer delay is one. The worker would end for it (celery 5.7); now it connects again, and the message
        comes anew.
        """

        @wraps(loop)
        def run(*args: Any) -> Any:
            try:
                return loop(*args)
            except ChannelError as error:
                if not issubclass(RecoverableConnectionError, self.connection_errors):
                    raise
                raise RecoverableConnectionError(f"the broker has closed this worker's channel: {error}") from error

        return run

    def _admit(self, request: Any) -> None:
        """Take up a request: it waits for its batch, or for its turn, or begins.

        With little in hand it is let begin before the next message is looked at. With much the threads get the
        interpreter soon enough, and changing from one to another each time would cost a third of the throughput.
        """
        if isinstance(request.task, BatchTask):
            self.batches.admit(request)
            return
        self.waiting_lines.admit(request)
        if self._let_begin is not None and self._in_hand() <= FEW_IN_HAND:
            self._let_begin()

    def _in_hand(self) -> float:
        """Return how many messages have arrived that this consumer has not looked at, as far as one can know."""
        channel: Any = getattr(self.task_consumer, "channel", None)  # neither is there while it connects again
        in_hand: float = getattr(getattr(channel, "connection", None), "in_hand", math.inf)
        return in_hand

    def _apply_in_pool(self, *args: Any, **options: Any) -> Any:
        return self.pool.apply_async(*args, **options)

    def _call_after(self, seconds: float, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if self.hub is not None:
            return self.timer.call_after(seconds, function, args)
        # Celery's timer thread looks at a new entry up to a second late (celery 5.7, timer2).
        return call_after(clock_of(self.app), seconds, function, args)

    def add_task_queue(self, queue: Any, exchange: Any = None, *args: Any, **options: Any) -> Any:
        """Consume one more queue (``celery control add_consumer``): the one that calls to this name go to.

        Celery would declare another of that name, and end for the refusal (celery 5.7).
        """
        if exchange is None and queue not in self.app.amqp.queues:
            self.app.amqp.queues.add(self.app.missing_queue(queue))
        return super().add_task_queue(queue, exchange, *args, **options)

    def stop(self) -> None:
        """Called when the worker stops, before its pool does."""
        self.batches.run_waiting_here()
        super().stop()

    def _widen_prefetch(self, change: int) -> None:
        """Change how many messages the broker may deliver; the consumer's thread tells it when it looks next."""
        if change > 0:
            self.qos.increment_eventually(change)
        else:
            self.qos.decrement_eventually(-change)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Called when the connection is lost; Celery cancels what it knows to run."""
        self._hear_what_began()
        connection: Any = self.connection
        if connection is not None:
            connection.close = partial(_close_broken, connection.close)
        try:
            super().on_connection_error_after_connected(exc)
        finally:
            if connection is not None:
                del connection.close

    def cancel_active_requests(self) -> None:
        """Called by a cold shutdown."""
        self._hear_what_began()
        super().cancel_active_requests()

    def _hear_what_began(self) -> None:
        tell = getattr(self.pool, "tell_here", None)  # our pools tell in this thread
        if tell is not None:
            tell()

    def on_close(self) -> None:
        """Called when the connection is lost, or the worker stops."""
        super().on_close()
        self._held.clear()
        self.batches.forget()
        self.waiting_lines.forget_waiting()

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """Return what is called for each message."""
        app: Any = self.app
        handle = super().create_task_handler(*args, **options)
        counting = not counts_deliveries(app.conf.broker_read_url or app.conf.broker_url)

        def on_message(message: Any) -> Any:
            headers = message.headers
            flaw = flaw_of(message)
            if flaw is not None:
                return self.on_decode_error(message, flaw)
            if counting:
                if message.delivery_info.get("redelivered"):
                    return self._put_back(message)
                if headers and REDELIVERIES in headers:  # it has come round: what the broker said of it holds
                    message.delivery_info["redelivered"] = True
            if is_event(message):
                return deliver_event(app, message, self.queue_of(message), handle_known, self._leave_waiting)
            return handle_known(message) if headers and "task" in headers else handle(message)

        def handle_known(message: Any) -> Any:
            name = message.headers["task"]
            if name not in self.strategies and name in app.tasks:  # it was added to the app a moment ago
                self.refresh()
            return handle(message)

        return on_message

    def _leave_waiting(self, message: Any) -> None:
        """Put an event back whose queue has been left by its last subscriber, and consume that no more."""
        self.refresh()  # of the workers of this process only embedded ones are told of it
        message.reject_log_error(logger, self.connection_errors, requeue=True)

    def queue_of(self, message: Any) -> str:
        """Return the name of the queue that a message came from."""
        tag = message.delivery_info.get("consumer_tag")
        queue = self._queue_of.get(tag)
        if queue is None:
            # kombu keeps the other direction: {queue name: consumer tag}
            self._queue_of.update({known: name for name, known in self.task_consumer._active_tags.items()})
            queue = self._queue_of.get(tag, "")
        return queue

    def _put_back(self, message: Any) -> None:
        """Put a message that was delivered before back into its queue, counted; hold it as long as that is full."""
        app: Any = self.app
        try:
            put_back_counted(app, message, self.queue_of(message), self.connection_errors)
        except QueueFullError as full:
            if message not in self._held:
                logger.warning(
                    "message %s was delivered before and is held to be counted: %s", message.headers.get("id"), full
                )
                self._held[message] = None
                self._widen_prefetch(1)
            self._call_after(PAUSE_WHILE_FULL, self.call_soon, (self._put_back_held, message))
        else:
            if message in self._held:
                del self._held[message]
                self._widen_prefetch(-1)

    def _put_back_held(self, message: Any) -> None:
        """Try again, unless the connection by which it came is gone: then it is delivered anew."""
        if message in self._held:
            self._put_back(message)

    def on_unknown_task(self, body: Any, message: Any, exc: Any) -> None:
        """Called for a task that is not registered here: a dead letter, and a failed result for who waits for it."""
        error = NotRegistered((message.headers or {}).get("task"))
        detail = nobody_for(message) if is_event(message) else "no such task is registered here"
        if self._keep(message, DeadLetterReason.NO_HANDLER, detail, error):
            super().on_unknown_task(body, Kept(message), exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Called for a message that is no task message."""
        if self._keep(message, DeadLetterReason.UNDECODABLE, "it is no task message", None):
            super().on_unknown_message(body, Kept(message))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Called for a task message of which no request can be made."""
        if self._keep(message, DeadLetterReason.UNDECODABLE, "it is no valid task message", exc):
            super().on_invalid_task(body, Kept(message), exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Called for a message that cannot be read."""
        if self._keep(message, DeadLetterReason.UNDECODABLE, "it cannot be read", exc):
            super().on_decode_error(Kept(message), exc)

    def _keep(self, message: Any, reason: DeadLetterReason, detail: str, error: Exception | None) -> bool:
        app: Any = self.app
        return keep(app, message, self.queue_of(message), reason, detail, error, self.connection_errors)

    def refresh(self) -> None:
        """Know the tasks and consume the event queues that the app has by now; called in the worker's thread."""
        app: Any = self.app
        self.update_strategies()
        for name in app.left_event_queues():
            if self.task_consumer.consuming_from(name):
                self.task_consumer.cancel_by_queue(name)
        events = app.event_queue_names()
        for name in list(app.amqp.queues.consume_from):  # of a copy: another thread may subscribe meanwhile
            if name in events and not self.task_consumer.consuming_from(name):
                self.add_task_queue(name)


def _close_broken(close: Callable[[], None]) -> None:
    """Close a connection that is lost.

    kombu's redis transport gives back what is not acknowledged then, which fails while Redis is away, with an error
    that ends the worker (kombu 5.7); the messages are in Redis, and come back after their ``visibility_timeout``.
    """
    try:
        close()
    except AttributeError:
        logger.debug("a lost connection could not be closed", exc_info=True)


@control_command(name=REFRESH_COMMAND)
def _refresh_subscribers(state: Any, **_: Any) -> None:
    """Let a worker take up subscribers that were added while it runs."""
    if isinstance(state.consumer, LiapConsumer):
        state.consumer.refresh()
