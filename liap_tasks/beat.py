"""Celery beat with this package's tasks: the schedulers of ``celery beat`` and of ``EmbeddedWorker(app, beat=True)``.

An entry of ``beat_schedule`` has as its options what ``apply_async`` of the task takes: ``priority``,
``answer_within``, ``ordering_key`` and the others. One of them has a meaning of its own here: a ``dedup_key`` (of the
options, or of the task) counts for one *turn* of the entry, so that several beats of one schedule send each turn once
and the next turn is not taken for a repetition of the last.

A turn is an interval of the schedule, counted from 1970, or a minute for a crontab and for any other schedule. Limit:
beats that were started at different moments send a turn of an interval schedule up to an interval apart; where that is
longer than DEDUP_WINDOW_SECONDS the broker has forgotten the first. A warning says so; use a crontab there.

A unique task (``unique=``) is not sent again while its last call waits or runs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from celery import beat
from celery.utils.log import get_logger

from liap_tasks.configuration import broker_feature
from liap_tasks.errors import DuplicateTaskError
from liap_tasks.keys import key_of
from liap_tasks.settings import settings_of

__all__ = ["MemoryScheduler", "PersistentScheduler", "turn_of"]

logger = get_logger("liap_tasks.beat")

OTHER_TURNS = 60.0


class PersistentScheduler(beat.PersistentScheduler):
    """Celery's scheduler of ``celery beat``, which keeps in a file when each entry was last sent."""

    app: Any

    def setup_schedule(self) -> None:
        """Read the schedule; say so if what is sent would reach nobody, or could be sent twice."""
        super().setup_schedule()
        url = self.app.conf.broker_write_url or self.app.conf.broker_url
        if broker_feature(url, "in_process"):
            logger.warning(
                "this beat sends into the memory of its own process, where no worker is: run it inside the publishing "
                "program (liap_tasks.EmbeddedWorker with beat=True), or let the processes of this user share a "
                "broker: unset MESSAGE_QUEUE_URL"
            )
        warn_of_long_turns(self)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any:
        """Send an entry's call."""
        if advance:
            entry = self.reserve(entry)
        turn, send = for_this_turn(self.app, entry), super().apply_async
        return unless_it_is_there(turn, lambda: send(turn, producer, advance=False, **options))


class MemoryScheduler(beat.Scheduler):
    """The scheduler of an embedded beat: it keeps nothing; an entry's first turn comes an interval after the start."""

    app: Any

    def setup_schedule(self) -> None:
        """Read the schedule; say so if a turn could be sent twice."""
        super().setup_schedule()
        warn_of_long_turns(self)

    def adjust(self, n: float, drift: float = 0.0) -> float:
        """Return ``n``, not a little less: Celery's wakes 10 ms early, and then asks without a pause until it is time.

        By a clock that stands still it would ask for ever (celery 5.7).
        """
        return n

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any:
        """Send an entry's call."""
        if advance:
            entry = self.reserve(entry)
        turn, send = for_this_turn(self.app, entry), super().apply_async
        return unless_it_is_there(turn, lambda: send(turn, producer, advance=False, **options))


def for_this_turn(app: Any, entry: Any) -> Any:
    """Return an entry whose deduplication key, if it has one, is that of the turn which is sent now."""
    if not _has_key(app, entry):
        return entry
    args = [argument() if isinstance(argument, beat.BeatLazyFunc) else argument for argument in entry.args or ()]
    kwargs = {
        name: argument() if isinstance(argument, beat.BeatLazyFunc) else argument
        for name, argument in (entry.kwargs or {}).items()
    }
    key = entry.options.get("dedup_key")
    if key is None:
        task = app.tasks[entry.task]
        key = key_of(task.run, task.dedup_key, tuple(args), kwargs)
    options = dict(entry.options)
    if key is not None:
        options["dedup_key"] = f"{key}@{turn_of(entry.schedule, app.now())}"
    # Not copy.copy: of an entry that takes the app from its schedule, which the original shares (celery 5.7).
    return type(entry)(**{**dict(entry), "args": args, "kwargs": kwargs, "options": options})


def unless_it_is_there(entry: Any, send: Callable[[], Any]) -> Any:
    """Send an entry's call; that of a unique task whose last call is not done yet is left out, which is no error."""
    try:
        return send()
    except beat.SchedulingError as error:
        if not isinstance(error.__context__, DuplicateTaskError):
            raise
        logger.info("entry %r is not sent this time: %s", entry.name, error.__context__)
        return None


def turn_of(schedule: Any, now: datetime) -> int:
    """Return the number of the turn that is sent ``now``: every 30 s, 1970-01-01T00:01:10 -> 2."""
    return int(now.timestamp() // _seconds_of_turn(schedule))


def warn_of_long_turns(scheduler: Any) -> None:
    """Warn of entries whose turns two beats could send further apart than the broker remembers keys."""
    window = settings_of(scheduler.app).dedup_window_seconds
    for entry in scheduler.schedule.values():
        if _seconds_of_turn(entry.schedule) > window and _has_key(scheduler.app, entry):
            logger.warning(
                "entry %r has a dedup_key and an interval above DEDUP_WINDOW_SECONDS (%g s): two beats may send a turn "
                "twice. Give it a crontab",
                entry.name,
                window,
            )


def _seconds_of_turn(schedule: Any) -> float:
    every = getattr(schedule, "run_every", None)  # of an interval schedule
    return every.total_seconds() or OTHER_TURNS if every is not None else OTHER_TURNS


def _has_key(app: Any, entry: Any) -> bool:
    task = app.tasks.get(entry.task)
    return entry.options.get("dedup_key") is not None or getattr(task, "dedup_key", None) is not None
