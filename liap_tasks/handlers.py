"""A chain of handlers: one message, several who may do something about it, in their order.

::

    chain = HandlerChain(Audit(), Settle(), stop_on_error=False, on_error=tell_somebody)
    settle = chain.as_task(app, name="game.settle", retry_policy=...)

Each handler whose ``can_handle`` says yes gets the message (``first_only``: only the first of them). What happens to an
error is said by ``stop_on_error`` and ``on_error``; one that nobody deals with fails the task, and so is retried or
kept as a dead letter by the task's policies. On a retry the whole chain runs again: handlers must bear that. A
message that nobody can handle is a dead letter, reason ``no_handler``.

Handlers may be coroutine functions; then the chain's task is one, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from liap_tasks.metadata import MessageMetadata
from liap_tasks.policies import DeadLetter, DeadLetterReason

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp
    from liap_tasks.task import LiapTask

__all__ = ["Handler", "HandlerChain", "MessageFilter", "TaskMessage", "message_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMessage:
    """What handlers and filters see of the message that a task is processing.

    payload: the one positional argument if there is just one, else None. args, kwargs: the call. headers: the
    publisher's. metadata: ours. task, id: of the call. attempt: from 1.
    """

    payload: Any = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    metadata: MessageMetadata = field(default_factory=MessageMetadata)
    task: str = ""
    id: str = ""
    attempt: int = 1


MessageFilter = Callable[[TaskMessage], bool]
Handled = TypeVar("Handled")
HandledByOne = TypeVar("HandledByOne", contravariant=True)
"""What a handler gets: a TaskMessage in a chain that is a task, a Message in one that a program runs by itself."""


def message_of(task: LiapTask, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskMessage:
    """Return the message that ``task`` is processing."""
    request: Any = task.request
    return TaskMessage(
        payload=args[0] if len(args) == 1 else None,
        args=tuple(args),
        kwargs=kwargs,
        headers=request.headers or {},
        metadata=task.metadata,
        task=task.name,
        id=request.id or "",
        attempt=task.attempt,
    )


class Handler(Protocol[HandledByOne]):
    """One link of a chain."""

    def can_handle(self, message: HandledByOne) -> bool:
        """Tell whether this message is one for :meth:`handle`."""

    def handle(self, message: HandledByOne) -> Any:
        """Do it; may be a coroutine function. What it returns is among the chain's results."""


class HandlerChain(Generic[Handled]):
    """Handlers in their order.

    stop_on_error: the first error ends the chain; False lets the handlers after it run. first_only: only the first
    handler that can handle the message does. on_error: called with each error; True means that it is dealt with, and
    the chain goes on. Errors that are not dealt with are raised in the end, several of them as an ExceptionGroup.
    """

    def __init__(
        self,
        *handlers: Handler[Handled],
        stop_on_error: bool = True,
        first_only: bool = False,
        on_error: Callable[[Handled, Exception], bool | None] | None = None,
    ) -> None:
        self.handlers = handlers
        self.stop_on_error = stop_on_error
        self.first_only = first_only
        self.on_error = on_error

    @property
    def is_async(self) -> bool:
        """Whether a handler is a coroutine function."""
        return any(inspect.iscoroutinefunction(handler.handle) for handler in self.handlers)

    def handle(self, message: Handled) -> list[Any]:
        """Run the handlers that can handle the message and return their results, in order.

        Raises DeadLetter(no_handler) when there is none, TypeError for a chain with coroutine functions.
        """
        if self.is_async:
            raise TypeError("this chain has coroutine functions: use `await chain.ahandle(message)`")
        run = _Run(self, message)
        for handler in run.chosen():
            try:
                run.succeeded(handler.handle(message))
            except Exception as error:  # noqa: BLE001 - raised in the end, or by failed()
                run.failed(error)
        return run.results()

    async def ahandle(self, message: Handled) -> list[Any]:
        """Do what :meth:`handle` does, awaiting what is to be awaited."""
        run = _Run(self, message)
        for handler in run.chosen():
            try:
                result = handler.handle(message)
                run.succeeded(await result if isinstance(result, Awaitable) else result)
            except Exception as error:  # noqa: BLE001 - raised in the end, or by failed()
                run.failed(error)
        return run.results()

    def as_task(self: HandlerChain[TaskMessage], app: LiapApp, *, name: str, **options: Any) -> LiapTask:
        """Make a task of the chain; its result is the list of the handlers' results. options: of ``app.task``."""
        make: Any = app.task(bind=True, name=name, **options)
        if self.is_async:

            async def run_coroutines(task: LiapTask, *args: Any, **kwargs: Any) -> list[Any]:
                return await self.ahandle(message_of(task, args, kwargs))

            of_coroutines: LiapTask = make(run_coroutines)
            return of_coroutines

        def run(task: LiapTask, *args: Any, **kwargs: Any) -> list[Any]:
            return self.handle(message_of(task, args, kwargs))

        of_functions: LiapTask = make(run)
        return of_functions


class _Run(Generic[Handled]):
    """One message on its way through a chain."""

    def __init__(self, chain: HandlerChain[Handled], message: Handled) -> None:
        self._chain = chain
        self._message = message
        self._results: list[Any] = []
        self._errors: list[Exception] = []

    def chosen(self) -> list[Handler[Handled]]:
        able = [handler for handler in self._chain.handlers if handler.can_handle(self._message)]
        if not able:
            raise DeadLetter(DeadLetterReason.NO_HANDLER, "no handler of the chain can handle it")
        return able[:1] if self._chain.first_only else able

    def succeeded(self, result: Any) -> None:
        self._results.append(result)

    def failed(self, error: Exception) -> None:
        """Keep the error for the end, or raise it now."""
        if self._chain.on_error is not None and self._chain.on_error(self._message, error):
            return
        if self._chain.stop_on_error:
            raise error
        self._errors.append(error)

    def results(self) -> list[Any]:
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise ExceptionGroup("several handlers failed", self._errors)
        return self._results
