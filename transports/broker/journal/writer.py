"""The file that is written to, and what of it is on the disk.

One commit is one ``writev``. What the system has taken survives the end of this process, but not that of the machine:
that is what :meth:`JournalWriter.sync` is for, which may run in another thread while commits go on.

After an error the file is cut back to where the last good block ended. A failed sync cannot be repaired by another one
(the system may have dropped what it could not write), so it ends the journal; and so does a file that was removed.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from transports.broker.journal.blocks import block_head, pack_header
from transports.broker.journal.directory import JournalDirectory, sync_directory
from transports.broker.journal.errors import JournalError

__all__ = ["JournalWriter", "Segment"]

logger = logging.getLogger("transports.broker")


@dataclass(slots=True)
class Segment:
    """A file of the journal. size: bytes. entered: messages written to it, entered_bytes: what they take."""

    number: int
    size: int
    entered: int = 0
    entered_bytes: int = 0


@dataclass(slots=True, eq=False)
class _File:
    path: Path
    descriptor: int
    sealed: bool = False  # nothing more is written to it


class JournalWriter:
    """Appends blocks to the newest file of a journal.

    commits: blocks written. written: bytes. broken: why nothing can be written any more.
    """

    def __init__(self, directory: JournalDirectory, salt: bytes) -> None:
        self.segment: Segment
        self.commits = 0
        self.written = 0
        self.broken: JournalError | None = None
        self._directory = directory
        self._salt = salt
        self._files: list[_File] = []  # not known to be on the disk; the last one is written to
        self._torn = False
        self._syncing = threading.Lock()

    def begin(self, number: int, snapshot: bytes) -> None:
        """Begin a new file, whose first block is ``snapshot``. Raises JournalError; then the old one goes on."""
        path = self._directory.file(number)
        header = pack_header(number, self._salt)
        head = block_head(snapshot, self._salt)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError.of("cannot create", path, error) from error
        try:
            _write(descriptor, header + head, snapshot)
            sync_directory(self._directory.path)
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise JournalError.of("cannot write to", path, error) from error
        if self._files:
            self._files[-1].sealed = True
        self._files.append(_File(path, descriptor))
        self.segment = Segment(number, len(header) + len(head) + len(snapshot))
        self.written += self.segment.size

    def append(self, payload: bytes) -> None:
        """Write one block. Raises JournalError; then the file is as it was before."""
        if self.broken is not None:
            raise self.broken
        file = self._files[-1]
        if self._torn:
            self._cut(file)
        head = block_head(payload, self._salt)
        if not os.fstat(file.descriptor).st_nlink:  # it can be written to, and nobody will ever read it
            self.broken = JournalError(f"{file.path} was removed", file.path, errno.ENOENT)
            raise self.broken
        try:
            _write(file.descriptor, head, payload)
        except OSError as error:
            self._torn = True
            failure = JournalError.of("cannot write to", file.path, error)
            try:
                self._cut(file)
            except JournalError:
                logger.exception("the next commit tries again")
            raise failure from error
        self.segment.size += len(head) + len(payload)
        self.written += len(head) + len(payload)
        self.commits += 1

    def _cut(self, file: _File) -> None:
        try:
            os.ftruncate(file.descriptor, self.segment.size)
        except OSError as error:
            raise JournalError.of("cannot cut what was half written off", file.path, error) from error
        self._torn = False

    def sync(self, *, sealed_only: bool = False) -> int:
        """Write to the disk what commits have written; return how many commits are there now.

        sealed_only: leave out the file that is written to (then the number means nothing).
        Thread-safe. Raises JournalError, and from then on every append does.
        """
        with self._syncing:
            commits = self.commits
            for file, sealed in [(file, file.sealed) for file in list(self._files)]:
                if sealed_only and not sealed:
                    continue
                try:
                    os.fdatasync(file.descriptor)
                except OSError as error:
                    self.broken = JournalError.of("cannot write to the disk:", file.path, error)
                    raise self.broken from error
                if sealed:
                    os.close(file.descriptor)
                    self._files.remove(file)
            return commits

    def close(self) -> None:
        """Close the files."""
        with self._syncing:
            for file in self._files:
                os.close(file.descriptor)
            self._files.clear()


def _write(descriptor: int, head: bytes, payload: bytes) -> None:
    """Write both, in one call where the system takes that much."""
    written = os.writev(descriptor, (head, payload))
    if written == len(head) + len(payload):
        return
    rest = memoryview(head + payload)[written:]
    while rest:
        rest = rest[os.write(descriptor, rest) :]
