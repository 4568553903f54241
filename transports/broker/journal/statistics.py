"""The numbers of a journal."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["JournalStatistics"]


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalStatistics:
    """One reading of a journal; counters count from the start of the process."""

    files: int
    """Files that hold something, or are being removed."""
    bytes: int
    """What they take on the disk."""
    live_messages: int
    """Messages that would be there after a restart."""
    live_bytes: int
    """About what these take."""
    commits: int
    """Writes."""
    written_bytes: int
    """Bytes written, copies included."""
    copied_bytes: int
    """Bytes of messages copied forward so that old files could go."""
    recovered_messages: int
    """Messages that were there at the start."""
    recovery_seconds: float
    """How long reading and restoring them took."""

    def as_dict(self) -> dict[str, float]:
        """Return the same as a plain dictionary, for JSON."""
        return asdict(self)
