"""A signal handler that is imported by a worker."""

from __future__ import annotations

from typing import Any

from celery.signals import worker_ready


@worker_ready.connect
def say_so(sender: Any, **_: Any) -> None:
    print("the signal handler heard that the worker is ready", flush=True)
