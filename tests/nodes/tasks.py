"""Tasks of the workers of these tests; a worker gets a copy of this module's source."""

from __future__ import annotations

import os
from typing import NoReturn

from celery import shared_task


@shared_task
def shout(text: str) -> str:
    return text.upper()


@shared_task
def fails() -> NoReturn:
    raise LookupError("nothing here")


@shared_task
def worker_pid() -> int:
    """The process that runs the task: a child of the worker."""
    return os.getpid()
