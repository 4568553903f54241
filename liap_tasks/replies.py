"""Answers to calls: one thread receives them for all threads and event loops of the process.

With ``rpc://`` Celery's ``AsyncResult.get`` blocks its thread, looks at the clock once a second, and only the thread
that published receives the reply. Here calls share one reply queue; a thread consumes it and hands each answer to the
future that waits for it.

A call that finds the key of a unique task taken shares the answer of the call that has it. That one may end between the
two looks, at the lock and at who waits here; so what is answered while such a call is published is kept until it knows
whose answer it shares (:meth:`Replies.overhear`).

Why the publishing threads take on the name of the reply queue (:meth:`Replies.name_thread`): Celery puts the name of
the publishing thread into a message as the place of its reply, and makes sure that the queue is there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import states
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["Replies"]

logger = get_logger("liap_tasks.replies")

LOOK_SECONDS = 1.0
IDLE_SECONDS = 30.0
RECONNECT_SECONDS = 0.5
ABANDONED_MAX = 10_000

Meta = Mapping[str, Any]


class Replies:
    """The reply queue of one process and those who wait for answers.

    The thread that consumes it starts with the first call (or by :meth:`listen`), and ends when nobody has waited for
    half a minute.
    """

    def __init__(self, app: LiapApp) -> None:
        self.oid = str(uuid4())
        self._app = app
        self._process = os.getpid()
        self._lock = threading.RLock()  # the garbage collector may forget a call in the middle of all this
        self._waiting: dict[str, list[Future[Meta]]] = {}
        self._abandoned: dict[str, None] = {}  # answered here, but those who waited have gone; oldest first
        self._answers = 0
        self._overheard: dict[str, tuple[int, dict[str, Any]]] = {}  # by task id: its number, itself; oldest first
        self._overhearing: dict[Overhearing, int] = {}  # since which answer; oldest first
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def usable(self) -> bool:
        """Whether this belongs to the running process: a forked child needs one of its own."""
        return self._process == os.getpid() and not self._closed

    def expect(self, task_id: str) -> Future[Meta]:
        """Return a future for the final state of a task that will be published after this, or is expected already.

        Its value is the result's meta data: a mapping with ``status``, ``result``, ``traceback``.
        """
        future: Future[Meta] = Future()
        with self._lock:
            self._waiting.setdefault(task_id, []).append(future)
            self._listen()
        return future

    def listen(self) -> None:
        """Start the thread, which else the first call waits for."""
        with self._lock:
            self._listen()

    def _listen(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._receive, name="liap-replies", daemon=True)
            self._thread.start()

    def overhear(self) -> Overhearing:
        """Keep the answers that arrive from now on for :meth:`share`, until what is returned is over."""
        overhearing = Overhearing(self)
        with self._lock:
            self._overhearing[overhearing] = self._answers
        return overhearing

    def overheard_enough(self, overhearing: Overhearing) -> None:
        """Keep no answer on account of this any more."""
        with self._lock:
            self._overhearing.pop(overhearing, None)
            since = next(iter(self._overhearing.values()), self._answers)
            while self._overheard:
                task_id, (number, _) = next(iter(self._overheard.items()))
                if number > since:
                    break
                self._overheard.pop(task_id, None)

    def share(self, task_id: str) -> Future[Meta] | None:
        """Return a future for a call that another caller of this process has made, None if it is not answered here."""
        with self._lock:
            _, answer = self._overheard.get(task_id, (0, None))
            if answer is None:
                made_here = task_id in self._waiting or task_id in self._abandoned
                return self.expect(task_id) if made_here else None
        future: Future[Meta] = Future()
        self._answer(future, answer)
        return future

    def forget(self, task_id: str, future: Future[Meta] | None) -> None:
        """Expect an answer by this future no longer."""
        if not self.usable:
            return  # a forked child drops its copy of a handle: the lock may be held by a thread that it has not
        with self._lock:
            waiting = self._waiting.pop(task_id, None)
            if waiting is None:
                return
            futures = [other for other in waiting if other is not future]
            if futures:
                self._waiting[task_id] = futures
                return
            self._abandoned[task_id] = None
            if len(self._abandoned) > ABANDONED_MAX:
                self._abandoned.pop(next(iter(self._abandoned)), None)

    def withdraw(self, task_id: str) -> None:
        """Expect no answer for a call that has not been published after all."""
        with self._lock:
            self._waiting.pop(task_id, None)

    def name_thread(self) -> None:
        """Let what this thread publishes be answered to the reply queue."""
        app: Any = self._app
        app._local.oid = self.oid

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let what this thread publishes meanwhile be answered to the reply queue."""
        local: Any = self._app._local  # type: ignore[attr-defined]  # not in the stubs
        before = getattr(local, "oid", None)
        local.oid = self.oid
        try:
            yield
        finally:
            if before is None:
                del local.oid
            else:
                local.oid = before

    def close(self) -> None:
        """End the thread at its next look."""
        self._closed = True

    def _receive(self) -> None:
        """Consume the reply queue until idle or closed, connecting again whenever the connection is lost."""
        self.name_thread()
        complained = False
        while True:
            try:
                with self._app.connection_for_read() as connection:
                    connection.ensure_connection(max_retries=1)
                    complained = False
                    if self._drain(connection):
                        return
            except self._connection_errors() as error:
                if not complained:
                    logger.warning("answers cannot be received, trying again: %r", error)
                complained = True
                if self._ends(time.monotonic()):
                    return
                time.sleep(RECONNECT_SECONDS)

    def _connection_errors(self) -> tuple[type[BaseException], ...]:
        transport: Any = self._app.connection_for_read()
        return (*transport.connection_errors, *transport.channel_errors, OSError, OperationalError)

    def _drain(self, connection: Any) -> bool:
        backend: Any = self._app.backend
        last_waited = time.monotonic()
        with connection.Consumer(backend.binding, on_message=self._take, no_ack=True, accept=backend.accept):
            while True:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=LOOK_SECONDS)
                if self._waiting:
                    last_waited = time.monotonic()
                if self._ends(last_waited):
                    return True

    def _ends(self, last_waited: float) -> bool:
        with self._lock:
            idle = not self._waiting and time.monotonic() - last_waited > IDLE_SECONDS
            if idle or self._closed:
                self._thread = None
                return True
            return False

    def _take(self, message: Any) -> None:
        try:
            payload = message.payload
            if payload.get("status") not in states.READY_STATES:
                return
            task_id = payload["task_id"]
        except Exception as error:  # noqa: BLE001 - whatever a body can do; the others wait for their answers
            self._fail(message.properties.get("correlation_id"), error)
            return
        with self._lock:
            self._abandoned.pop(task_id, None)
            futures = self._waiting.pop(task_id, ())
            if self._overhearing:
                self._answers += 1
                self._overheard[task_id] = (self._answers, payload)
        for future in futures:
            self._answer(future, payload)

    def _fail(self, task_id: Any, error: Exception) -> None:
        """Tell who waits for an answer that it cannot be read: of a serializer that is not accepted here, say."""
        logger.error("what came as the answer to call %s cannot be read: %r", task_id, error)
        with self._lock:
            futures = self._waiting.pop(task_id, ())
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _answer(self, future: Future[Meta], payload: dict[str, Any]) -> None:
        if future.set_running_or_notify_cancel():
            backend: Any = self._app.backend
            future.set_result(backend.meta_from_decoded(dict(payload)))


class Overhearing:
    """The time in which a call is published that may come to share another's answer."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies

    def end(self) -> None:
        """It is known whose answer is waited for. May be called more than once."""
        self._replies.overheard_enough(self)
