"""The task base class: retries, timeouts and dead letters as attributes of a task.

::

    @app.task(retry_policy=RetryPolicy(max_retries=5, initial_delay=0.2), timeout=10)
    def settle(game_id: str) -> None: ...

Why the decision is taken inside the traced call (:meth:`LiapTask.__call__`): with late acknowledgement Celery
acknowledges a message after its tracer has returned, so a dead letter published in here is safe before the original
is gone. If it cannot be published, ``Reject(requeue=True)`` sends the original back to its queue. The task's own
exception then goes on, so that state, result, ``on_failure``, error callbacks and the ``task_failure`` signal are
Celery's own and happen once. Celery's ``autoretry_for`` would do part of this, but not delays below a second, and it
acknowledges what it gives up.
"""

from __future__ import annotations

import sys
import time
import traceback
from random import Random
from types import CodeType
from typing import TYPE_CHECKING, Any

from billiard.process import current_process
from celery import Task
from celery.exceptions import Reject, SoftTimeLimitExceeded, TaskPredicate
from celery.exceptions import Retry as CeleryRetry
from celery.utils.log import get_logger
from kombu.exceptions import EncodeError
from pydantic import ValidationError

from liap_tasks import dead_letters
from liap_tasks.errors import DeadLetterError
from liap_tasks.metadata import MAX_ERROR_TEXT, Attempt, MessageMetadata, shorten
from liap_tasks.policies import (
    DeadLetter,
    DeadLetterPolicy,
    DeadLetterReason,
    DeliveryOptions,
    MessagePriority,
    Retry,
    RetryPolicy,
)
from liap_tasks.timeouts import interrupt_after

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["LiapTask"]

logger = get_logger("liap_tasks.task")
_rng = Random()

PAUSE_BEFORE_REQUEUE = 1.0
UNSENDABLE = (EncodeError, TypeError, ValueError)


class LiapTask(Task[Any, Any]):
    """A Celery task with policies. Each attribute is an option of ``@app.task(...)``.

    retry_policy: when a failed attempt is tried again. dead_letter_policy: what becomes of a message that is not.
    timeout: seconds an attempt may take, then ``SoftTimeLimitExceeded`` is raised in it; None: HANDLER_TIMEOUT_SECONDS;
    0: no limit. priority: default priority of its messages.
    """

    abstract = True
    Request = "liap_tasks.request:LiapRequest"

    retry_policy: RetryPolicy = RetryPolicy()
    dead_letter_policy: DeadLetterPolicy = DeadLetterPolicy()
    timeout: float | None = None
    priority: MessagePriority | int | None = None

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

        delivery: TTL, delay, priority and correlation id in one value; options given explicitly win.
        Raises ``QueueFullError`` when the queue's bound refuses it.
        """
        if delivery is not None:
            options = {**delivery.as_execution_options(), **options}
        if self.app.conf.task_always_eager:
            correlation_id = None if delivery is None else delivery.correlation_id
            options["headers"] = self._eager_headers(options.get("headers"), correlation_id)
        elif delivery is not None and delivery.correlation_id is not None:
            options["metadata_correlation_id"] = delivery.correlation_id
        return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)

    def apply(  # type: ignore[override]  # Celery's signature has a dozen parameters
        self, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Any:
        """Run a call here and now, retries included, without waiting; see Celery's ``apply``."""
        try:
            return super().apply(args, kwargs, **options)
        except CeleryRetry as again:
            # With task_eager_propagates Celery lets its own Retry through to the caller (celery 5.7).
            signature: Any = getattr(again, "sig", None)
            if signature is None:
                raise
            return signature.apply(retries=(options.get("retries") or 0) + 1, throw=options.get("throw"))

    def _eager_headers(self, headers: dict[str, Any] | None, correlation_id: str | None) -> dict[str, Any]:
        return {**self.app.new_metadata(correlation_id).as_headers(), **(headers or {})}

    # -- running -----------------------------------------------------------------------------------------------

    @property
    def metadata(self) -> MessageMetadata:
        """The metadata of the message that is being processed."""
        return MessageMetadata.from_headers(self.request.headers)

    @property
    def attempt(self) -> int:
        """The number of the running attempt, from 1."""
        return int(self.request.retries or 0) + 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one attempt under the task's policies; called directly, just call the function."""
        request: Any = self.request
        if request.called_directly or getattr(request, "liap_running", False):
            return super().__call__(*args, **kwargs)
        request.liap_running = True
        limit = self._limit(request)
        try:
            if not limit or in_prefork_child():  # a prefork child: Celery's own limit works there
                return self.run(*args, **kwargs)
            with interrupt_after(limit, SoftTimeLimitExceeded):
                return self.run(*args, **kwargs)
        except TaskPredicate:  # Celery's own control flow: Retry, Ignore, Reject
            raise
        except Exception as error:
            self._end_attempt(error)
            raise
        finally:
            request.liap_running = False

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Bind the task to its app (called by Celery, more than once).

        Why it hides the priority meanwhile: Celery 5.7 warns that the attribute will lose its meaning in 6.0; here it
        keeps it.
        """
        priority = cls.__dict__.get("priority")
        if priority is None:
            return super().bind(app)
        del cls.priority
        try:
            return super().bind(app)
        finally:
            cls.priority = int(priority)

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Give Celery the same limit, which it enforces in prefork children (called when the task joins its app)."""
        if cls.soft_time_limit is None:
            limit: Any = app.settings.handler_timeout_seconds if cls.timeout is None else cls.timeout or None
            cls.soft_time_limit = limit  # the stubs say int; seconds may be fractions

    def _limit(self, request: Any) -> float | None:
        asked = request.timelimit
        return (asked[1] if asked and asked[1] else None) or self.soft_time_limit

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

        countdown: seconds, below one too; default is what the retry policy's delay says. max_retries: default is the
        retry policy's. When they are spent the message becomes a dead letter, whatever its policy would say. A retry
        that cannot be published sends the message back to its queue.
        """
        request: Any = self.request
        if request.called_directly:
            return super().retry(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
        limit = self.retry_policy.max_retries if max_retries is None else max_retries
        if self.attempt <= limit:
            self._note_attempt(exc or sys.exc_info()[1])
        if countdown is None and not eta:
            countdown = self.retry_policy.delay(self.attempt, _rng)
        try:
            retried = super().retry(args, kwargs, exc, throw, eta, countdown, limit, **options)
        except Reject as failure:
            reason = getattr(failure, "reason", None)
            if isinstance(reason, UNSENDABLE):  # it will never be possible: let the attempt end as a dead letter
                request.liap_verdict = DeadLetter(DeadLetterReason.PROCESSING_FAILED, "its retry cannot be encoded")
                raise reason from exc
            # Celery would reject the message for good; it goes back to its queue instead.
            logger.critical("retry of %s[%s] could not be published: %r", self.name, request.id, reason)
            raise _back_to_its_queue(reason) from failure
        except TaskPredicate:
            raise
        except Exception:
            request.liap_verdict = self._exhausted()
            raise
        request.liap_retried = True  # only reached with throw=False: the attempt goes on, its retry is on its way
        return retried

    def _exhausted(self) -> DeadLetter:
        return DeadLetter(DeadLetterReason.RETRIES_EXHAUSTED, f"failed on attempt {self.attempt} of {self.attempt}")

    def _end_attempt(self, error: Exception) -> None:
        """Carry out the policy's decision: raise Celery's Retry, or put the message among the dead letters."""
        if getattr(self.request, "liap_retried", False):
            return
        decision = self._decide(error)
        if isinstance(decision, Retry):
            try:
                # max_retries: the policy has decided already.
                raise self.retry(exc=error, countdown=decision.delay, max_retries=self.attempt)
            except TaskPredicate:
                raise
            except Exception:
                decision = self._decide(error)  # a retry that can never be published leaves its verdict
                if isinstance(decision, Retry):
                    raise
        self._note_attempt(error)
        if self.dead_letter_policy.enabled:
            try:
                dead_letters.publish(
                    self.app,
                    self.request,
                    task=self.name,
                    verdict=decision,
                    error=error,
                    traceback="".join(traceback.format_exception(error)),
                )
            except DeadLetterError as failure:
                logger.critical("%s; its message goes back to its queue", failure)
                raise _back_to_its_queue(failure) from failure

    def _decide(self, error: Exception) -> Retry | DeadLetter:
        verdict: DeadLetter | None = getattr(self.request, "liap_verdict", None)
        if verdict is not None:
            return verdict
        if isinstance(error, ValidationError | TypeError) and self._never_began(error):
            return DeadLetter(DeadLetterReason.VALIDATION_FAILED, "the arguments do not fit the task")
        decision = self.retry_policy.decide(error, attempt=self.attempt, rng=_rng)
        exhausted = isinstance(decision, DeadLetter) and decision.reason is DeadLetterReason.RETRIES_EXHAUSTED
        if exhausted and isinstance(error, SoftTimeLimitExceeded):
            return DeadLetter(DeadLetterReason.TIMED_OUT, f"the attempt ran longer than {self._limit(self.request)} s")
        return decision

    def _never_began(self, error: Exception) -> bool:
        """Tell whether ``error`` arose before the task's own code ran: the call or a model refused the arguments."""
        function: Any = self.run
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        return code is not None and not _raised_by(error, code)

    def _note_attempt(self, error: BaseException | None) -> None:
        noted = self.metadata.attempts
        if noted and noted[-1].number == self.attempt:
            return
        attempt = Attempt(
            number=self.attempt,
            at=time.time(),
            error="" if error is None else type(error).__qualname__,
            message="the task asked for a retry" if error is None else shorten(str(error), MAX_ERROR_TEXT),
        )
        headers = self.request.headers or {}
        self.request.headers = {**headers, **self.metadata.after(attempt).as_headers()}


def _back_to_its_queue(reason: Any) -> Reject:
    """Return what to raise to give a message back, after a pause: it will be delivered again at once."""
    time.sleep(PAUSE_BEFORE_REQUEUE)
    return Reject(reason, requeue=True)


def in_prefork_child() -> bool:
    """Tell whether this is a child of Celery's prefork pool, where Celery itself enforces time limits."""
    process: Any = current_process()
    return process._parent_pid is not None


def _raised_by(error: BaseException, code: CodeType) -> bool:
    """Tell whether the function with this code object was on the stack when ``error`` was raised."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code is code:
            return True
        step = step.tb_next
    return False
