"""One clock for the task side: the app's."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from celery import Celery

import liap_tasks
from liap_tasks import create_app, load_settings
from liap_tasks.time_source import call_after, clock_of, virtual_clock_of
from transports import SystemClock, VirtualClock

ROOM = Path(liap_tasks.__file__).parent
READS_THE_MACHINE = re.compile(r"\btime\.time\(\)|datetime\.(now|utcnow)\(")
# The clock of a queue object that has no app, of a store that was given none, and of a worker's clock itself.
MAY = {"messaging/remote_link.py", "messaging/wrappers.py", "unique/sql.py", "testing/clock.py"}


def test_nobody_else_asks_the_machine_for_the_time() -> None:
    asking = {
        path.relative_to(ROOM).as_posix()
        for path in ROOM.rglob("*.py")
        if READS_THE_MACHINE.search(path.read_text(encoding="utf-8"))
    }
    assert asking <= MAY


def test_an_app_goes_by_the_clock_it_is_given() -> None:
    clock = VirtualClock(start=1_000_000_000)
    app = create_app(load_settings(message_queue_url="liap-memory:///time-source"), clock=clock, set_as_current=False)
    assert (clock_of(app), virtual_clock_of(app)) == (clock, clock)
    before = app.now()
    assert before == datetime.fromtimestamp(1_000_000_000, UTC)
    clock.advance(90)
    assert app.now() - before == timedelta(seconds=90)
    app.close()


def test_other_apps_go_by_the_machine_s() -> None:
    plain = Celery(set_as_current=False)
    assert isinstance(clock_of(plain), SystemClock)
    assert virtual_clock_of(plain) is None


def test_a_call_is_made_by_either_clock_unless_it_is_taken_back() -> None:
    made = threading.Semaphore(0)
    clock = VirtualClock()
    for either in (clock, SystemClock()):
        call_after(either, 0.01, made.release, (1,))
        call_after(either, 3600, made.release, (1,)).cancel()
    assert made.acquire(timeout=60)
    assert not made.acquire(blocking=False)
    clock.advance(7200)
    assert made.acquire(blocking=False)
    assert not made.acquire(blocking=False)
