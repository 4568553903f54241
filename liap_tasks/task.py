"""The task base class: retries, timeouts and dead letters as attributes of a task.

::

    @app.task(retry_policy=RetryPolicy(max_retries=5, initial_delay=0.2), timeout=10)
    def settle(game_id: str) -> None: ...

How an attempt runs is in :mod:`liap_tasks.attempt`, how it ends in :mod:`liap_tasks.ending`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TaskPredicate
from celery.exceptions import Retry as CeleryRetry
from celery.utils.log import get_logger

from liap_tasks import around_attempt, calls
from liap_tasks.attempt import run_attempt
from liap_tasks.calls import AwaitableResult
from liap_tasks.continuation import keep_call
from liap_tasks.coroutines.running import is_coroutine_task
from liap_tasks.dead_letters import UNSENDABLE
from liap_tasks.ending import back_to_its_queue, note_attempt, note_decided
from liap_tasks.giving_up import given_up
from liap_tasks.handlers import MessageFilter
from liap_tasks.keys import Key, headers_of_retry, key_of
from liap_tasks.limits import OuterLimit
from liap_tasks.metadata import MessageMetadata, deadline_in
from liap_tasks.policies import (
    DeadLetter,
    DeadLetterPolicy,
    DeadLetterReason,
    DeliveryOptions,
    MessagePriority,
    RetryPolicy,
    Unique,
)
from liap_tasks.policies.deadline import deadline_from
from liap_tasks.policies.durations import TEN_YEARS, in_seconds
from liap_tasks.received import sent_call
from liap_tasks.settings import settings_of
from liap_tasks.unique.keeper import HeldLock
from liap_tasks.unique.publishing import continues_a_call, publish_unique

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["LiapTask"]

logger = get_logger("liap_tasks.task")
_rng = Random()

COROUTINE_SLACK = 1.0


class LiapTask(Task[Any, Any]):
    """A Celery task with policies. Each attribute is an option of ``@app.task(...)``.

    retry_policy: when a failed attempt is tried again. dead_letter_policy: what becomes of a message that
    is not; None: the app's, which the settings DLQ_* make.
    timeout: seconds (or a timedelta) an attempt may take, at most ten years, then ``SoftTimeLimitExceeded`` is raised
    in it; None: HANDLER_TIMEOUT_SECONDS; 0: no limit. grace: the same that it then has to clean up; a process of the
    prefork pool is killed after them. priority: default priority of its messages. fallback: a function with the task's
    arguments that answers instead when the deadline of a call has passed or its attempts are spent; it must be quick.
    It cannot answer for an attempt that had to be given up or killed: a thread that cannot be interrupted, a process
    that does not heed its limit.
    ordering_key: calls with the same key run in the order of their publish, one at a time, retries included.
    dedup_key: a second call with the same key within DEDUP_WINDOW_SECONDS is taken by the broker and dropped: its
    result never comes. A key is the name of an argument or a function of (args, kwargs); None: none.
    unique: at most one call of a key at a time, see :class:`Unique`; None: any number.
    filters: asked with the message before an attempt; one that says no ends it there, acknowledged.
    max_concurrent: how many of this task a worker runs at once, whatever its pool; None or 0: as many as the pool does.
    A value out of bounds raises ValueError when the task joins its app.
    """

    abstract = True
    Request = "liap_tasks.worker.request:LiapRequest"
    reject_on_worker_lost = False  # a lost attempt is ended as any other, see liap_tasks.worker.lost_attempts

    retry_policy: RetryPolicy = RetryPolicy()
    dead_letter_policy: DeadLetterPolicy | None = None
    timeout: float | None = None
    grace: float = 5.0
    priority: MessagePriority | int | None  # Celery's, None
    fallback: Callable[..., Any] | None = None
    max_concurrent: int | None = None
    ordering_key: Key = None
    dedup_key: Key = None
    unique: Unique | None = None
    filters: Sequence[MessageFilter] = ()

    is_coroutine = False
    """Whether the task's function is ``async def``; found out when the task joins its app."""

    if TYPE_CHECKING:
        app: LiapApp

    # -- publishing --------------------------------------------------------------------------------------------

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        delivery: DeliveryOptions | None = None,
        **options: Any,
    ) -> Any:
        """Publish a call; see Celery's ``apply_async`` for the options.

        delivery: TTL, delay, priority, correlation id and deadline in one value; options given explicitly win.
        deadline (POSIX seconds or a datetime) or answer_within (seconds): until when an answer is of use. The message
        expires then, an attempt is interrupted then, no retry is begun after it, and the rest of a chain has it too.
        ordering_key, dedup_key: instead of what the task's attributes say.
        Raises ``QueueFullError`` when the queue's bound refuses it; InvalidArgumentError for a key on a broker or a
        queue that would ignore it; DuplicateTaskError when the task is unique and another call has the key, unless its
        policy returns that call's result; UniqueStoreError when the locks of unique tasks cannot be reached.
        """
        if delivery is not None:
            options = {**delivery.as_execution_options(), **options}
        try:
            if options and continues_a_call(options, task_id):
                options["headers"] = headers_of_retry(options.get("headers"))
            else:
                for name, key in (("ordering_key", self.ordering_key), ("dedup_key", self.dedup_key)):
                    if key is not None and options.get(name) is None:
                        options[name] = key_of(self.run, key, tuple(args or ()), dict(kwargs or {}))
            if self.app.prepared_calls.eager:
                options.pop("ordering_key", None)  # one after the other anyway
                options.pop("dedup_key", None)  # nothing is kept between two calls
                correlation_id = None if delivery is None else delivery.correlation_id
                deadline = deadline_from(
                    deadline=options.pop("deadline", None),
                    answer_within=options.pop("answer_within", None),
                    now=self.app.time_source.time(),
                )
                options["headers"] = {
                    **self.app.new_headers(correlation_id, deadline),
                    **(options.get("headers") or {}),
                }
            elif delivery is not None and delivery.correlation_id is not None:
                options["metadata_correlation_id"] = delivery.correlation_id
            return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)
        except Exception as error:
            own = self._get_exec_options()  # type: ignore[attr-defined]  # not in the stubs
            named = {"task_id": task_id, "link": link, "link_error": link_error, "shadow": shadow}
            kept = keep_call(self.app, self.name, args, kwargs, {**own, **options, **named}, error)
            if kept is None:
                raise
            return kept

    async def adelay(self, *args: Any, **kwargs: Any) -> AwaitableResult:
        """Publish a call from a coroutine; ``delay`` without blocking the loop, see :meth:`aapply_async`."""
        return await calls.publish(self, args, kwargs)

    async def aapply_async(
        self, args: Any = (), kwargs: Any = None, *, timeout: float = calls.PUBLISH_SECONDS, **options: Any
    ) -> AwaitableResult:
        """Publish a call from a coroutine; options are those of :meth:`apply_async`.

        timeout: seconds the publish may take. Raises ``QueueFullError``, or ``BrokerUnavailableError`` by then.
        The result has ``await result.aget(timeout=...)`` for calls with ``ignore_result=False``.
        """
        return await calls.publish(self, tuple(args or ()), kwargs or {}, timeout=timeout, **options)

    async def call(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Publish a call from a coroutine, wait for its answer and return it; raise what the task raised.

        timeout: seconds for all of it, also the message's deadline; default is the task's time limit. When they have
        passed the task's fallback answers, or ``AnswerTimeoutError`` is raised. Use :meth:`acall` for a task that has
        an argument called timeout, and for other options.
        """
        return await calls.answer(self, args, kwargs, timeout=timeout)

    async def acall(self, args: Any = (), kwargs: Any = None, *, timeout: float | None = None, **options: Any) -> Any:
        """Do what :meth:`call` does; options are those of :meth:`apply_async`."""
        return await calls.answer(self, tuple(args or ()), kwargs or {}, timeout=timeout, **options)

    def call_and_wait(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Do what :meth:`call` does in a program without an event loop, blocking this thread."""
        return calls.answer_now(self, args, kwargs, timeout=timeout)

    def submit(self, args: Any = (), kwargs: Any = None, **options: Any) -> AwaitableResult:
        """Publish a call in this thread and return at once; its ``answered`` is a ``concurrent.futures.Future``.

        For a program that has many calls on their way: one thread receives all answers. options: ``apply_async``'s.
        The future holds the result's meta data; ``get`` returns the value. Needs ``rpc://``.
        """
        return calls.submit(self, tuple(args or ()), kwargs or {}, **options)

    def apply(  # type: ignore[override]  # Celery's signature has a dozen parameters
        self, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Any:
        """Run a call here and now, retries included, without waiting; see Celery's ``apply``.

        In an attempt of another task, whose limit or deadline passes meanwhile, ``SoftTimeLimitExceeded`` ends both.
        """
        if self.unique is None:
            return self._apply(args, kwargs, **options)
        return publish_unique(
            self.app, self, args, kwargs, options, lambda options: self._apply(args, kwargs, **options), eager=True
        )

    def _apply(self, args: Any, kwargs: Any, **options: Any) -> Any:
        try:
            return super().apply(args, kwargs, **options)
        except OuterLimit as limit:
            raise SoftTimeLimitExceeded from limit
        except CeleryRetry as again:
            # With task_eager_propagates Celery lets its own Retry through to the caller (celery 5.7).
            signature: Any = getattr(again, "sig", None)
            if signature is None:
                raise
            return signature.apply(retries=(options.get("retries") or 0) + 1, throw=options.get("throw"))

    # -- running -----------------------------------------------------------------------------------------------

    _tracer: around_attempt.Tracer | None = None

    @property
    def __trace__(self) -> around_attempt.Tracer | None:
        """What runs a call of the task in a worker; set by Celery."""
        return self._tracer

    @__trace__.setter
    def __trace__(self, trace: around_attempt.Tracer | None) -> None:
        self._tracer = None if trace is None else around_attempt.complete(self, trace)

    @property
    def metadata(self) -> MessageMetadata:
        """The metadata of the message that is being processed."""
        return MessageMetadata.from_headers(self.request.headers)

    @property
    def deadline(self) -> float | None:
        """POSIX seconds until which an answer of the running attempt is of use, None: always."""
        return deadline_in(self.request.headers)

    @property
    def unique_lock(self) -> HeldLock | None:
        """The lock of the running attempt, with its fencing token; None if the task or the call is not unique.

        Also None with ``until="started"``, and where ``fail_open`` let the call go on without.
        """
        return getattr(self.request, "liap_unique_lock", None)

    @property
    def attempt(self) -> int:
        """The number of the running attempt, from 1."""
        return int(self.request.retries or 0) + 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one attempt under the task's policies; called directly, just call the function."""
        request: Any = self.request
        if request.called_directly or getattr(request, "liap_running", False):
            return super().__call__(*args, **kwargs)
        return run_attempt(self, args, kwargs)

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Bind the task to its app (called by Celery, more than once).

        Why it hides the priority the first time: Celery 5.7 warns that the attribute will lose its meaning in 6.0; here
        it keeps it. Later Celery does not look, and somebody may be reading it.
        """
        priority = cls.__dict__.get("priority")
        if priority is None or cls.__bound__:
            return super().bind(app)
        del cls.priority
        try:
            return super().bind(app)
        finally:
            if cls.__dict__.get("priority") in (None, app.conf.task_default_priority):  # not annotated meanwhile
                cls.priority = int(priority)

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Give Celery the same limit, which it enforces in prefork children (called when the task joins its app)."""
        cls.is_coroutine = is_coroutine_task(cls)
        if cls.max_concurrent is not None and cls.max_concurrent < 0:
            raise ValueError(f"max_concurrent of {cls.name} must be at least 0 (no limit), not {cls.max_concurrent}")
        if cls.unique is not None and not isinstance(cls.unique, Unique):
            raise ValueError(f"unique of {cls.name} must be a Unique(...), not {cls.unique!r}")
        if cls.timeout is not None:
            cls.timeout = in_seconds(f"timeout of {cls.name}", cls.timeout, at_most=TEN_YEARS)
        cls.grace = in_seconds(f"grace of {cls.name}", cls.grace, at_most=TEN_YEARS)
        if cls.soft_time_limit is None:
            limit: Any = settings_of(app).handler_timeout_seconds if cls.timeout is None else cls.timeout or None
            cls.soft_time_limit = limit  # the stubs say int; seconds may be fractions
        if cls.soft_time_limit and cls.time_limit is None:
            hard: Any = cls.soft_time_limit + cls.grace
            if cls.is_coroutine:  # its own grace ends first: a coroutine can be abandoned, its thread need not be
                hard += COROUTINE_SLACK
            cls.time_limit = hard

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Exception | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        """Publish another attempt and raise Celery's ``Retry``; see Celery's ``retry``.

        args, kwargs: default is what the call was sent with, whatever the attempt has done to it since. countdown:
        seconds, below one too; default is what the retry policy's delay says. max_retries: default is the retry
        policy's. When they are spent the message becomes a dead letter, whatever its policy would say. A retry
        that cannot be published sends the message back to its queue.
        """
        request: Any = self.request
        if request.called_directly:
            return super().retry(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
        if given_up():
            raise Ignore("it was given up")
        limit = self.retry_policy.max_retries if max_retries is None else max_retries
        if self.attempt <= limit:
            note_attempt(self, exc or sys.exc_info()[1])
        if countdown is None and not eta:
            countdown = self.retry_policy.delay(self.attempt, _rng)
        if args is None or kwargs is None:
            sent_args, sent_kwargs = sent_call(request, self.app)
            args, kwargs = sent_args if args is None else args, sent_kwargs if kwargs is None else kwargs
        try:
            retried = super().retry(args, kwargs, exc, throw, eta, countdown, limit, **options)
        except Reject as failure:
            reason = getattr(failure, "reason", None)
            if isinstance(reason, UNSENDABLE):  # it will never be possible: let the attempt end as a dead letter
                request.liap_verdict = DeadLetter(
                    DeadLetterReason.PROCESSING_FAILED, "its retry can never be published"
                )
                raise reason from exc
            # Celery would reject the message for good; it goes back to its queue instead.
            logger.critical("retry of %s[%s] could not be published: %r", self.name, request.id, reason)
            raise back_to_its_queue(reason) from failure
        except CeleryRetry:  # it is published: what fails from here on must not make a dead letter of it, too
            note_decided(self)
            raise
        except TaskPredicate:
            raise
        except Exception:
            request.liap_verdict = self._exhausted()
            raise
        note_decided(self)
        request.liap_retried = True  # only reached with throw=False: the attempt goes on, its retry is on its way
        return retried

    def _exhausted(self) -> DeadLetter:
        return DeadLetter(DeadLetterReason.RETRIES_EXHAUSTED, f"failed on attempt {self.attempt} of {self.attempt}")
