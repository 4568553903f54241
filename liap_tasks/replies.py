"""Answers to calls: one thread receives them for all threads and event loops of the process.

With ``rpc://`` Celery's ``AsyncResult.get`` blocks its thread, looks at the clock once a second, and only the thread
that published receives the reply. Here calls share one reply queue; a thread consumes it and hands each answer to the
future that waits for it.

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

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["Replies"]

logger = get_logger("liap_tasks.replies")

LOOK_SECONDS = 1.0
IDLE_SECONDS = 30.0
RECONNECT_SECONDS = 0.5

Meta = Mapping[str, Any]


class Replies:
    """The reply queue of one process and those who wait for answers.

    The thread that consumes it starts with the first call, and ends when nobody has waited for half a minute.
    """

    def __init__(self, app: LiapApp) -> None:
        self.oid = str(uuid4())
        self._app = app
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Future[Meta]]] = {}
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
            if self._thread is None:
                self._thread = threading.Thread(target=self._receive, name="liap-replies", daemon=True)
                self._thread.start()
        return future

    def share(self, task_id: str) -> Future[Meta] | None:
        """Return a future for a call that another caller of this process has made, None if nobody here expects it."""
        with self._lock:
            if task_id not in self._waiting:
                return None
        return self.expect(task_id)

    def forget(self, task_id: str, future: Future[Meta] | None) -> None:
        """Expect an answer by this future no longer."""
        with self._lock:
            futures = [other for other in self._waiting.pop(task_id, ()) if other is not future]
            if futures:
                self._waiting[task_id] = futures

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
        return (*transport.connection_errors, *transport.channel_errors, OSError)

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
        payload = message.payload
        if payload.get("status") not in states.READY_STATES:
            return
        with self._lock:
            futures = self._waiting.pop(payload["task_id"], ())
        for future in futures:
            if future.set_running_or_notify_cancel():
                backend: Any = self._app.backend
                future.set_result(backend.meta_from_decoded(payload))
