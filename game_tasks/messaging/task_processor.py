"""Background tasks by name: functions that are registered, and run by a Celery worker inside this process.

A task type is an ordinary Celery task, with retries, timeout and dead letters; ``app`` is the processor's Celery app.

Why one queue for all types of a processor: an urgent task overtakes those of every type. So processors that share a
queue must know the same types, as the workers of any task queue, or they make dead letters (``no_handler``) of each
other's tasks; those that nobody has named do not share one in this program.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any, Self

from liap_tasks import DeliveryOptions, EmbeddedWorker, LiapTask, MessagePriority, Settings, create_app, load_settings
from liap_tasks.policies.durations import Duration

__all__ = ["GameTaskProcessor"]

USUAL_NAME = "game_task_processor"

# Names are to differ in the whole program, as those of threads; each processor has an app of its own.
_naming = threading.Lock()
_named: weakref.WeakValueDictionary[tuple[str, str], EmbeddedWorker] = weakref.WeakValueDictionary()


class GameTaskProcessor:
    """Runs registered functions in the background.

    max_workers: tasks at once, at least 1, default MAX_CONCURRENT_HANDLERS. name: of its queue, and the prefix of its
    tasks' names; default is "game_task_processor", numbered where this program has several at once on one broker.
    Processors of one name and broker share the work, in however many programs: they need handlers of the same types,
    and programs with others a name of their own. settings: default is the environment's; without MESSAGE_QUEUE_URL the
    broker is this process's own. Raises ValueError for another number.
    """

    def __init__(
        self, max_workers: int | None = None, *, name: str | None = None, settings: Settings | None = None
    ) -> None:
        settings = settings or load_settings()
        settings = settings.model_copy(update={"message_queue_url": settings.local_broker_url})
        limit = settings.max_concurrent_handlers if max_workers is None else max_workers
        with _naming:
            self.name = name or _free_name(settings.local_broker_url)
            self.app = create_app(settings, main=self.name, set_as_current=False)
            self._worker = EmbeddedWorker(self.app, concurrency=limit, queues=[self.name], pool="asyncio")
            _named[settings.local_broker_url, self.name] = self._worker
        self._tasks: dict[str, LiapTask] = {}

    def register_task_handler(self, task_type: str, handler: Callable[[Any], Any], **options: Any) -> LiapTask:
        """Have tasks of a type done by a function, plain or async, that gets the task's data; return the Celery task.

        An async one runs in the worker's event loop, which is not that of the program; a plain one in a thread.
        options: of ``app.task``: retry_policy, timeout and the others. Also possible while the processor runs.
        Raises ValueError for a type that has a handler already.
        """
        if task_type in self._tasks:
            raise ValueError(f"tasks of type {task_type!r} have a handler already: give these a type of their own")
        make: Any = self.app.task(name=f"{self.name}.{task_type}", shared=False, **options)
        task: LiapTask = make(_as_function(handler))
        self._tasks[task_type] = task
        return task

    async def start(self) -> None:
        """Start the worker, and return when it takes tasks. Raises EmbeddedWorkerError when it does not start."""
        await asyncio.to_thread(self._worker.start)

    async def submit_task(
        self,
        task_type: str,
        data: Any,
        priority: MessagePriority | int | None = None,
        delay: Duration | None = None,
    ) -> str:
        """Have a task done and return its id; the broker keeps it until it is, also while the processor is stopped.

        delay: seconds (or a timedelta) before it is begun. Raises LookupError for a type that nobody has registered,
        QueueFullError, BrokerUnavailableError.
        """
        task = self._tasks.get(task_type)
        if task is None:
            known = ", ".join(self._tasks) or "none"
            raise LookupError(f"no handler is registered for tasks of type {task_type!r}; registered: {known}")
        options = DeliveryOptions(priority=priority, delay=delay)
        result = await task.aapply_async((data,), queue=self.name, delivery=options)
        return str(result.id)

    async def stop(self) -> None:
        """Let running tasks end and stop the worker; tasks that have not begun stay in the queue.

        It can be started again. Raises EmbeddedWorkerError when a task does not end in time.
        """
        await asyncio.to_thread(self._worker.stop)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _free_name(url: str) -> str:
    """Return the first usual name that no processor of this program has on the broker of ``url``."""
    name, number = USUAL_NAME, 1
    while (url, name) in _named:
        number += 1
        name = f"{USUAL_NAME}-{number}"
    return name


def _as_function(handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that does what a method, a lambda or another callable does.

    Celery looks at a task's parameters, and writes a function of its name (celery 5.7, ``head_from_fun``).
    """
    if inspect.isfunction(handler) and handler.__name__.isidentifier():
        return handler
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004

        async def run_coroutine(data: Any) -> Any:
            return await handler(data)

        return run_coroutine

    def run(data: Any) -> Any:
        return handler(data)

    return run
