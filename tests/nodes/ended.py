"""Whether a process has ended."""

from __future__ import annotations

import threading

import psutil

__all__ = ["gone"]

DEADLINE = 60.0


def gone(pid: int) -> bool:
    """Wait until a process has ended; a zombie that nobody has collected yet has ended too."""
    waiting = threading.Event()
    for _ in range(round(DEADLINE / 0.02)):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        waiting.wait(0.02)
    return False
