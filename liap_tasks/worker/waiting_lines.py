"""``max_concurrent``: how many tasks of one type a worker runs at once, on every pool.

A request over its type's limit waits in the worker, unacknowledged, before it is given to the pool, and begins when one
of its kind ends. So it holds no thread, process or slot of the pool; it is among the reserved tasks of
``celery inspect``, can be revoked, and goes back to its queue when the worker stops.

Why in the worker and not in the attempt: there a waiting task would occupy what it waits for, and in the prefork pool
each process would count for itself. The limit is per worker; several workers each have their own.

Why it widens the prefetch: waiting requests fill the window in which the broker delivers, and then tasks of other types
behind them would starve. Each adds one to the window while it waits (as Celery does for an ETA), up to ``WIDENED_MAX``
in all. Beyond that they do hold up what is behind them in the same queue: give a type that piles up a queue of its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from celery.worker.state import active_requests

__all__ = ["WaitingLines"]

WIDENED_MAX = 1000

Request = Any  # celery.worker.request.Request has no types


class WaitingLines:
    """Begins requests as their types' limits allow.

    begin: gives a request to the pool. widen: called with the change of the prefetch window, +1 or -1.
    """

    def __init__(self, begin: Callable[[Request], Any], widen: Callable[[int], Any]) -> None:
        self._begin = begin
        self._widen = widen
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._widened = 0

    def admit(self, request: Request) -> Any:
        """Begin a request, or let it wait in its line."""
        limit = getattr(request.task, "max_concurrent", None)
        if not limit:
            return self._begin(request)
        with self._lock:
            line = self._lines.setdefault(request.task.name, _Line())
            line.limit = limit
            line.waiting.append(request)
            waits = len(line.waiting) + len(line.running) > limit
            if waits and self._widened < WIDENED_MAX:
                line.widened.add(request)
                self._widened += 1
            else:
                waits = False
        if waits:
            self._widen(1)
        return self._advance(line)

    def forget_waiting(self) -> None:
        """Drop what waits and what will never end: the connection is lost or closing, the broker gives it to others."""
        with self._lock:
            for line in self._lines.values():
                line.waiting.clear()
                line.widened.clear()
                line.running = {request for request in line.running if request in active_requests}
            self._widened = 0

    def _advance(self, line: _Line) -> None:
        """Begin what there is room for.

        One caller at a time does it, and sees what the others have changed. So a task that ends inside of another's
        beginning (the solo pool) adds no call on top of it, however long the line.
        """
        with self._lock:
            if line.advancing:
                return
            line.advancing = True
        while True:
            with self._lock:
                if not line.waiting or len(line.running) >= line.limit:
                    line.advancing = False
                    return
                request = line.waiting.popleft()
                line.running.add(request)
                narrows = request in line.widened
                if narrows:
                    line.widened.discard(request)
                    self._widened -= 1
            if narrows:
                self._widen(-1)
            self._begin_counted(line, request)

    def _begin_counted(self, line: _Line, request: Request) -> None:
        """Begin a request, and advance the line when the pool reports its end or it turns out to be revoked.

        Its own methods are replaced, because Celery's request class (``create_request_cls``) calls no hook of ours.
        """

        def ended() -> None:
            with self._lock:
                for name in _REPORTS:
                    request.__dict__.pop(name, None)
                if request not in line.running:
                    return
                line.running.discard(request)
            self._advance(line)

        def then_ended(report: Callable[..., Any]) -> Callable[..., Any]:
            def reported(*args: Any, **options: Any) -> Any:
                try:
                    return report(*args, **options)
                finally:
                    ended()

            return reported

        def unless_soft(report: Callable[..., Any]) -> Callable[..., Any]:
            final = then_ended(report)
            return lambda soft, timeout: (report if soft else final)(soft, timeout)

        execute = request.execute_using_pool

        def execute_or_end(*args: Any, **options: Any) -> Any:
            try:
                return execute(*args, **options)
            except BaseException:  # revoked, or the pool refuses it
                ended()
                raise

        request.on_success = then_ended(request.on_success)
        request.on_failure = then_ended(request.on_failure)
        request.on_timeout = unless_soft(request.on_timeout)
        request.execute_using_pool = execute_or_end
        try:
            self._begin(request)
        except BaseException:
            with self._lock:
                line.running.discard(request)
                line.advancing = False
            raise


_REPORTS = ("on_success", "on_failure", "on_timeout", "execute_using_pool")


class _Line:
    """The requests of one task type. advancing: some caller begins them right now."""

    __slots__ = ("advancing", "limit", "running", "waiting", "widened")

    def __init__(self) -> None:
        self.limit = 0
        self.waiting: deque[Request] = deque()
        self.running: set[Request] = set()
        self.widened: set[Request] = set()
        self.advancing = False
