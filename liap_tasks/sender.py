"""The name by which a process signs what it sends: Celery makes it anew for each message."""

from __future__ import annotations

import os

from celery.utils.nodenames import anon_nodename

__all__ = ["sender_name"]

_known = (0, "")


def sender_name() -> str:
    """Return Celery's name for a process that sends tasks (``gen1234@host``, header ``origin``)."""
    global _known
    pid, name = _known
    if pid != os.getpid():
        name = anon_nodename()
        _known = (os.getpid(), name)
    return name
