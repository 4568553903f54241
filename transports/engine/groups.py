"""Order per group: the messages of one group leave one after the other, each when the one before it is settled.

A store around another store. The inner one (FIFO, or by priority) holds what may be delivered: messages without a
group, and of each group the head, while nothing of the group is in flight. The other members wait in the group's line,
in the order of their publish, and take no part in priority: the head speaks for its group with its own priority.

A retry is another message, published before the one it continues is acknowledged. With the header
``x-group-continues: true`` it goes to the front of its group, and while it is delayed it holds the group back, so that
nothing overtakes it. Any other delayed message joins its group when it becomes ready.

Why a line per group and not a filter over one list: push, pop and settle stay O(1) (O(log n) for a head that steps up
past others), whatever the number of groups; a group that has nothing in the queue costs nothing. Three rare operations
look at more: a message that displaces a head which nobody has taken yet, a bound that drops while every message waits
for its group (both O(n)), and the age of the oldest message (O(groups)).
"""

from __future__ import annotations

from collections.abc import Iterator

from transports.engine.message import Entry, Message
from transports.engine.ready import FifoStore, PriorityStore

__all__ = ["CONTINUES_HEADER", "GROUP_HEADER", "GroupStore", "Line"]

GROUP_HEADER = "x-group-id"
CONTINUES_HEADER = "x-group-continues"


def group_of(message: Message) -> str | None:
    """Return the group of a message, None for one that is in no group."""
    group = message.header(GROUP_HEADER)
    return None if group is None else str(group)


def continues(message: Message) -> bool:
    """Tell whether a message takes the place of one of its group that is about to be settled."""
    return message.header(CONTINUES_HEADER) is True


class Line:
    """One group: its head in the inner store, or what holds it back, and who waits.

    holder: the member in a channel's hands. delayed: continuations whose delay has not passed.
    """

    __slots__ = ("delayed", "group", "head", "holder", "waiting")

    def __init__(self, group: str) -> None:
        self.group = group
        self.head: Entry | None = None
        self.holder: Entry | None = None
        self.delayed = 0
        self.waiting: FifoStore | None = None  # most groups never have two members at once

    @property
    def blocked(self) -> bool:
        """Whether a member in flight, or a continuation to come, holds the group back."""
        return self.holder is not None or self.delayed > 0

    def next_waiting(self) -> Entry | None:
        """Return the first of those who wait."""
        return None if self.waiting is None else self.waiting.oldest()

    def first(self) -> Entry | None:
        """Return the member that came first, in flight or not."""
        members = [one for one in (self.holder, self.head, self.next_waiting()) if one is not None]
        return min(members, default=None)


class GroupStore:
    """Ready entries of which those of one group leave one at a time. ``waiting``: how many of ``live`` may not yet."""

    __slots__ = ("highest", "inner", "lines", "live", "waiting")

    def __init__(self, inner: FifoStore | PriorityStore, highest: int = 0) -> None:
        self.inner = inner
        self.highest = highest
        self.lines: dict[str, Line] = {}
        self.live = 0
        self.waiting = 0

    # -- coming in ---------------------------------------------------------------------------------------------

    def push(self, entry: Entry) -> None:
        """Add an entry at the end of its group, or at its front if it continues one."""
        self.live += 1
        group = group_of(entry.message)
        if group is None:
            self.inner.push(entry)
            return
        line = entry.line
        if line is None:
            line = entry.line = self._line(group)
        else:  # it was held back
            line.delayed -= 1
        if continues(entry.message):
            first = line.first()
            if first is not None:
                entry.seq = first.seq - 1
                entry.since = min(entry.since, first.since)
            self._stand(line, entry)
        else:
            self._line_up(line, entry)

    def _line_up(self, line: Line, entry: Entry) -> None:
        """Let an entry stand at the end of its line."""
        if line.head is None and not line.blocked:
            line.head = entry
            self.inner.push(entry)
        else:
            self._wait(line).push(entry)

    def reinstate(self, entry: Entry) -> None:
        """Add an entry that stood here before a restart; they come in the order of their numbers.

        A continuation among them has the number of the place that it took then.
        """
        self.live += 1
        group = group_of(entry.message)
        if group is None:
            self.inner.push(entry)
            return
        line = entry.line = self._line(group)
        self._line_up(line, entry)

    def restore(self, entry: Entry) -> None:
        """Put back an entry that has left, in its old place; its group is no longer in flight."""
        self.live += 1
        line = entry.line
        if line is not None:
            line.holder = None
        else:  # it was settled at delivery, and its group has gone on
            group = group_of(entry.message)
            if group is None:
                self.inner.restore(entry)
                return
            line = entry.line = self._line(group)
        self._stand(line, entry)

    def hold_back(self, entry: Entry) -> None:
        """Keep the group of a delayed continuation from going on; :meth:`push` or :meth:`release` ends it."""
        group = group_of(entry.message)
        if group is None or not continues(entry.message):
            return
        line = entry.line = self._line(group)
        line.delayed += 1
        self._step_back(line)

    def _line(self, group: str) -> Line:
        line = self.lines.get(group)
        if line is None:
            line = self.lines[group] = Line(group)
        return line

    def _wait(self, line: Line) -> FifoStore:
        self.waiting += 1
        if line.waiting is None:
            line.waiting = FifoStore()
        return line.waiting

    def _stand(self, line: Line, entry: Entry) -> None:
        """Let an entry stand in its line by its number, which need not be the last."""
        if line.head is not None and entry < line.head:
            self._step_back(line)
        self._wait(line).restore(entry)
        self._step_up(line)

    def _step_back(self, line: Line) -> None:
        head = line.head
        if head is not None:
            self.inner.remove(head)
            line.head = None
            self._wait(line).restore(head)

    def _step_up(self, line: Line) -> None:
        """Let the next of a group be delivered if nothing holds it back; forget a group that has nobody left."""
        if line.head is not None or line.blocked:
            return
        entry = None if line.waiting is None else line.waiting.pop()
        if entry is None:
            del self.lines[line.group]
            return
        self.waiting -= 1
        line.head = entry
        self.inner.restore(entry)

    # -- going out ---------------------------------------------------------------------------------------------

    def pop(self) -> Entry | None:
        """Remove and return the entry that is next; its group waits until it is restored or released."""
        entry = self.inner.pop()
        if entry is None:
            return None
        self.live -= 1
        line = entry.line
        if line is not None:
            line.head = None
            line.holder = entry
        return entry

    def release(self, entry: Entry) -> None:
        """Let the group of an entry go on: it was settled, or its delay cancelled."""
        line = entry.line
        if line is None:
            return
        entry.line = None
        if line.holder is entry:
            line.holder = None
        else:
            line.delayed -= 1
        self._step_up(line)

    def drop_head(self) -> Entry | None:
        """Remove for good what would be delivered next; of those who all wait for their groups, the oldest."""
        return self._drop(self.inner.pop() if self.inner.live else self._pop_waiting(by_priority=False))

    def drop_lowest(self) -> Entry | None:
        """Remove for good the oldest of the lowest priority; those who wait count only when there are no others."""
        return self._drop(self.inner.drop_lowest() if self.inner.live else self._pop_waiting(by_priority=True))

    def _pop_waiting(self, *, by_priority: bool) -> Entry | None:
        if by_priority:
            waiting = [entry for line in self.lines.values() for entry in line.waiting or ()]
        else:
            waiting = [entry for line in self.lines.values() if (entry := line.next_waiting()) is not None]
        if not waiting:
            return None
        highest = self.highest if by_priority else 0
        entry = min(waiting, key=lambda one: (min(one.message.priority, highest), one.seq))
        if entry.line is None or entry.line.waiting is None:
            raise AssertionError("an entry waits in no line")
        self.waiting -= 1
        entry.line.waiting.remove(entry)
        return entry

    def _drop(self, entry: Entry | None) -> Entry | None:
        if entry is not None:
            self.live -= 1
            self._leave_line(entry)
        return entry

    def forget(self, entry: Entry) -> None:
        """Account for an entry that was marked as no longer ready while it stood in the store."""
        self.live -= 1
        line = entry.line
        if line is None or line.head is entry:
            self.inner.forget(entry)
        elif line.waiting is not None:
            line.waiting.forget(entry)
            self.waiting -= 1
        self._leave_line(entry)

    def _leave_line(self, entry: Entry) -> None:
        line = entry.line
        if line is None:
            return
        entry.line = None
        if line.head is entry:
            line.head = None
        self._step_up(line)

    # -- looking in --------------------------------------------------------------------------------------------

    def oldest(self) -> Entry | None:
        """Return the entry that has waited longest, without removing it."""
        candidates = [self.inner.oldest(), *(line.next_waiting() for line in self.lines.values())]
        return min((one for one in candidates if one is not None), key=lambda one: (one.since, one.seq), default=None)

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over what may be delivered in that order, then over what waits for its group, oldest first."""
        yield from self.inner
        yield from sorted(entry for line in list(self.lines.values()) for entry in line.waiting or ())
