"""Change the call of a dead letter before it is replayed, and keep who did it, when, and what it was before."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING, Any

from celery.utils.saferepr import saferepr

from liap_tasks.dead_letter_store.call import Call, CallChange, call_of
from liap_tasks.dead_letter_store.letter import Letter
from liap_tasks.errors import DeadLetterEditError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["edit", "who_is_here"]


def edit(app: LiapApp, letter_id: str, change: CallChange, *, who: str | None = None) -> Letter:
    """Change the arguments of a letter's call and return the letter as it is now.

    who: for the audit trail, default user@host. Where the task is registered here, the new call must be one that it
    takes. Raises DeadLetterEditError when the letter is no task call in JSON, or the new call is none.
    """
    store = app.dead_letter_store
    letter = store.get(letter_id)
    call = call_of(letter.body)
    if call is None:
        raise DeadLetterEditError(letter_id, "its body is no task call in JSON")
    try:
        changed = change.applied_to(call)
    except ValueError as error:
        raise DeadLetterEditError(letter_id, str(error)) from error
    _check(app, letter, changed)
    changes: dict[str, Any] = {"body": changed.as_body()}
    if "argsrepr" in letter.headers:  # what logs and monitors will show of the call
        width: int = app.amqp.argsrepr_maxsize
        shown = {"argsrepr": saferepr(tuple(changed.args), width), "kwargsrepr": saferepr(changed.kwargs, width)}
        changes["headers"] = {**letter.headers, **shown}
    return store.edit(letter_id, who=who or who_is_here(), changes=changes)


def who_is_here() -> str:
    """Return user@host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name (OSError since Python 3.13)
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _check(app: LiapApp, letter: Letter, call: Call) -> None:
    """Raise DeadLetterEditError if the task is known here and does not take the call."""
    task: Any = app.tasks.get(letter.task or "")
    if task is None or not task.typing:
        return
    try:
        task.__header__(*call.args, **call.kwargs)
    except TypeError as error:
        raise DeadLetterEditError(letter.id, f"{letter.task} does not take that: {error}") from error
