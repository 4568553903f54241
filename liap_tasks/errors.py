"""What can go wrong in this package.

    LiapError
     +- AnswerTimeoutError(task_id, timeout)      also a builtin TimeoutError
     +- AttemptAbortedError(raised)               it ended with SystemExit or another that is no Exception
     +- ConfigurationError(variable, value, allowed)
     +- CoroutineCancelledError(name)             its own code cancelled it
     +- DeadLetterEditError(letter_id, reason)    a stored dead letter cannot be changed like that
     +- DeadLetterError        a dead letter could not be put in its place
     +- DeadLetterImportError(line, reason)       a line of an export cannot be read
     +- DuplicateTaskError(task, key, holder)     another call of a unique task has this key
     +- EmbeddedWorkerError    the worker inside this process did not start or stop
     +- LetterInUseError(letter_id, state)        a stored dead letter is being sent, or waits no more
     +- LetterNotFoundError(letter_id)            also a LookupError
     +- RoutingError(router, key, nearest)       also a LookupError
     +- ScheduleError          delayed calls cannot be moved on this broker, or nobody here knows of them
     +- StoreVersionError(version, known)         the dead-letter store is newer than this package
     +- UniqueStoreError(store, reason)           the locks of unique tasks cannot be reached

``liap_tasks.DeadLetter`` is not an error but a verdict, see :mod:`liap_tasks.policies.dead_letter`. What the broker
refuses (``QueueFullError``, ``InvalidArgumentError``, ``BrokerUnavailableError``) comes from ``transports``
unchanged.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AnswerTimeoutError",
    "AttemptAbortedError",
    "ConfigurationError",
    "CoroutineCancelledError",
    "DeadLetterEditError",
    "DeadLetterError",
    "DeadLetterImportError",
    "DuplicateTaskError",
    "EmbeddedWorkerError",
    "LetterInUseError",
    "LetterNotFoundError",
    "LiapError",
    "RoutingError",
    "ScheduleError",
    "StoreVersionError",
    "UniqueStoreError",
]


class LiapError(Exception):
    """Base of the errors of liap_tasks."""


class AnswerTimeoutError(LiapError, TimeoutError):
    """A call was not answered in time; it may have been done all the same. Attributes: ``task_id``, ``timeout`` (s)."""

    def __init__(self, task_id: str, timeout: float) -> None:
        super().__init__(task_id, timeout)
        self.task_id = task_id
        self.timeout = timeout

    def __str__(self) -> str:
        return f"call {self.task_id} was not answered within {self.timeout:g} s; is a worker consuming its queue?"


class AttemptAbortedError(LiapError):
    """An attempt ended with what is no ``Exception``: SystemExit, GeneratorExit, CancelledError. Attribute: ``raised``.

    raised: its representation. Why not that error itself: Celery would take it for the end of the worker.
    """

    def __init__(self, raised: str) -> None:
        super().__init__(raised)
        self.raised = raised

    def __str__(self) -> str:
        return f"the attempt ended with {self.raised}"


class ConfigurationError(LiapError):
    """A setting has a value that is not allowed. Attributes: ``variable``, ``value``, ``allowed`` (in words)."""

    def __init__(self, variable: str, value: Any, allowed: str) -> None:
        super().__init__(variable, value, allowed)
        self.variable = variable
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.variable}={self.value!r} is not allowed; allowed: {self.allowed}"


class CoroutineCancelledError(LiapError):
    """An ``async def`` task ended with ``CancelledError`` although nobody outside cancelled it. Attribute: ``name``.

    Why not that error itself: it is no ``Exception``, and Celery would take it for the loss of the worker.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name} was cancelled from inside: it, or something it awaited, called cancel()"


class DeadLetterError(LiapError):
    """A dead letter could not be published; its message goes back to its queue."""


class DeadLetterEditError(LiapError):
    """A stored dead letter cannot be changed like that. Attributes: ``letter_id``, ``reason`` (in words)."""

    def __init__(self, letter_id: str, reason: str) -> None:
        super().__init__(letter_id, reason)
        self.letter_id = letter_id
        self.reason = reason

    def __str__(self) -> str:
        return f"dead letter {self.letter_id} is not changed: {self.reason}"


class DeadLetterImportError(LiapError):
    """A line of an export cannot be read. Attributes: ``line`` (its number, from 1), ``reason`` (in words)."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line = line
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"line {self.line} is no dead letter: {self.reason}. The lines before it are imported; correct it and "
            "import the file again"
        )


class DuplicateTaskError(LiapError):
    """Another call of a unique task has the same key, so this one was not published.

    Attributes: ``task`` (its name), ``key``, ``holder`` (the other call's task id).
    """

    def __init__(self, task: str, key: str, holder: str) -> None:
        super().__init__(task, key, holder)
        self.task = task
        self.key = key
        self.holder = holder

    def __str__(self) -> str:
        return f"task {self.task} is unique, and call {self.holder} of the same key {self.key!r} is not over yet"


class EmbeddedWorkerError(LiapError):
    """The embedded worker cannot start, or did not start or stop in time; the text says which, and why."""


class LetterInUseError(LiapError):
    """A stored dead letter cannot be changed. Attributes: ``letter_id``, ``state``."""

    def __init__(self, letter_id: str, state: str) -> None:
        super().__init__(letter_id, state)
        self.letter_id = letter_id
        self.state = state

    def __str__(self) -> str:
        return f"dead letter {self.letter_id} ({self.state}) is being sent or waits no more; look at it again"


class LetterNotFoundError(LiapError, LookupError):
    """The store has no such dead letter. Attribute: ``letter_id``."""

    def __init__(self, letter_id: str) -> None:
        super().__init__(letter_id)
        self.letter_id = letter_id

    def __str__(self) -> str:
        return f"there is no dead letter {self.letter_id!r} in the store; list them to see which there are"


class ScheduleError(LiapError):
    """Delayed calls cannot be moved here, or not even be known; the text says why and what to do instead."""


class RoutingError(LiapError, LookupError):
    """No route matches. Attributes: ``router`` name, ``key``, ``nearest`` (patterns that come close, best first)."""

    def __init__(self, router: str, key: str, nearest: tuple[str, ...] = ()) -> None:
        super().__init__(router, key, nearest)
        self.router = router
        self.key = key
        self.nearest = nearest

    def __str__(self) -> str:
        near = f"; nearest: {', '.join(self.nearest)}" if self.nearest else ""
        return (
            f"router {self.router!r} has no route for {self.key!r}{near}; register one, or give it an alternate queue"
        )


class StoreVersionError(LiapError):
    """The tables of the dead-letter store are newer than this package. Attributes: ``version``, ``known``."""

    def __init__(self, version: int, known: int) -> None:
        super().__init__(version, known)
        self.version = version
        self.known = known

    def __str__(self) -> str:
        return (
            f"the dead-letter store has tables of version {self.version}, this liap-tasks knows {self.known}: "
            "install the liap-tasks that wrote it, or a newer one"
        )


class UniqueStoreError(LiapError):
    """The locks of unique tasks cannot be reached. Attributes: ``store`` (its URL), ``reason`` (in words)."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.store = store
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the locks of unique tasks at {self.store} cannot be reached: {self.reason}; start it or check "
            "UNIQUE_STORE_URL. No call is made without its lock, unless its task says fail_open"
        )
