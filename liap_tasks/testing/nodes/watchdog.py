"""End the processes of a test session when that session is gone, however it went.

pytest ends its nodes itself. After a ``kill -9`` of pytest, or ``os._exit`` in a test, nobody does: then the operating
system closes the pipe to this process, which kills the process groups that it was told about and ends.

Why a process of its own, started once a session, and not a guardian around each node: a node stays a child of pytest,
which can signal it without a race and knows its exit status, and a further node costs nothing.

Usage: a script; each line of its input is ``+PID`` (watch this process group) or ``-PID`` (it has ended). It imports
the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from threading import Lock

__all__ = ["Watchdog"]


def watch(lines: Iterable[str]) -> None:
    """Read orders until the other end is closed, then kill every group that is still watched."""
    groups: set[int] = set()
    for line in lines:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


class Watchdog:
    """The session's end of the pipe. The process is started by the first group to watch."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()  # nodes end in threads of their own

    def watch(self, group: int) -> None:
        """Have a process group killed when this process is gone."""
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    # -I -S: as fast as Python starts, and nothing of the project under test in it.
                    [sys.executable, "-I", "-S", __file__],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                )
            _tell(self._process, "+", group)

    def forget(self, group: int) -> None:
        """Stop watching a group that has ended: its number may be another's soon."""
        with self._lock:
            if self._process is not None:
                _tell(self._process, "-", group)

    def close(self) -> None:
        """End the watch; groups that are still watched are killed."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def _tell(process: subprocess.Popen[bytes], order: str, group: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{order}{group}\n".encode())


if __name__ == "__main__":
    watch(sys.stdin)
