"""Calling tasks from a coroutine: nothing here blocks its event loop.

:func:`publish` hands the publish to a small pool of threads and waits for it as long as the caller wants to;
:func:`answer` waits for the result too, and has the task's fallback answer when none comes in time. ``LiapTask`` offers
them as ``adelay``, ``aapply_async`` and ``call``; :func:`answer_now` is the same for a program without a loop.

Why threads: kombu's clients block, and a publish to a broker that is away takes seconds. A caller who has stopped to
wait is told so; a publish that had begun by then may still arrive, and expires with the call's deadline if it has one.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from amqp.exceptions import AccessRefused, NotAllowed
from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, EagerResult
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError

from liap_tasks.errors import AnswerTimeoutError, ConfigurationError
from liap_tasks.policies.deadline import reserved_for_fallback
from transports import BrokerUnavailableError, QueueFullError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp
    from liap_tasks.task import LiapTask

__all__ = ["PUBLISH_SECONDS", "AwaitableResult", "answer", "answer_now", "publish", "reached"]

logger = get_logger("liap_tasks.calls")

PUBLISH_SECONDS = 5.0
FIRST_LOOK = 0.01
LAST_LOOK = 0.5

T = TypeVar("T")
Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


class AwaitableResult(AsyncResult):  # type: ignore[type-arg]  # generic in the stubs only
    """A call's result, which a coroutine can wait for: ``await result.aget(timeout=...)``."""

    _answer: Future[Mapping[str, Any]] | None = None
    _answered_elsewhere = False

    @property
    def answered(self) -> Future[Any]:
        """A future that is done when the answer is there, for ``concurrent.futures.wait``; only with ``rpc://``."""
        if self._answer is None:
            raise RuntimeError(f"call {self.id} has no future: its result backend can only be asked")
        return self._answer

    async def aget(self, timeout: float | None = None) -> Any:
        """Return the task's result when it is there; raise what the task raised.

        timeout: seconds, None for ever. Raises AnswerTimeoutError when they have passed, RuntimeError when the call
        asked for no result (``ignore_result=False`` asks).
        """
        if getattr(self, "ignored", False):
            raise RuntimeError(f"call {self.id} asked for no result; ask with ignore_result=False")
        self._check_answered_here()
        try:
            async with asyncio.timeout(timeout):
                if self._answer is None:
                    meta = await self._look()
                else:
                    meta = await asyncio.shield(asyncio.wrap_future(self._answer))
        except TimeoutError:
            raise AnswerTimeoutError(self.id, timeout or 0.0) from None
        return _value(meta)

    def get(self, timeout: float | None = None, *args: Any, **options: Any) -> Any:
        """Return the task's result, blocking this thread; see Celery's ``AsyncResult.get``."""
        self._check_answered_here()
        if self._answer is None:
            return super().get(timeout, *args, **options)
        try:
            return _value(self._answer.result(timeout))
        except FutureTimeoutError:
            raise AnswerTimeoutError(self.id, timeout or 0.0) from None

    def _check_answered_here(self) -> None:
        if self._answered_elsewhere:
            raise RuntimeError(
                f"call {self.id}, which has the unique key, was made elsewhere, and only there it is answered: "
                "use a result backend that keeps results"
            )

    async def _look(self) -> Mapping[str, Any]:
        """Ask a result backend that can only be asked, ever less often."""
        pause = FIRST_LOOK
        while True:
            meta: Mapping[str, Any] = await asyncio.to_thread(self.backend.get_task_meta, self.id)
            if meta["status"] in states.READY_STATES:
                return meta
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_LOOK)


def _value(meta: Mapping[str, Any]) -> Any:
    if meta["status"] == states.SUCCESS:
        return meta["result"]
    raise meta["result"]


async def publish(
    task: LiapTask, args: Args, kwargs: Kwargs, *, timeout: float = PUBLISH_SECONDS, **options: Any
) -> AwaitableResult:
    """Publish a call without blocking the loop and return its result's handle; options are ``apply_async``'s.

    timeout: seconds the publish may take. Raises BrokerUnavailableError when the broker cannot be reached or has not
    taken the message by then, QueueFullError when the queue refuses it.
    """
    if task.app.conf.task_always_eager:
        return _done(task, await asyncio.to_thread(task.apply_async, args, dict(kwargs), **options))
    sending = _Sending(task, args, kwargs, options)
    try:
        async with asyncio.timeout(timeout):
            return sending.result(await asyncio.wrap_future(sending.future))
    except TimeoutError:
        raise sending.too_slow(timeout) from None
    except BaseException:
        sending.give_up()
        raise


async def run_in_publishing_thread(app: LiapApp, work: Callable[[], T], timeout: float, what: str) -> T:
    """Run a publish in one of the publishing threads without blocking the loop, and return its result.

    timeout: seconds it may take. what: what is published, for the error. Raises BrokerUnavailableError when the broker
    cannot be reached or has not taken it by then.
    """
    future = app.publishing_threads.submit(reached, app, work)
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        future.cancel()
        raise _too_slow(app, what, timeout) from None


def publish_now(task: LiapTask, args: Args, kwargs: Kwargs, *, timeout: float, **options: Any) -> AwaitableResult:
    """Do what :func:`publish` does, blocking this thread."""
    if task.app.conf.task_always_eager:
        return _done(task, task.apply_async(args, dict(kwargs), **options))
    sending = _Sending(task, args, kwargs, options)
    try:
        return sending.result(sending.future.result(timeout))
    except FutureTimeoutError:
        raise sending.too_slow(timeout) from None
    except BaseException:
        sending.give_up()
        raise


def submit(task: LiapTask, args: Args, kwargs: Kwargs, **options: Any) -> AwaitableResult:
    """Publish a call in this thread and return its result's handle, whose future many calls may be waited for with.

    options: ``apply_async``'s. Raises what it raises; ConfigurationError for a result backend that can only be asked.
    """
    app = task.app
    if app.conf.task_always_eager:
        return _done(task, task.apply_async(args, dict(kwargs), **options))
    if not isinstance(app.backend, RPCBackend):
        raise ConfigurationError("result_backend", type(app.backend).__name__, "rpc://, for futures")
    task_id = options.pop("task_id", None) or str(uuid4())
    expected = _Expected(task, task_id)
    try:
        with app.replies.named():
            published = task.apply_async(args, dict(kwargs), task_id=task_id, **{**options, "ignore_result": False})
    except BaseException:
        expected.forget()
        raise
    result = AwaitableResult(published.id, app=app)
    result.ignored = False
    expected.give_to(result)
    return result


class _Expected:
    """The answer to a call that is being published, as far as anybody knows yet: another call may have its key."""

    def __init__(self, task: LiapTask, task_id: str) -> None:
        self._replies = task.app.replies
        self._id = task_id
        shares = task.unique is not None and task.unique.on_conflict == "return"
        self._overhearing = self._replies.overhear() if shares else None
        self._answer = self._replies.expect(task_id)

    def give_to(self, result: AwaitableResult) -> None:
        """Let a published call's result have the answer, or that of the call that has its key."""
        if result.id == self._id:
            result._answer = self._answer
        else:
            result._answer = self._replies.share(result.id)
            result._answered_elsewhere = result._answer is None
            self._replies.withdraw(self._id)
        self._end()

    def forget(self) -> None:
        """Nobody waits for it any more. May be called more than once."""
        self._replies.forget(self._id, self._answer)
        self._end()

    def _end(self) -> None:
        if self._overhearing is not None:
            self._overhearing.end()


class _Sending:
    """A publish under way in one of the publishing threads."""

    def __init__(self, task: LiapTask, args: Args, kwargs: Kwargs, options: dict[str, Any]) -> None:
        self._task = task
        self._app = app = task.app
        self._id = options.pop("task_id", None) or str(uuid4())
        ignored = options.get("ignore_result")
        wanted = not (task.ignore_result if ignored is None else ignored)
        threads = app.publishing_threads
        self._expected = _Expected(task, self._id) if wanted and isinstance(app.backend, RPCBackend) else None
        self.future = threads.submit(
            reached, app, partial(task.apply_async, args, dict(kwargs), task_id=self._id, **options)
        )

    def result(self, published: Any) -> AwaitableResult:
        """Return the handle of what has been published."""
        result = AwaitableResult(published.id, app=self._app)
        result.ignored = published.ignored
        if self._expected is not None:
            self._expected.give_to(result)
            weakref.finalize(result, self._app.replies.forget, result.id, result._answer).atexit = False
        return result

    def give_up(self) -> None:
        """Send it no more if it has not begun, and expect no answer."""
        self.future.cancel()
        if self._expected is not None:
            self._expected.forget()

    def too_slow(self, timeout: float) -> BrokerUnavailableError:
        """Give up, and return what to raise."""
        self.give_up()
        return _too_slow(self._app, f"task {self._task.name}[{self._id}]", timeout)


def reached(app: LiapApp, work: Callable[[], T]) -> T:
    """Do some work that needs the broker; raises BrokerUnavailableError when that cannot be reached."""
    try:
        return work()
    except (OperationalError, AccessRefused, NotAllowed) as error:  # wrong password, no such virtual host
        raise BrokerUnavailableError(
            f"the broker {_broker(app)} cannot be reached: {error}; start it, or check MESSAGE_QUEUE_URL"
        ) from error


def _too_slow(app: LiapApp, what: str, timeout: float) -> BrokerUnavailableError:
    return BrokerUnavailableError(
        f"the broker {_broker(app)} has not taken {what} within {timeout:g} s: is it running? "
        "The message may still arrive"
    )


def _broker(app: LiapApp) -> str:
    return str(app.connection_for_write().as_uri())


def _done(task: LiapTask, ended: Any) -> AwaitableResult:
    """Return the handle of a call that ran eagerly."""
    result = AwaitableResult(ended.id, app=task.app)
    if not isinstance(ended, EagerResult):  # the task is unique, and another thread runs the call that has the key
        result._answered_elsewhere = True
        return result
    result._answer = Future()
    result._answer.set_result({"status": ended.state, "result": ended.result})
    return result


async def answer(task: LiapTask, args: Args, kwargs: Kwargs, *, timeout: float | None = None, **options: Any) -> Any:
    """Publish a call, wait for its answer without blocking the loop, and return it; options are ``apply_async``'s.

    timeout: seconds until which an answer is of use, for the publish and the work together; default is the task's time
    limit. The task's fallback answers in time when no worker does. Without one: raises AnswerTimeoutError,
    BrokerUnavailableError, QueueFullError. Raises what the task raised.
    """
    call = _Call(task, timeout)
    try:
        result = await publish(task, args, kwargs, timeout=call.left(), **call.options(options))
    except (BrokerUnavailableError, QueueFullError) as error:
        fallback = call.fallback_after(error)
    else:
        try:
            return await result.aget(call.left())
        except AnswerTimeoutError:
            fallback = call.fallback_after(AnswerTimeoutError(result.id, call.timeout))
        finally:
            task.app.replies.forget(result.id, result._answer)
    if inspect.iscoroutinefunction(inspect.unwrap(fallback)):
        return await fallback(*args, **kwargs)
    return await asyncio.to_thread(fallback, *args, **kwargs)


def answer_now(task: LiapTask, args: Args, kwargs: Kwargs, *, timeout: float | None = None, **options: Any) -> Any:
    """Do what :func:`answer` does, blocking this thread."""
    call = _Call(task, timeout)
    try:
        result = publish_now(task, args, kwargs, timeout=call.left(), **call.options(options))
    except (BrokerUnavailableError, QueueFullError) as error:
        fallback = call.fallback_after(error)
    else:
        try:
            return result.get(call.left(), interval=FIRST_LOOK)
        except (AnswerTimeoutError, CeleryTimeoutError):
            fallback = call.fallback_after(AnswerTimeoutError(result.id, call.timeout))
        finally:
            task.app.replies.forget(result.id, result._answer)
    if inspect.iscoroutinefunction(inspect.unwrap(fallback)):
        return asyncio.run(fallback(*args, **kwargs))
    return fallback(*args, **kwargs)


class _Call:
    """One call that wants its answer until a moment: how long it may still take, and who answers then."""

    def __init__(self, task: LiapTask, timeout: float | None) -> None:
        if isinstance(task.app.backend, DisabledBackend):
            raise ConfigurationError("result_backend", "disabled", "a backend that can answer, such as rpc://")
        self.task = task
        self.timeout = timeout if timeout is not None else float(task.soft_time_limit or PUBLISH_SECONDS)
        if self.timeout <= 0:
            raise ValueError(f"timeout must be seconds above 0, not {timeout!r}")
        waits = self.timeout
        if task.fallback is not None:
            waits -= reserved_for_fallback(waits) / 2  # after the worker's own fallback, which needs its way back
        self._end = time.monotonic() + waits

    def left(self) -> float:
        """Return the seconds that may still be waited."""
        return max(0.0, self._end - time.monotonic())

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the publish."""
        return {"answer_within": self.timeout, **given, "ignore_result": False}

    def fallback_after(self, error: Exception) -> Callable[..., Any]:
        """Return the task's fallback; without one raise the error."""
        if self.task.fallback is None:
            raise error
        logger.warning("a call of task %s is answered by its fallback: %s", self.task.name, error)
        return self.task.fallback
