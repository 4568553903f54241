"""Until when a call is worth answering.

A deadline is an absolute moment in POSIX seconds, so that it means the same in every process it travels to; clocks of
different machines must agree as well as the deadlines are to be exact. It caps how long the message may wait, how long
an attempt may take, and whether there is time for another one.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from liap_tasks.policies.durations import Duration, in_seconds

__all__ = ["Moment", "deadline_from", "reserved_for_fallback", "seconds_until"]

Moment = float | int | datetime

FALLBACK_SECONDS = 0.05
"""Kept for a fallback before the deadline."""


def deadline_from(*, deadline: Moment | None, answer_within: Duration | None, now: float) -> float | None:
    """Return the moment in POSIX seconds that a caller asks for, None when it asks for none.

    deadline: POSIX seconds or a datetime (UTC unless it says otherwise). answer_within: seconds from ``now``, above 0.
    Raises ValueError for both at once, or for a value that is no moment or no time.
    """
    if answer_within is not None:
        if deadline is not None:
            raise ValueError("give either deadline or answer_within, not both")
        return now + in_seconds("answer_within", answer_within, above_zero=True)
    if deadline is None:
        return None
    if isinstance(deadline, datetime):
        return (deadline if deadline.tzinfo else deadline.replace(tzinfo=UTC)).timestamp()
    if not isinstance(deadline, int | float) or isinstance(deadline, bool) or not math.isfinite(deadline):
        raise ValueError(f"deadline must be POSIX seconds or a datetime, not {deadline!r}")
    return float(deadline)


def reserved_for_fallback(left: float) -> float:
    """Return the part of the ``left`` seconds that is kept for a fallback: 50 ms, at most a quarter.

    Worked example: 1 s left -> 0.05 s; 0.1 s left -> 0.025 s.
    """
    return max(0.0, min(FALLBACK_SECONDS, left / 4))


def seconds_until(eta: datetime | str, now: datetime) -> float:
    """Return the seconds from ``now`` (with a time zone) to ``eta``: a datetime, UTC unless it says otherwise, or one
    in ISO 8601.
    """
    when = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds()
