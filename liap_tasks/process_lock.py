"""A lock that each process has for itself, around work that may take long: connecting, declaring."""

from __future__ import annotations

import os
import threading

__all__ = ["ProcessLock"]


class ProcessLock:
    """Used like ``threading.Lock``, in a ``with`` statement.

    Why: a child that is forked while a thread holds an ordinary one has a copy that nobody will ever release.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}

    def _own(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def __enter__(self) -> None:
        self._own().acquire()

    def __exit__(self, *_: object) -> None:
        self._own().release()
