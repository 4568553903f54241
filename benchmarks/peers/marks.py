"""How a task in another process says that it ran: a byte in a file for each, or its start time in a pipe."""

from __future__ import annotations

import os
import struct
from time import monotonic

__all__ = ["COUNTED", "STAMPED", "mark", "stamp"]

COUNTED = "LIAP_BENCH_COUNTED"  # a file that grows by one byte a task
STAMPED = "LIAP_BENCH_STAMPED"  # a named pipe that gets the clock's reading (8 bytes) from each

_open: dict[str, int] = {}


def _file(variable: str) -> int:
    # Opened in the process that runs the task: a prefork child opens its own.
    key = f"{variable} {os.getpid()}"
    if key not in _open:
        _open[key] = os.open(os.environ[variable], os.O_WRONLY | os.O_APPEND)
    return _open[key]


def mark() -> None:
    """Count one task."""
    os.write(_file(COUNTED), b".")


def stamp() -> None:
    """Tell when this task started (the monotonic clock is the machine's, the same in every process)."""
    os.write(_file(STAMPED), struct.pack("d", monotonic()))
