"""The worker-side request: a task message is decoded once, not twice.

Celery's worker decodes the body when the message arrives (it needs the arguments for logs, events and revokes) and
hands the raw bytes to the tracer, which decodes them again. Celery's own ``decoded`` flag, meant for protocol 1
messages, lets the tracer take the arguments that are there already (celery 5.7, ``celery.app.trace``). On an
in-process broker this is a fifth of what a small task costs.
"""

from __future__ import annotations

from typing import Any

from celery.app.task import Context
from celery.worker.request import Request
from celery.worker.state import task_ready

__all__ = ["LiapRequest"]


# Celery's own keys among the headers of a task message; the others are the publisher's.
_CELERY_KEYS = frozenset({*vars(Context), "lang", "task", "argsrepr", "kwargsrepr", "compression"})


class LiapRequest(Request):
    """A request whose body has been decoded on arrival."""

    _already_revoked: bool
    _already_cancelled: bool

    def __init__(self, message: Any, *, body: Any = None, decoded: bool = False, **options: Any) -> None:
        if not decoded:
            payload = message.payload  # checked against accept_content, cached by the message
            if isinstance(payload, list | tuple) and len(payload) == 3:
                body, decoded = payload, True
        super().__init__(message, body=body, decoded=decoded, **options)
        given: Any = self.request_dict
        if given.get("headers") is None:
            given["headers"] = {key: value for key, value in message.headers.items() if key not in _CELERY_KEYS} or None

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Called when an attempt ended without success.

        A revoke or a cancellation has been announced already, and its message dealt with: nothing is left to do.
        """
        if self._already_revoked or self._already_cancelled:
            task_ready(self)
            return None
        return super().on_failure(exc_info, send_failed_event, return_ok)
