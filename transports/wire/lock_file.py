"""A file that one process at a time holds, by the system's word (flock), until it gives it up or ends, however it ends.

The holder writes into it who it is. That is for people, and for those who look for it; whether anybody holds the file
only the system knows.

Why a hold is given up and not only closed: it belongs to the open file, which a child that was forked meanwhile shares
(see :mod:`transports.wire.inherited`).
"""

from __future__ import annotations

import fcntl
import os
from typing import NamedTuple

from transports.wire.inherited import close_in_children

__all__ = ["Holder", "LockFile", "name_socket", "read_holder"]

MOST_READ = 4096


class Holder(NamedTuple):
    """Who signed a lock file: the process, and the socket on which it serves, if it has said so."""

    pid: int | None
    socket: str | None


class LockFile:
    """A lock file that is open, and held once :meth:`take` has said so."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file, made (0600) where it is missing; raises OSError, also for a link."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._held = False
        close_in_children(self)

    def take(self) -> bool:
        """Take the hold, without waiting; tell whether it is ours now."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._held = True
        return True

    @property
    def in_place(self) -> bool:
        """Whether its path still leads to the file that is open, so that others would find it held."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except OSError:
            return False

    def sign(self) -> None:
        """Write into the held file that this process holds it."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def holder(self) -> Holder:
        """Return what the signature says."""
        return _parsed(os.pread(self._file, MOST_READ, 0))

    def release(self) -> None:
        """Give the hold up, if it is ours, the signature with it, and close the file."""
        if self._held:
            os.ftruncate(self._file, 0)
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self.close_copy()

    def close_copy(self) -> None:
        """Close the file and leave the hold to the process that has it."""
        file, self._file, self._held = self._file, -1, False
        if file >= 0:
            os.close(file)


def read_holder(path: str) -> Holder:
    """Return what the signature of a file says, whether anybody holds it or not."""
    try:
        with open(path, "rb") as file:
            return _parsed(file.read(MOST_READ))
    except OSError:
        return Holder(None, None)


def name_socket(path: str, socket: str) -> None:
    """Add to the signature of a file that this process holds on which socket it serves."""
    with open(path, "ab") as file:
        file.write(os.fsencode(socket) + b"\n")


def _parsed(signature: bytes) -> Holder:
    pid, _, socket = signature.strip().partition(b"\n")
    return Holder(int(pid) if pid.isdigit() else None, os.fsdecode(socket) or None)
