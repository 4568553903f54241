"""Send dead letters back to their queues: one or many, oldest first, at a pace, and stop when it does no good.

A letter is claimed for a while (a lease), published, and marked replayed when the broker has it. So two replays at
once never send one letter twice, and nothing is lost: what was claimed and not sent is given back, or comes free by
itself when its lease ends. The one window is between the broker's confirmation and the mark: a process that is killed
there leaves up to one batch of letters that are sent again after the lease. A letter's replay has always the same
``x-deduplication-id``, so a queue with a deduplication window drops the second.

Why claims and marks go by the batch: a transaction each would cost more than the publishing. A batch is at most
:data:`BATCH` letters and half a second long, which is also how much such a kill can repeat.

Why only letters from before the start are replayed: one that dies again is a new letter, and a replay that took it
again would never end.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery.utils.log import get_logger

from liap_tasks import dead_letters
from liap_tasks.dead_letter_store.letter import Letter, LetterFilter, LetterState
from liap_tasks.dead_letter_store.pace import Pace
from liap_tasks.dead_letter_store.sending import send
from liap_tasks.dead_letter_store.stop_rule import StopRule
from liap_tasks.dead_letter_store.target import make_ready
from transports import QueueFullError

if TYPE_CHECKING:
    from liap_tasks.application import LiapApp

__all__ = ["BATCH", "LEASE", "ReplayReport", "replay"]

logger = get_logger("liap_tasks.dead_letter_store.replay")

BATCH = 500
BATCH_SECONDS = 0.5
LEASE = 60.0
LOOK_SECONDS = 0.5
AGAIN = (
    "%d letters of replay %s were sent but could not be marked so: after %g s another replay will send them again; "
    "queues with a deduplication window drop those"
)
WAITING = (LetterState.DEAD, LetterState.SCHEDULED)


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """What a replay did, or with ``dry_run`` what it would do.

    replay_id: names this run. matched: letters that were chosen when it began. replayed: letters that the broker has
    confirmed. skipped: letters that cannot be sent, by id, with the error; they wait as before. by_task, by_queue
    (where they were sent), by_reason: how many of each were replayed. came_back: replayed letters that are dead again
    of the same error, by error, as far as it was known when the replay ended. stopped: why it ended before all were
    replayed, or what is wrong with those that were; None if all is well.
    """

    replay_id: str
    dry_run: bool = False
    matched: int = 0
    replayed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    by_task: dict[str, int] = field(default_factory=dict)
    by_queue: dict[str, int] = field(default_factory=dict)
    by_reason: dict[str, int] = field(default_factory=dict)
    came_back: dict[str, int] = field(default_factory=dict)
    stopped: str | None = None


def replay(
    app: LiapApp,
    where: LetterFilter | None = None,
    *,
    rate: float = 500.0,
    dry_run: bool = False,
    queue: str | None = None,
    limit: int | None = None,
    stop_rule: StopRule | None = None,
    wait: float = 0.0,
    stop: threading.Event | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReplayReport:
    """Send the letters that ``where`` chooses (default: all) back to their queues, oldest first.

    rate: letters a second, 0 without limit. dry_run: tell what would be sent and change nothing. queue: send all of
    them there instead. limit: at most so many. stop_rule: when to give up (default: more than half come back).
    wait: seconds to wait at the end for letters that come back. stop: ends the replay when set, from another thread
    or a signal handler. progress: called with how many of how many are sent.

    A full queue ends the replay without an error, and a letter that cannot be sent is skipped: the report says so.
    Raises what store and broker raise when they are away; what was sent until then is marked, the rest is given back.
    """
    run = _Run(app, where or LetterFilter(), queue=queue, limit=limit, rule=stop_rule or StopRule(), stop=stop)
    pace, advance = Pace(rate, sleep=run.stop.wait), progress or (lambda done, total: None)
    return run.preview(advance) if dry_run else run.go(pace, wait, advance)


class _Run:
    """One replay: what it has done so far, and the steps of it."""

    def __init__(
        self,
        app: LiapApp,
        where: LetterFilter,
        *,
        queue: str | None,
        limit: int | None,
        rule: StopRule,
        stop: threading.Event | None,
    ) -> None:
        self.app = app
        self.store = app.dead_letter_store
        self.id = uuid4().hex
        self.claimant = f"{socket.gethostname()}/{os.getpid()}/{self.id[:8]}"
        self.where = _waiting(where, self.store.clock())
        self.queue = queue
        self.rule = rule
        self.stop = stop or threading.Event()
        self._ready: set[str] = set()
        matched = self.store.count(self.where) if self.where.states else 0
        self.matched = matched if limit is None else min(matched, limit)
        self.replayed = 0
        self.skipped: dict[str, str] = {}
        self.counts: dict[str, Counter[str]] = {"task": Counter(), "queue": Counter(), "reason": Counter()}
        self.came_back: dict[str, int] = {}
        self.stopped: str | None = None
        self._look_at = time.monotonic() + LOOK_SECONDS

    def go(self, pace: Pace, wait: float, progress: Callable[[int, int], None]) -> ReplayReport:
        """Send them all, or until something stops it."""
        try:
            with self.app.producer_or_acquire() as producer:
                self._send_all(producer, pace, progress)
        finally:
            if self.skipped:  # claimed until now, or they would be chosen again
                self.store.release(list(self.skipped), claimant=self.claimant)
        self.look(wait)
        return self.report()

    def _send_all(self, producer: Any, pace: Pace, progress: Callable[[int, int], None]) -> None:
        while self.stopped is None and (left := self.matched - self.replayed - len(self.skipped)) > 0:
            pace.wait()  # for the first of a batch, before it is claimed: a slow pace outlasts any lease
            if self.stop.is_set():
                self.stopped = "interrupted"
                break
            most = min(left, pace.steps_in(BATCH_SECONDS, BATCH))
            letters = self.store.claim(self.where, claimant=self.claimant, lease=LEASE, limit=most)
            if not letters:
                break  # the others were taken by somebody else meanwhile
            self.send(letters, producer, pace)
            progress(self.replayed + len(self.skipped), self.matched)
            if time.monotonic() >= self._look_at:
                self.look()

    def send(self, letters: Sequence[Letter], producer: Any, pace: Pace) -> None:
        """Send a claimed batch; what was sent is marked, what was not is given back, however this ends."""
        fresh_until = time.monotonic() + LEASE / 2
        sent: list[str] = []
        try:
            for number, letter in enumerate(letters):
                if number:
                    pace.wait()
                if self.stop.is_set():
                    self.stopped = "interrupted"
                    return
                if time.monotonic() > fresh_until:  # the machine slept, or the broker took very long
                    return
                self._make_ready(self.queue or letter.queue)
                try:
                    send(self.app, producer, letter, queue=self.queue)
                except dead_letters.UNSENDABLE as error:
                    logger.warning("dead letter %s cannot be sent: %r", letter.id, error)
                    self.skipped[letter.id] = repr(error)
                else:
                    sent.append(letter.id)
                    self._count(letter)
        except QueueFullError as full:
            self.stopped = (
                f"queue {full.queue!r} is full (bound {full.max_length}); start workers and replay again with a lower "
                "--rate: what was not sent is still there"
            )
        finally:
            try:
                if sent:
                    self._mark(sent)
            finally:
                settled = {*sent, *self.skipped}
                if unsent := [letter.id for letter in letters if letter.id not in settled]:
                    self.store.release(unsent, claimant=self.claimant)

    def _mark(self, sent: list[str]) -> None:
        try:
            marked = self.store.mark_replayed(sent, claimant=self.claimant, replay_id=self.id)
        except Exception:
            logger.critical(AGAIN, len(sent), self.id, LEASE)
            raise
        self.replayed += len(sent)
        if marked < len(sent):
            logger.warning(AGAIN, len(sent) - marked, self.id, LEASE)

    def look(self, wait: float = 0.0) -> None:
        """See what came back, for up to ``wait`` seconds, and whether that ends the replay."""
        until = time.monotonic() + wait
        while True:
            began = time.monotonic()
            self.came_back = self.store.came_back(self.id)
            error = self.rule.broken_by(self.replayed, self.came_back)
            if error is not None and self.stopped is None:
                self.stopped = (
                    f"{error} came back for {self.came_back[error]} of {self.replayed} replayed letters, more than "
                    f"{self.rule.percent:g} %: its cause is not mended"
                )
            now = time.monotonic()
            self._look_at = now + max(LOOK_SECONDS, 10 * (now - began))  # of a long replay it is a long query
            left = until - now
            if self.stopped or self.stop.is_set() or left <= 0 or sum(self.came_back.values()) >= self.replayed:
                return
            self.stop.wait(min(left, LOOK_SECONDS))

    def preview(self, progress: Callable[[int, int], None]) -> ReplayReport:
        """Count what would be sent."""
        left, after = self.matched, None
        while left > 0 and (letters := self.store.list(self.where, limit=min(left, BATCH), after=after)):
            for letter in letters:
                self._count(letter)
            left -= len(letters)
            after = letters[-1].id
            progress(self.matched - left, self.matched)
        return self.report(dry_run=True)

    def report(self, *, dry_run: bool = False) -> ReplayReport:
        """Return what was done."""
        return ReplayReport(
            replay_id=self.id,
            dry_run=dry_run,
            matched=self.matched,
            replayed=self.replayed,
            skipped=dict(self.skipped),
            by_task=dict(self.counts["task"]),
            by_queue=dict(self.counts["queue"]),
            by_reason=dict(self.counts["reason"]),
            came_back=dict(self.came_back),
            stopped=self.stopped,
        )

    def _make_ready(self, queue: str) -> None:
        if queue not in self._ready:
            make_ready(self.app, queue, asked_for=self.queue is not None)
            self._ready.add(queue)

    def _count(self, letter: Letter) -> None:
        self.counts["task"][letter.task or "-"] += 1
        self.counts["queue"][self.queue or letter.queue] += 1
        self.counts["reason"][letter.reason] += 1


def _waiting(where: LetterFilter, now: float) -> LetterFilter:
    """Return the filter for those of its letters that wait for a replay: not replayed or purged, not newer than now."""
    before = now if where.died_before is None else min(where.died_before, now)
    return replace(
        where, states=tuple(state for state in where.states or WAITING if state in WAITING), died_before=before
    )
