"""What stands in a block: records of fixed shape, and what they are called.

    ENTERED      a message in a queue: place, times, flags, then meta, content and body as they are
    READY        a delayed message has become ready: its place and times
    RESCHEDULED  another due time
    PURGED       everything in a queue up to a name is gone, but for those named
    DEFINED      an exchange, queue or binding is there or gone (a packed table, see definitions.py)
    SNAPSHOT     all definitions that hold from here on
    CHANGES      one word for each message that was delivered, came back or is gone
    SEEN         the deduplication ids that a queue knows from the files before this one, and until when

The *name* of a stored message is ``number of the file << 32 | 8 * how many-th in it``. It says where the message is
written, grows with time, and leaves three bits for what happened: CHANGES is an array of ``name | change``.

Times are POSIX seconds; a queue is named by the number that its definition gives it.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

__all__ = [
    "AGAIN",
    "CHANGES",
    "CHANGES_HEAD",
    "DEFINED",
    "DELAYED",
    "DELIVERED",
    "ENTERED",
    "ENTERED_HEAD",
    "LEFT",
    "NAME_MASK",
    "NAME_STEP",
    "PURGED",
    "PURGED_HEAD",
    "READY",
    "READY_RECORD",
    "REDELIVERED",
    "RESCHEDULED",
    "RESCHEDULED_RECORD",
    "RETURNED",
    "SAME",
    "SEEN",
    "SEGMENT_SHIFT",
    "SNAPSHOT",
    "STRANDED",
    "TABLE_HEAD",
    "TIMED",
    "UNDELIVERED",
]

# The type of a record: its first byte.
ENTERED, READY, RESCHEDULED, PURGED, DEFINED, SNAPSHOT, CHANGES, SEEN = range(1, 9)

# Flags of ENTERED and READY.
TIMED: Final = 1  # the time is that of expiry
DELAYED: Final = 2  # the time is when the delay has passed
REDELIVERED: Final = 4
SAME: Final = 8  # the message of the ENTERED before this one in the block; meta, content and body are left out
STRANDED: Final = 16  # a dead letter without a place
AGAIN: Final = 32  # it was entered before: its time says nothing about deduplication

# What CHANGES says of a message.
LEFT: Final = 1
DELIVERED: Final = 2
UNDELIVERED: Final = 3
RETURNED: Final = 4

SEGMENT_SHIFT: Final = 32
NAME_STEP: Final = 8
NAME_MASK: Final = ~7

# type, flags, queue, name, place, ready since (or entered), time, returns, bytes of meta, content and body
ENTERED_HEAD = Struct("<BBIQqddIIII")
# type, flags, name, place, ready since, time
READY_RECORD = Struct("<BBQqdd")
# type, name, time
RESCHEDULED_RECORD = Struct("<BQd")
# type, queue, last name, how many names follow
PURGED_HEAD = Struct("<BIQI")
# type, bytes of the table
TABLE_HEAD = Struct("<BI")
# type, how many
CHANGES_HEAD = Struct("<BI")
