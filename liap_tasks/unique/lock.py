"""What a lock is, who gets it, and what a place that keeps locks must do.

Why tokens follow the clock (microseconds since 1970, and always above the last one of the key): rows of keys that
nobody uses any more can be forgotten, and a store that was lost begins anew, without a token ever coming again. It
still grows by the row while that is there, so a clock that is set back changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["FORGOTTEN_AFTER", "NOBODY", "Lock", "UniqueStore", "taken"]

NOBODY = ""
FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds after its end for which the token of a key is remembered."""


class Lock(NamedTuple):
    """The lock of a key.

    holder: a task id. token: 64 bits, grows. expires_at: POSIX seconds. again: it was the holder's before.
    """

    key: str
    holder: str
    token: int
    expires_at: float
    again: bool = False


def taken(known: Lock | None, key: str, holder: str, *, now: float, seconds: float) -> Lock:
    """Return the lock that is in force once ``holder`` has asked for it: its own for ``seconds``, or another's.

    known: what the store knows of the key. The holder always gets its own lock again, with a higher token.
    """
    if known is not None and known.holder not in (NOBODY, holder) and known.expires_at > now:
        return known
    last = 0 if known is None else known.token
    again = known is not None and known.holder == holder
    return Lock(key, holder, max(last + 1, int(now * 1_000_000)), now + seconds, again)


class UniqueStore(Protocol):
    """Keeps locks for all who share a broker. Each call is atomic, safe for threads and several processes.

    All raise UniqueStoreError when the locks cannot be reached.
    """

    def acquire(self, key: str, holder: str, seconds: float) -> Lock:
        """Take the lock of ``key`` for ``seconds``; return the lock in force: that of another if it is held."""

    def renew(self, key: str, holder: str, token: int | None, seconds: float) -> bool:
        """Let a lock hold for at least ``seconds`` from now; False if it is another's by now.

        token: None for the holder's, whichever it is. A lease that has ended and that nobody took is still its own.
        """

    def release(self, key: str, holder: str, token: int | None = None) -> bool:
        """Free a lock; False, and nothing done, if it is another's by now. token: as in :meth:`renew`."""

    def find(self, key: str) -> Lock | None:
        """Return the lock that is in force, None if the key is free."""

    def close(self) -> None:
        """Close connections; the store can be used again."""
