"""A journal's directory: whose it is, and what is in it.

``0000000001.log`` and so on, ``lock``, and ``salt``: the eight bytes that every file has in its header, for the case
that the header of the only file is damaged, without which no block of it could be told from the rest.
"""

from __future__ import annotations

import errno
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from transports.broker.journal.errors import JournalError, JournalLocked
from transports.wire.lock_file import LockFile
from transports.wire.places import journal_lock

__all__ = ["SALT_BYTES", "JournalDirectory", "sync_directory"]

SALT_BYTES = 8
NAME = re.compile(r"(\d{10})\.log")


class JournalDirectory:
    """A directory held by this process.

    The lock is the system's (the file ``lock``): it ends with the process, however it ends.
    """

    def __init__(self, path: Path) -> None:
        """Create the directory where it is missing (0700) and lock it. Raises JournalLocked, JournalError."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = LockFile(journal_lock(path))
        except OSError as error:
            raise JournalError.of("cannot open the journal", path, error) from error
        if not self._lock.take():
            pid = self._lock.holder().pid
            self._lock.release()
            raise JournalLocked(path, pid or 0)
        self._lock.sign()

    def check(self) -> None:
        """Raise JournalError where the directory is no longer the one that was locked: removed, moved or replaced."""
        if not self._lock.in_place:
            raise JournalError(f"{self.path} is no longer the directory that was opened", self.path, errno.ESTALE)

    def unlock(self) -> None:
        """Let another process have it."""
        self._lock.release()

    def file(self, number: int) -> Path:
        """Return the path of a file of the journal."""
        return self.path / f"{number:010d}.log"

    def numbers(self) -> list[int]:
        """Return the numbers of the files that are there, oldest first."""
        return sorted(int(found[1]) for one in self.path.iterdir() if (found := NAME.fullmatch(one.name)))

    def kept_salt(self) -> bytes | None:
        """Return the salt as it was written beside the files, None where it was not."""
        try:
            salt = (self.path / "salt").read_bytes()
        except FileNotFoundError:
            return None
        return salt if len(salt) == SALT_BYTES else None

    def keep_salt(self, salt: bytes) -> None:
        """Write the salt beside the files, where it is not there yet."""
        if self.kept_salt() == salt:
            return
        with open(os.open(self.path / "salt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(salt)
            file.flush()
            os.fsync(file.fileno())

    def keep(self, number: int) -> Path:
        """Give a file to which nothing is added a second name, by which it stays; return that name."""
        path = self.file(number)
        kept = path.with_name(f"{path.name}.kept-{path.stat().st_ino}")
        with suppress(FileExistsError):  # kept before
            os.link(path, kept)
        return kept

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
