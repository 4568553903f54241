"""Batch tasks: one call of a function for many messages, each with its own outcome.

::

    @app.task(base=BatchTask, batch_size=100, batch_timeout=5)
    def store(items: list[BatchItem]) -> None:
        for item in items:
            if not known(item.payload):
                item.dead_letter("validation_failed", "no such game")
        insert([item.payload for item in items if item.undecided])

Calls are made as of any task (``store.delay(event)``), each is a message of its own. The worker collects them
(:mod:`liap_tasks.worker.batch_collector`) and runs the function with the list. What an item is told counts for it; an
item that was told nothing is done when the function returns, and fails with the error that the function raises: its own
policies say whether it is retried or a dead letter. Instead the function may return a list with a result for each
item.

How each item ends: its outcome goes through Celery's own tracer, so that results, callbacks, chains, events, signals,
retries and dead letters are those of any task, one by one, and are safe before its message is acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from celery import current_app
from celery._state import _task_stack  # type: ignore[attr-defined]  # not in the stubs
from celery.app import trace
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel, ValidationError

from liap_tasks.attempt import run_attempt
from liap_tasks.coroutines.running import in_prefork_child, run_coroutine
from liap_tasks.ending import ends_more_than_attempt
from liap_tasks.giving_up import may_end
from liap_tasks.limits import time_left
from liap_tasks.metadata import MessageMetadata
from liap_tasks.policies import DeadLetter, DeadLetterReason
from liap_tasks.settings import settings_of
from liap_tasks.task import LiapTask
from liap_tasks.time_source import virtual_clock_of
from liap_tasks.timeouts import interrupt_after

__all__ = ["BatchItem", "BatchTask", "run_batch"]

BatchKey = str | Callable[[tuple[Any, ...], Mapping[str, Any]], object] | None
Call = tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any]]
"""One message for the pool: id, args, kwargs, and what Celery's tracer is told of its request."""


class BatchItem:
    """One message of a batch.

    args, kwargs: the call. payload: the one positional argument if there is just one, as a model if the task has an
    ``item_model``; else None. id, headers, metadata: of the message. attempt: from 1.
    """

    def __init__(
        self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], request: Mapping[str, Any]
    ) -> None:
        self.id = task_id
        self.args = tuple(args)
        self.kwargs = kwargs
        self.payload: Any = args[0] if len(args) == 1 else None
        self.headers: Mapping[str, Any] = request.get("headers") or {}
        self.attempt = int(request.get("retries") or 0) + 1
        self._outcome: Callable[[BatchTask], Any] | None = None

    @property
    def metadata(self) -> MessageMetadata:
        """The metadata of the message."""
        return MessageMetadata.from_headers(self.headers)

    @property
    def undecided(self) -> bool:
        """Whether the item has been told nothing yet."""
        return self._outcome is None

    def done(self, result: Any = None) -> None:
        """End the item with a result, for who asked for one."""
        self._outcome = lambda _: result

    def retry(self, delay: float | None = None) -> None:
        """Let the item come again in ``delay`` seconds; default: what the task's retry policy says."""
        self._outcome = lambda task: task.retry(countdown=delay)

    def fail(self, error: BaseException) -> None:
        """End the item with an error: the task's policies say what becomes of it."""

        def raise_error(_: BatchTask) -> Any:
            raise error

        self._outcome = raise_error

    def dead_letter(self, reason: DeadLetterReason | str = DeadLetterReason.MANUAL, detail: str = "") -> None:
        """Put the item among the dead letters."""
        self.fail(DeadLetter(reason, detail))

    def settle(self, task: BatchTask) -> Any:
        """Return the item's result, or raise what ends it."""
        if self._outcome is None:
            raise RuntimeError("the batch has ended without an outcome for this item")
        return self._outcome(task)


class BatchTask(LiapTask):
    """A task whose function gets a list of :class:`BatchItem`; plain or ``async def``.

    batch_size: messages that make a batch full, >= 1; None: BATCH_SIZE. batch_timeout: seconds after which one is run
    that is not full, counted from its first message; None: BATCH_TIMEOUT_SECONDS. batch_key: messages of different keys
    are never in one batch; the name of a keyword (or of a field of the one argument), or a function of (args,
    kwargs). item_model: a pydantic model for the one argument of each call; a call that does not fit is a dead letter
    (``validation_failed``), the others go on. The time limit is for the whole batch, max_concurrent is of batches. The
    default settings of other attributes are those of LiapTask.

    A call with a deadline waits for its batch during at most half of the time that it has. If the deadline has passed
    when the batch begins the call is ``expired``, or its fallback answers. A batch that has begun is not ended for the
    deadline of one of its calls: what it answers later is still the answer.
    """

    abstract = True
    typing = False  # the function's signature is not that of the calls

    batch_size: int | None = None
    batch_timeout: float | None = None
    batch_key: BatchKey = None
    item_model: type[BaseModel] | None = None

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Take what was not given from the settings (called when the task joins its app)."""
        super().on_bound(app)
        if cls.unique is not None:
            raise ValueError(f"{cls.name} is a batch task: its calls run together, so they cannot be unique")
        settings = settings_of(app)
        size = settings.batch_size if cls.batch_size is None else cls.batch_size
        timeout = settings.batch_timeout_seconds if cls.batch_timeout is None else cls.batch_timeout
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"batch_size of {cls.name} must be a whole number of at least 1, not {size!r}")
        if not timeout > 0:
            raise ValueError(f"batch_timeout of {cls.name} must be seconds above 0, not {timeout!r}")
        cls.batch_size, cls.batch_timeout = size, float(timeout)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Settle one item of a batch that has run; called directly, just call the function."""
        request: Any = self.request
        if request.called_directly:
            return self.run(*args, **kwargs)
        item: BatchItem | None = getattr(request, "liap_batch_item", None)
        if item is None:  # eager: a batch of one
            item = BatchItem(request.id, args, kwargs, {"headers": request.headers, "retries": request.retries})
            self.process([item])
        return run_attempt(self, args, kwargs, item.settle)

    @classmethod
    def key_of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """Return the key of a call; calls of one key make a batch. A name is looked for in a mapping argument, too."""
        key = vars(cls).get("batch_key")
        if isinstance(key, str):
            given = args[0] if len(args) == 1 and isinstance(args[0], Mapping) else {}
            return kwargs.get(key, given.get(key))
        return None if key is None else key(args, kwargs)

    def process(self, items: list[BatchItem]) -> None:
        """Run the function over the items; afterwards each has an outcome."""
        fitting = [item for item in items if self._in_time(item) and self._fits(item)]
        if not fitting:
            return
        try:
            returned = self._run_in_time(fitting)
            if returned is not None:
                self._take_results(fitting, returned)
        except BaseException as error:
            if ends_more_than_attempt(error):
                raise
            for item in fitting:  # it is each item's error
                if item.undecided:
                    item.fail(error)
        for item in fitting:
            if item.undecided:
                item.done()

    def _in_time(self, item: BatchItem) -> bool:
        left = time_left(self, item.headers)
        if left is None or left > 0:
            return True
        item.dead_letter(DeadLetterReason.EXPIRED, "its deadline passed before its batch could begin")
        return False

    def _fits(self, item: BatchItem) -> bool:
        if self.item_model is None:
            return True
        try:
            (given,) = item.args
            item.payload = self.item_model.model_validate(given)
        except (ValidationError, ValueError) as error:
            detail = f"the argument is no {self.item_model.__name__}: {error}"
            item.dead_letter(DeadLetterReason.VALIDATION_FAILED, detail)
            return False
        except Exception as error:  # noqa: BLE001 - a model's own verdict, or whatever else it raises
            item.fail(error)
            return False
        return True

    def _run_in_time(self, items: list[BatchItem]) -> Any:
        limit: float | None = None if in_prefork_child() else self.soft_time_limit
        guard: AbstractContextManager[Any] = nullcontext()
        if limit and not self.is_coroutine:
            guard = interrupt_after(limit, SoftTimeLimitExceeded, virtual_clock_of(self.app))
        with guard:
            returned = self.run(items)
        return run_coroutine(self, returned, limit) if isinstance(returned, Awaitable) else returned

    def _take_results(self, items: list[BatchItem], results: Any) -> None:
        if not isinstance(results, Sequence) or isinstance(results, str) or len(results) != len(items):
            given = f"{len(results)} results" if isinstance(results, Sequence) else repr(results)
            raise TypeError(f"{self.name} must return None or a result for each of its {len(items)} items, not {given}")
        for item, result in zip(items, results, strict=True):
            if item.undecided:
                item.done(result)


def run_batch(name: str, batch_id: str, calls: Sequence[Call], app: Any = None) -> list[tuple[bool, Any, float]]:
    """Run a batch where tasks are run (thread, process, loop), and return what Celery's tracer says of each call.

    That is what the request of each call is told: (failed, result or error, seconds). app: whose task it is; default,
    for another process: the current one.
    """
    if app is None:
        here: Any = current_app
        app = here._get_current_object()
    task: BatchTask = app.tasks[name]
    items = [BatchItem(task_id, args, kwargs, request) for task_id, args, kwargs, request in calls]
    began = time.monotonic()
    _task_stack.push(task)
    task.request_stack.push(Context(id=batch_id, task=name, called_directly=False, is_eager=False))
    try:
        task.process(items)
    finally:
        task.request_stack.pop()
        _task_stack.pop()
    if not may_end():
        return []
    share = (time.monotonic() - began) / len(items)
    ended: list[tuple[bool, Any, float]] = []
    for item, (task_id, args, kwargs, request) in zip(items, calls, strict=True):
        told = {**request, "args": list(args), "kwargs": kwargs, "is_eager": False, "liap_batch_item": item}
        traced: Any = trace.trace_task(task, task_id, args, kwargs, told, app=app)
        outcome, info, seconds, shown = traced
        ended.append((True, outcome, seconds) if info else (False, shown, share + seconds))
    return ended
