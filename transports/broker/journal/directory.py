"""A journal's directory: whose it is, and what is in it."""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

from transports.broker.journal.errors import JournalError, JournalLocked

__all__ = ["JournalDirectory", "sync_directory"]

NAME = re.compile(r"(\d{10})\.log")


class JournalDirectory:
    """A directory held by this process.

    The lock is the system's (flock on the file ``lock``): it ends with the process, however it ends.
    """

    def __init__(self, path: Path) -> None:
        """Create the directory where it is missing (0700) and lock it. Raises JournalLocked, JournalError."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError.of("cannot open the journal", path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(self._lock, 20)
            os.close(self._lock)
            raise JournalLocked(path, int(pid) if pid.strip().isdigit() else 0) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def unlock(self) -> None:
        """Let another process have it."""
        os.close(self._lock)

    def file(self, number: int) -> Path:
        """Return the path of a file of the journal."""
        return self.path / f"{number:010d}.log"

    def numbers(self) -> list[int]:
        """Return the numbers of the files that are there, oldest first."""
        return sorted(int(found[1]) for one in self.path.iterdir() if (found := NAME.fullmatch(one.name)))

    def set_aside(self, number: int, good: bytes) -> Path:
        """Keep a damaged file under another name and put what is good of it in its place; return the other name."""
        path = self.file(number)
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
        os.link(path, aside)
        written = path.with_name(path.name + ".mended")
        with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(good)
            file.flush()
            os.fsync(file.fileno())
        os.replace(written, path)
        sync_directory(self.path)
        return aside


def sync_directory(path: Path) -> None:
    """Write the names in a directory to the disk."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
