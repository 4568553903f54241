"""What can be wrong with a journal.

JournalError(text, path, errno)   nothing more can be written (disk full, I/O error); see FileJournal.commit
 +- JournalLocked(path, pid)      another broker has it
 +- JournalVersionError(path, version)  it was written by another version of this package
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["JournalError", "JournalLocked", "JournalVersionError"]


class JournalError(Exception):
    """A journal that cannot be used as asked. Attributes: ``path``, ``errno`` (of the system's error, or None)."""

    def __init__(self, text: str, path: Path, errno: int | None = None) -> None:
        super().__init__(text)
        self.path = path
        self.errno = errno

    @classmethod
    def of(cls, what: str, path: Path, error: OSError) -> JournalError:
        """Return the error for a call of the system that failed."""
        return cls(f"{what} {path}: {error.strerror or error}", path, error.errno)


class JournalLocked(JournalError):
    """Another process has the journal. Attributes: ``pid`` (0 where it has not said)."""

    def __init__(self, path: Path, pid: int) -> None:
        owner = f"process {pid}" if pid else "another process"
        super().__init__(
            f"the journal {path} belongs to {owner}, a broker that still runs: stop it first (kill {pid or 'PID'}), or "
            "give this broker another --journal",
            path,
        )
        self.pid = pid


class JournalVersionError(JournalError):
    """A file of another version of the format; nothing has been touched. Attributes: ``version``."""

    def __init__(self, path: Path, version: int, known: int) -> None:
        super().__init__(
            f"{path} has journal format {version}, this package reads {known}: use the version of liap-tasks that "
            "wrote it, or give this broker another --journal",
            path,
        )
        self.version = version
